"""A small registry, built from checkpoints of a few bytes and without torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from builder.build.action import Action
from builder.build.execute import Outcome, execute
from builder.build.plan import Context, make_context, make_plan
from builder.config import Config
from builder.family import Registry
from builder.pipeline import Pipeline, Step
from builder.stage import Arrays, OnnxSource, Shape, Stage, Tensor


def scale_graph(factor: float) -> onnx.ModelProto:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["x", "factor"], ["y"])],
        "scale",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["T", 2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["T", 2])],
        [onnx.numpy_helper.from_array(np.float32(factor), "factor")],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)


def example(shape: Shape, rng: np.random.Generator) -> Arrays:
    return {"x": rng.normal(size=(shape["T"], 2)).astype(np.float32)}


def scale_stage(name: str, checkpoint: Path) -> Stage:
    def factor() -> np.float32:
        return np.float32(checkpoint.read_text())

    return Stage(
        name=name,
        family="test",
        inputs=(Tensor("x", "FP32", ("T", 2)),),
        outputs=(Tensor("y", "FP32", ("T", 2)),),
        source=OnnxSource(
            build=lambda: scale_graph(factor()),
            reference=lambda arrays: {"y": arrays["x"] * factor()},
            files=(checkpoint,),
        ),
        example=example,
        shapes=({"T": 3}, {"T": 1}),
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Stages `double` and `triple`, and the pipeline `sixfold` of both."""
    stages = {}
    for name, factor in (("double", 2), ("triple", 3)):
        checkpoint = tmp_path / f"{name}.txt"
        checkpoint.write_text(str(factor))
        stages[name] = scale_stage(name, checkpoint)

    def reference(arrays: Arrays) -> Arrays:
        product = np.prod([float((tmp_path / f"{n}.txt").read_text()) for n in stages])
        return {"output": (arrays["input"] * product).astype(np.float32)}

    pipeline = Pipeline(
        name="sixfold",
        family="test",
        inputs=(Tensor("input", "FP32", ("T", 2)),),
        outputs=(Tensor("output", "FP32", ("T", 2)),),
        steps=(
            Step("double", {"x": "input"}, {"y": "middle"}),
            Step("triple", {"x": "middle"}, {"y": "output"}),
        ),
        example=lambda rng: {"input": rng.normal(size=(4, 2)).astype(np.float32)},
        reference=reference,
    )
    return Registry(stages, {"sixfold": pipeline})


Build = Callable[..., dict[str, Outcome]]


@pytest.fixture
def build(config: Config, registry: Registry) -> Build:
    """Build, and return the outcomes by the name of the action."""

    def run(*names: str, version: int | None = None, force: bool = False) -> dict[str, Outcome]:
        context = make_context(config, registry, version)
        outcomes: dict[Action, Outcome] = execute(
            make_plan(context, names), context.digests, force=force
        )
        return {str(action): outcome for action, outcome in outcomes.items()}

    return run


@pytest.fixture
def context(config: Config, registry: Registry) -> Context:
    return make_context(config, registry)
