"""A published model or pipeline run by ONNX Runtime in this process: no server, no copies.

The same files with the same session options as the native backend uses them, so that what the
server adds can be told from what the network takes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import PipelineError
from builder.stage import Arrays

if TYPE_CHECKING:
    import onnxruntime
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_MODEL_FILE = "model.onnx"


@dataclass(frozen=True, slots=True)
class InProcessStep:
    """One ONNX model.

    Attributes:
        inputs: Tensor of the model -> tensor of the pipeline; so the outputs.
        squeezed: Inputs whose `[batch, 1]` is `[batch]` inside, as the config's `reshape` says.
        expanded: The same of outputs.
    """

    model: str
    session: "onnxruntime.InferenceSession"
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    squeezed: frozenset[str] = frozenset()
    expanded: frozenset[str] = frozenset()

    def run(self, tensors: Arrays) -> None:
        """Run the model and add its outputs to `tensors`."""
        feed = {}
        for name, tensor in self.inputs.items():
            array = tensors[tensor]
            feed[name] = array.reshape(array.shape[:-1]) if name in self.squeezed else array
        names = list(self.outputs)
        for name, array in zip(names, self.session.run(names, feed), strict=True):
            output = array.reshape(*array.shape, 1) if name in self.expanded else array
            tensors[self.outputs[name]] = output


@dataclass(frozen=True, slots=True)
class InProcessModel:
    """A model, or the steps of a pipeline one after the other."""

    steps: tuple[InProcessStep, ...]

    def run(self, request: Arrays) -> Arrays:
        """All tensors, those in between included."""
        tensors = dict(request)
        for step in self.steps:
            step.run(tensors)
        return tensors


def load(repository: Path, name: str) -> InProcessModel:
    """Load a published model and what it consists of.

    Args:
        repository: The model repository, with its groups.

    Raises:
        RepositoryError: There is no such model, or its files cannot be read.
        PipelineError: It is not made of ONNX models.
    """
    from builder.repository.model_config import read_config
    from builder.repository.versions import find_model

    config = read_config(find_model(repository, name).config)
    if not config.ensemble_scheduling.step:
        inputs = {tensor.name: tensor.name for tensor in config.input}
        outputs = {tensor.name: tensor.name for tensor in config.output}
        return InProcessModel((_step(repository, name, inputs, outputs),))
    sessions: dict[str, InProcessStep] = {}
    steps = []
    for model, inputs, outputs in _ordered(config):
        if model not in sessions:
            sessions[model] = _step(repository, model, inputs, outputs)
        known = sessions[model]
        steps.append(
            InProcessStep(model, known.session, inputs, outputs, known.squeezed, known.expanded)
        )
    return InProcessModel(tuple(steps))


def _ordered(config: "ModelConfig") -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """The steps of an ensemble, each after those that it needs."""
    there = {tensor.name for tensor in config.input}
    waiting = list(config.ensemble_scheduling.step)
    while waiting:
        ready = [step for step in waiting if set(step.input_map.values()) <= there]
        if not ready:
            raise PipelineError("its steps wait for each other", where=config.name)
        for step in ready:
            waiting.remove(step)
            there |= set(step.output_map.values())
            yield step.model_name, dict(step.input_map), dict(step.output_map)


def _step(
    repository: Path, name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> InProcessStep:
    from builder.repository.model_config import read_config
    from builder.repository.versions import find_model, served_versions

    model = find_model(repository, name)
    config = read_config(model.config)
    if config.backend != "onnxruntime":
        raise PipelineError(
            f"is served by {config.backend or config.platform or 'an unknown backend'}, "
            "not by onnxruntime",
            where=name,
        )
    folder = model.folder / str(max(served_versions(model)))
    path = folder / (config.default_model_filename or _MODEL_FILE)
    return InProcessStep(
        name,
        _session(path, config),
        inputs,
        outputs,
        frozenset(t.name for t in config.input if t.HasField("reshape")),
        frozenset(t.name for t in config.output if t.HasField("reshape")),
    )


def _session(path: Path, config: "ModelConfig") -> "onnxruntime.InferenceSession":
    import onnxruntime

    from builder.export.operators import operator_libraries

    levels = onnxruntime.GraphOptimizationLevel
    by_number: Mapping[int, Any] = {
        -1: levels.ORT_ENABLE_BASIC,
        0: levels.ORT_ENABLE_ALL,
        1: levels.ORT_ENABLE_EXTENDED,
        2: levels.ORT_DISABLE_ALL,
    }
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = by_number[config.optimization.graph.level]
    options.log_severity_level = 4
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    for pool in ("intra_op", "inter_op"):  # as in the native backend
        key = f"session.{pool}.allow_spinning"
        options.add_session_config_entry(key, parameters.get(key, "0"))
    for library in operator_libraries(path).values():
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
