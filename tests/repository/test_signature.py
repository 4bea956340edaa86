from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from builder.errors import RepositoryError
from builder.repository.signature import Signature, onnx_signature
from builder.stage import Tensor

FLOAT, STRING = TensorProto.FLOAT, TensorProto.STRING


def test_names_dtypes_and_symbols_are_read(onnx_file: Callable[..., Path]) -> None:
    path = onnx_file(
        [("x", FLOAT, ["T", 25]), ("s", STRING, [1])],
        [("y", FLOAT, ["T", 25]), ("flag", TensorProto.BOOL, []), ("n", TensorProto.INT64, [3])],
    )
    assert onnx_signature(path) == Signature(
        (Tensor("x", "FP32", ("T", 25)), Tensor("s", "BYTES", (1,))),
        (
            Tensor("y", "FP32", ("T", 25)),
            Tensor("flag", "BOOL", ()),
            Tensor("n", "INT64", (3,)),
        ),
    )


def test_dims_without_name_get_one_each(onnx_file: Callable[..., Path]) -> None:
    path = onnx_file([("x", FLOAT, [None, None])], [("y", FLOAT, [None, 2])])
    signature = onnx_signature(path)
    symbols = [*signature.inputs[0].dims, signature.outputs[0].dims[0]]
    assert all(isinstance(s, str) for s in symbols)
    assert len(set(symbols)) == 3


def test_weights_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    info = [helper.make_tensor_value_info(n, FLOAT, [2]) for n in ("x", "w")]
    weight = helper.make_tensor("w", FLOAT, [2], [1.0, 2.0])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        info,
        [helper.make_tensor_value_info("y", FLOAT, [2])],
        [weight],
    )
    path = tmp_path / "old.onnx"
    onnx.save(helper.make_model(graph), path)
    assert [t.name for t in onnx_signature(path).inputs] == ["x"]


def test_external_data_is_not_needed(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", FLOAT, [1024], bytes(4096), raw=True)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1024])],
        [helper.make_tensor_value_info("y", FLOAT, [1024])],
        [weight],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path, save_as_external_data=True, location="model.data")
    (tmp_path / "model.data").unlink()
    assert onnx_signature(path).inputs[0].dims == (1024,)


def test_every_truncation_is_an_error_or_leaves_the_signature(
    onnx_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = onnx_file([("x", FLOAT, ["T"])], [("y", FLOAT, ["T"])])
    data, want = path.read_bytes(), onnx_signature(path)
    short = tmp_path / "short.onnx"
    unnoticed = 0
    for size in range(len(data)):
        short.write_bytes(data[:size])
        try:
            signature = onnx_signature(short)
        except RepositoryError as error:
            message = str(error)
            assert str(short) in message
            assert "export" in message
        else:
            assert signature == want
            unnoticed += 1
    assert unnoticed < 10  # only the opset, which follows the graph, may be missing


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.onnx"
    path.write_bytes(data)
    with pytest.raises(RepositoryError):
        onnx_signature(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"none\.onnx"):
        onnx_signature(tmp_path / "none.onnx")


def test_a_type_that_cannot_be_served_is_refused(onnx_file: Callable[..., Path]) -> None:
    path = onnx_file([("x", TensorProto.COMPLEX64, [1])], [("y", FLOAT, [1])])
    with pytest.raises(RepositoryError, match=r"x unknown.*cannot be served"):
        onnx_signature(path)


def test_a_tensor_without_shape_is_refused(onnx_file: Callable[..., Path]) -> None:
    path = onnx_file([("x", FLOAT, [1])], [("y", FLOAT, None)])
    with pytest.raises(RepositoryError, match=r"y FP32.*no shape"):
        onnx_signature(path)
