"""Exports against PyTorch, above all at lengths that were not traced."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from builder.digest import FileDigests
from builder.errors import ExportError, ParityError
from builder.export.exporter import Exporter
from builder.export.trace import trace
from builder.export.translations import exportable_gru
from builder.export.weights import swap_weights
from builder.golden import read_golden
from builder.stage import Arrays, OnnxSource, Shape, Stage, Tensor, TorchSource


class Recurrent(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.gru = nn.GRU(3, 4, num_layers=2)
        self.first = nn.PReLU()
        self.second = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.gru(x.unsqueeze(1))[0].squeeze(1)))


def example(shape: Shape, rng: np.random.Generator) -> Arrays:
    return {"x": rng.normal(size=(shape["T"], 3)).astype(np.float32)}


def make_stage(
    module: nn.Module,
    *,
    width: int = 4,
    graph: str | None = None,
    shapes: tuple[Shape, ...] = ({"T": 7}, {"T": 1}, {"T": 30}),
) -> Stage:
    return Stage(
        name="net",
        family="test",
        inputs=(Tensor("x", "FP32", ("T", 3)),),
        outputs=(Tensor("y", "FP32", ("T", width)),),
        source=TorchSource(load=lambda: module.eval(), graph=graph),
        example=example,
        shapes=shapes,
    )


@pytest.fixture
def exporter() -> Exporter:
    return Exporter(FileDigests())


@pytest.mark.parametrize("graph", [None, "shared"])
def test_a_gru_keeps_its_length_dynamic(
    tmp_path: Path, exporter: Exporter, graph: str | None
) -> None:
    record = exporter.export(make_stage(Recurrent(), graph=graph), tmp_path / "net", {})
    assert record.measured["parity"]["worst"] <= 1e-6
    assert [shape["T"] for shape in record.measured["parity"]["shapes"]] == [7, 1, 30]
    [dim, _] = onnx.load(tmp_path / "net" / "model.onnx").graph.input[0].type.tensor_type.shape.dim
    assert dim.dim_param == "T"


def test_stages_of_one_graph_are_traced_once_and_keep_their_own_weights(
    tmp_path: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = []
    monkeypatch.setattr(
        "builder.export.trace.trace", lambda *a, **k: traced.append(a) or trace(*a, **k)
    )
    outputs = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        exporter.export(make_stage(Recurrent(seed), graph="shared"), folder, {})
        inputs, golden = read_golden(folder / "golden.npz")
        with torch.inference_mode():
            want = Recurrent(seed).eval()(torch.from_numpy(inputs["x"])).numpy()
        np.testing.assert_allclose(golden["y"], want, atol=1e-6)
        outputs.append(golden["y"])
    assert len(traced) == 1
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_equal_parameters_are_not_merged() -> None:
    """Both PReLU start at 0.25: an exporter that merges them breaks weight swapping."""
    model = trace(make_stage(Recurrent()), Recurrent().eval(), optimize=False)
    names = {i.name for i in model.graph.initializer}
    assert {"first.weight", "second.weight"} <= names
    module = Recurrent().eval()
    with torch.no_grad():
        module.second.weight.fill_(0.9)
    swapped = swap_weights(model, module.state_dict(), where="stage net")
    values = {i.name: onnx.numpy_helper.to_array(i) for i in swapped.graph.initializer}
    assert values["first.weight"] == pytest.approx(0.25)
    assert values["second.weight"] == pytest.approx(0.9)


def test_swapping_refuses_what_does_not_fit() -> None:
    model = trace(make_stage(Recurrent()), Recurrent().eval(), optimize=False)
    state = Recurrent().state_dict()
    with pytest.raises(ExportError, match=r"no initialiser extra"):
        swap_weights(model, state | {"extra": torch.zeros(1)}, where="s")
    with pytest.raises(ExportError, match=r"first\.weight is \[2\].*has \[1\]"):
        swap_weights(model, state | {"first.weight": torch.zeros(2)}, where="s")
    del state["second.weight"]
    with pytest.raises(ExportError, match=r"no second\.weight"):
        swap_weights(model, state, where="s")


def test_a_frozen_length_is_an_error(tmp_path: Path, exporter: Exporter) -> None:
    class Frozen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x[i : i + 1] * i for i in range(x.shape[0])])

    with pytest.raises(ExportError, match="inferred a static shape of 7"):
        exporter.export(make_stage(Frozen(), width=3), tmp_path / "net", {})
    assert list(tmp_path.iterdir()) == []


def test_other_forms_of_gru_are_refused() -> None:
    with exportable_gru(), pytest.raises(ExportError, match="time-first, unidirectional"):
        nn.GRU(3, 4, bidirectional=True)(torch.zeros(2, 1, 3))


def test_the_patch_of_gru_is_undone() -> None:
    forward = nn.GRU.forward
    with exportable_gru():
        assert nn.GRU.forward is not forward
    assert nn.GRU.forward is forward


def identity_graph(dtype: int, dims: tuple[str | int, ...]) -> onnx.ModelProto:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", dtype, dims)],
        [onnx.helper.make_tensor_value_info("y", dtype, dims)],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )


def onnx_stage(model: onnx.ModelProto, factor: float = 1.0) -> Stage:
    return Stage(
        name="net",
        family="test",
        inputs=(Tensor("x", "FP32", ("T", 3)),),
        outputs=(Tensor("y", "FP32", ("T", 3)),),
        source=OnnxSource(
            build=lambda: model, reference=lambda a: {"y": a["x"] * np.float32(factor)}
        ),
        example=example,
        shapes=({"T": 2}, {"T": 5}),
    )


def test_a_graph_is_compared_with_its_reference(tmp_path: Path, exporter: Exporter) -> None:
    model = identity_graph(onnx.TensorProto.FLOAT, ("n", 3))
    record = exporter.export(onnx_stage(model), tmp_path / "good", {})
    assert record.measured["parity"]["worst"] == 0
    with pytest.raises(ParityError, match=r"output y differs by up to .*\{'T': 2\}|T.*2"):
        exporter.export(onnx_stage(model, factor=1.01), tmp_path / "bad", {})
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("dtype", "dims"),
    [
        (onnx.TensorProto.DOUBLE, ("n", 3)),
        (onnx.TensorProto.FLOAT, (2, 3)),
        (onnx.TensorProto.FLOAT, ("n", 4)),
        (onnx.TensorProto.FLOAT, ("n",)),
    ],
)
def test_another_signature_is_refused(
    tmp_path: Path, exporter: Exporter, dtype: int, dims: tuple[str | int, ...]
) -> None:
    with pytest.raises(ExportError, match="declared"):
        exporter.export(onnx_stage(identity_graph(dtype, dims)), tmp_path / "net", {})
