"""The networks that plans are built from: casts, types, and shapes at the profile's ends."""

import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from builder.engines.trt.checks import check_network, check_shapes, mixed_types
from builder.engines.trt.profiles import make_profile, stage_profiles
from builder.errors import ConfigError, EngineError
from builder.export.casting import bfloat16_bits, cast_model
from builder.export.parity import compare_outputs, onnx_runner
from builder.export.precision import (
    check_graph,
    check_precision,
    convert,
    tolerance_at,
)
from builder.stage import Range, Stage, Tensor, Tolerance

from .conftest import STAGES

Stages = dict[str, tuple[Stage, Path]]


@pytest.mark.parametrize("name", STAGES)
def test_shapes_work_out_over_the_whole_profile(stages: Stages, name: str) -> None:
    stage, path = stages[name]
    profiles = stage_profiles(stage)
    check_network(path, profiles, name=name)
    model = onnx.load(str(path))
    for which in ("min", "opt", "max"):
        sizes = profiles[0].point(which)
        found = check_shapes(model, profiles[0], which, name=name)
        for tensor in stage.outputs:
            for size, want in zip(found[tensor.name], tensor.shape(sizes), strict=True):
                assert size in (None, want)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_runs_at_the_ends_of_its_profile(stages: Stages, name: str) -> None:
    stage, path = stages[name]
    run = onnx_runner(path)
    for which in ("min", "max"):
        sizes = stage_profiles(stage)[0].point(which)
        outputs = run(stage.example(sizes, np.random.default_rng(0)))
        for tensor in stage.outputs:
            assert outputs[tensor.name].shape == tensor.shape(sizes)


@pytest.mark.parametrize("name", STAGES)
def test_fp16_stays_close_to_fp32(stages: Stages, name: str, tmp_path: Path) -> None:
    stage, path = stages[name]
    low = convert(path, tmp_path / "low.onnx", "fp16")
    assert mixed_types(onnx.load(str(low))) == []
    high, run = onnx_runner(path), onnx_runner(low)
    for shape in stage.shapes:
        inputs = stage.example(shape, np.random.default_rng(1))
        compare_outputs(
            run(inputs), high(inputs), stage.outputs, Tolerance(atol=2e-3, rtol=1e-3), where=name
        )
    has_products = {"MatMul", "Gemm", "Conv"} & {n.op_type for n in onnx.load(str(path)).graph.node}
    halves = [
        i for i in onnx.load(str(low)).graph.initializer if i.data_type == TensorProto.FLOAT16
    ]
    assert bool(halves) == bool(has_products)


@pytest.mark.parametrize("name", STAGES)
def test_bf16_passes_the_checker_at_every_size(stages: Stages, name: str, tmp_path: Path) -> None:
    stage, path = stages[name]
    low = convert(path, tmp_path / "low.onnx", "bf16")
    check_graph(low)
    check_network(low, stage_profiles(stage), name=name)
    kinds = Counter(i.data_type for i in onnx.load(str(low)).graph.initializer)
    source = {n.op_type for n in onnx.load(str(path)).graph.node}
    assert (kinds[TensorProto.BFLOAT16] > 0) == bool(source & {"MatMul", "Gemm", "Conv"})


def test_every_stage_has_a_twin_and_a_profile(stages: Stages) -> None:
    for name, (stage, path) in stages.items():
        if stage.family == "anomaly":
            assert "tensorrt" in stage.engines, name
        if "tensorrt" in stage.engines:
            assert stage_profiles(stage), name
            assert mixed_types(onnx.load(str(path))) == [], name


def test_strings_have_no_twin(stages: Stages) -> None:
    stage, _ = stages["SMAP_E-1"]
    text = Stage(
        name="tokenizer",
        family="test",
        inputs=(Tensor("text", "BYTES", (1,)),),
        outputs=(Tensor("ids", "INT64", (77,)),),
        source=stage.source,
        example=stage.example,
        shapes=(),
    )
    assert text.engines == ("onnxruntime",)


def network() -> onnx.ModelProto:
    """y = softmax(x @ w) + x @ v, with a weight in v that FP16 cannot hold."""
    w = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    v = w.copy()
    v[0, 0] = 1e6
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Softmax", ["a"], ["s"]),
        helper.make_node("MatMul", ["x", "v"], ["b"]),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("Add", ["s", "r"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", TensorProto.FLOAT, ["N", 4])],
        [info("y", TensorProto.FLOAT, ["N", 4]), info("r", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def test_what_is_cast_and_what_is_not() -> None:
    low = cast_model(network(), "fp16", where="net")
    onnx.checker.check_model(low, full_check=True)
    kinds = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.shape_inference.infer_shapes(low, strict_mode=True).graph.value_info
    }
    by_op = {n.op_type: n for n in low.graph.node if n.op_type != "Cast"}
    assert kinds[by_op["MatMul"].output[0]] == TensorProto.FLOAT16
    assert kinds[by_op["Relu"].output[0]] == TensorProto.FLOAT16  # follows the product
    assert kinds[by_op["Softmax"].output[0]] == TensorProto.FLOAT  # on the block list
    assert [o.type.tensor_type.elem_type for o in low.graph.output] == [TensorProto.FLOAT] * 2
    weights = {i.name: i for i in low.graph.initializer}
    assert weights["w_float16"].data_type == TensorProto.FLOAT16
    assert "w" not in weights  # nothing needs it any more
    assert (
        weights["v"].data_type == TensorProto.FLOAT
    )  # 1e6 would become infinite: cast at run time


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    model = network()
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.eye(4, 4, dtype=np.float32) * 0.5, "w")
    )
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    low = convert(path, tmp_path / "low.onnx", "fp16")
    x = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    got, want = onnx_runner(low)(x), onnx_runner(path)(x)
    np.testing.assert_allclose(got["y"][:, 1:], want["y"][:, 1:], rtol=2e-3, atol=2e-3)


def test_bfloat16_rounds_as_torch_does() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32) * 1e3
    values[:5] = [np.inf, -np.inf, 0.0, -0.0, 1 + 2**-8]
    want = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(bfloat16_bits(values), want)
    nan = torch.tensor(bfloat16_bits(np.float32([np.nan])).view(np.int16)).view(torch.bfloat16)
    assert nan.isnan().all()


def test_unknown_precision_and_missing_modelopt(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="unknown precision 'fp4'"):
        check_precision("fp4", where="x")
    onnx.save(network(), tmp_path / "net.onnx")
    assert convert(tmp_path / "net.onnx", tmp_path / "x", "fp32") == tmp_path / "net.onnx"
    with pytest.raises(Exception, match="nvidia-modelopt"):
        convert(tmp_path / "net.onnx", tmp_path / "low.onnx", "fp8")


def test_quantisation_goes_through_modelopt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, object]] = []

    def quantize(path: str, **options: object) -> None:
        calls.append(options)
        Path(str(options["output_path"])).write_bytes(Path(path).read_bytes())

    for name in ("modelopt", "modelopt.onnx", "modelopt.onnx.quantization"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["modelopt.onnx.quantization"], "quantize", quantize, False)
    onnx.save(network(), tmp_path / "net.onnx")
    inputs = {"x": np.ones((2, 4), np.float32)}
    low = convert(tmp_path / "net.onnx", tmp_path / "low.onnx", "int8", inputs)
    assert low == tmp_path / "low.onnx"
    assert calls[0]["quantize_mode"] == "int8"
    assert calls[0]["calibration_data"] is inputs


def test_tolerance_is_never_below_that_of_the_stage() -> None:
    assert tolerance_at("fp32", Tolerance(atol=1.0)).atol == 1.0
    widths = [tolerance_at(p, Tolerance()).rtol for p in ("fp32", "fp16", "bf16", "fp8")]
    assert widths == sorted(widths)


def test_profiles_need_ranges_and_full_batches() -> None:
    inputs = (Tensor("x", "FP32", ("N", "H", 3)),)
    with pytest.raises(EngineError, match="no sizes are known for H"):
        make_profile(inputs, {"N": Range(1, 1, 1)}, where="net")
    with pytest.raises(ConfigError, match="the profile names W"):
        make_profile(inputs, {}, where="net", given={"W": Range(1, 1, 1)})

    def stage(profile: dict[str, Range]) -> Stage:
        return Stage(
            name="net",
            family="test",
            inputs=inputs,
            outputs=(),
            source=None,  # type: ignore[arg-type]
            example=lambda shape, rng: {},
            shapes=({"N": 2, "H": 8}, {"N": 1, "H": 9}),
            profile=profile,
            max_batch_size=8,
        )

    [profile] = stage_profiles(stage({"H": Range(8, 8, 16)}))
    assert profile.inputs["x"] == ((1, 8, 3), (8, 8, 3), (8, 16, 3))
    assert profile.admits({"N": 8, "H": 9})
    assert not profile.admits({"N": 9, "H": 9})
    with pytest.raises(EngineError, match="ends below max_batch_size 8"):
        stage_profiles(stage({"H": Range(8, 8, 16), "N": Range(1, 1, 4)}))
    several = stage_profiles(stage({"H": Range(8, 8, 16)}), ["H=8", "H=16:16:32"])
    assert [str(p) for p in several] == ["N=1:8:8,H=8:8:8", "N=1:8:8,H=16:16:32"]


def test_a_frozen_size_is_found_at_the_profile(tmp_path: Path) -> None:
    model = network()
    model.graph.node.insert(0, helper.make_node("Add", ["x", "frozen"], ["z"]))
    model.graph.node[1].input[0] = "z"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((3, 4), np.float32), "frozen"))
    onnx.save(model, tmp_path / "net.onnx")
    profile = make_profile((Tensor("x", "FP32", ("N", 4)),), {"N": Range(3, 3, 8)}, where="net")
    with pytest.raises(EngineError, match="profile's max"):
        check_network(tmp_path / "net.onnx", (profile,), name="net")
