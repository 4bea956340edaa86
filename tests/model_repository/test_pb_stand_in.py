"""The stand-in against the real `triton_python_backend_utils`, and the twins' shared code."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from builder.errors import CheckpointError, RepositoryError, UsageError
from builder.serving import pb_stand_in, python_twin
from builder.serving.self_check import read_config
from builder.stage import Arrays, Tensor

CODES = pb_stand_in.TritonError


@pytest.fixture(scope="module")
def real() -> ModuleType:
    """The real module, of which the part written in Python can be imported anywhere."""
    wheel = importlib.util.find_spec("pytriton")
    assert wheel is not None
    assert wheel.origin is not None
    folder = Path(wheel.origin).parent / "tritonserver" / "backends" / "python"
    spec = importlib.util.spec_from_file_location(
        "real_pb_utils", folder / "triton_python_backend_utils.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONFIG = {
    "name": "m",
    "max_batch_size": 0,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 25]}],
    "output": [],
}


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("input", {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 25]}),
        ("input", {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 25], "optional": True}),
        ("input", {"name": "x", "data_type": "TYPE_FP16", "dims": [-1, 25]}),
        ("input", {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 24]}),
        ("input", {"name": "x", "dims": [-1, 25]}),
        ("input", {"name": "x", "data_type": "TYPE_FP32"}),
        ("input", {"name": "x", "data_type": "TYPE_FP32", "dims": [1], "shape": [1]}),
        ("input", {"name": "y", "data_type": "TYPE_BOOL", "dims": [1], "optional": True}),
        ("output", {"name": "x", "data_type": "TYPE_BOOL", "dims": [-1]}),
        ("output", {"name": "x", "data_type": "TYPE_BOOL", "dims": [-1], "optional": True}),
    ],
)
def test_configs_are_completed_as_the_real_one_does(
    real: ModuleType, kind: str, tensor: dict[str, Any]
) -> None:
    outcomes = []
    for module in (real, pb_stand_in):
        config = module.ModelConfig(json.dumps(CONFIG))
        try:
            getattr(config, f"add_{kind}")(dict(tensor))
            outcomes.append(config.as_dict())
        except ValueError:
            outcomes.append("refused")
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("configured", "declared"), [(0, 0), (0, 8), (8, 4)])
def test_batch_sizes_are_checked_as_the_real_one_does(
    real: ModuleType, configured: int, declared: int
) -> None:
    outcomes = []
    for module in (real, pb_stand_in):
        config = module.ModelConfig(json.dumps(CONFIG | {"max_batch_size": configured}))
        try:
            config.set_max_batch_size(declared)
            outcomes.append(config.as_dict()["max_batch_size"])
        except ValueError:
            outcomes.append("refused")
    assert outcomes[0] == outcomes[1]


def test_strings_arrive_as_bytes() -> None:
    tensor = pb_stand_in.Tensor("x", np.array([["E-1", b"\xff"]], object))
    assert tensor.as_numpy().tolist() == [[b"E-1", b"\xff"]]


INPUTS = (Tensor("a", "FP32", ("T", 2)), Tensor("b", "BOOL", ("T",)))


def request(cancelled: bool = False, **arrays: np.ndarray) -> pb_stand_in.InferenceRequest:
    good = {"a": np.ones((3, 2), np.float32), "b": np.ones(3, bool)} | arrays
    tensors = [pb_stand_in.Tensor(name, array) for name, array in good.items()]
    return pb_stand_in.InferenceRequest(tensors, cancelled=cancelled)


def answer(requests: list[Any], compute: Any) -> list[Any]:
    return python_twin.answer(pb_stand_in, requests, compute, INPUTS)


def total(batch: list[Arrays], stop_if_abandoned: Any) -> list[Arrays]:
    return [{"sum": arrays["a"].sum(axis=1)} for arrays in batch]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"a": np.ones((3, 3), np.float32)}, r"input a has shape \[3, 3\], not \[T,2\]"),
        ({"a": np.ones(3, np.float32)}, r"input a has shape \[3\], not \[T,2\]"),
        ({"a": np.ones((3, 2))}, "input a holds float64, not FP32"),
        ({"b": np.ones(4, bool)}, "input b has 4 samples, another input 3"),
        ({"a": np.ones((0, 2), np.float32)}, "input a is empty"),
    ],
)
def test_a_wrong_request_fails_alone(arrays: Arrays, reason: str) -> None:
    bad = request(**arrays)
    first, refused, last = answer([request(), bad, request()], total)
    assert refused.error().code() == CODES.INVALID_ARG
    assert re.search(reason, refused.error().message())
    for response in (first, last):
        assert response.output_tensors()[0].as_numpy().tolist() == [2.0] * 3


def test_a_missing_input_is_named() -> None:
    (response,) = answer(
        [pb_stand_in.InferenceRequest([pb_stand_in.Tensor("b", np.ones(1, bool))])], total
    )
    assert response.error().message() == "there is no input a; expected a FP32 [T,2]"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no such channel"), CODES.INVALID_ARG),
        (CheckpointError("no weights"), CODES.UNAVAILABLE),
        (MemoryError(), CODES.UNAVAILABLE),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), CODES.UNAVAILABLE),
        (RuntimeError("a bug"), CODES.INTERNAL),
        (ZeroDivisionError(), CODES.INTERNAL),
    ],
)
def test_an_error_has_the_code_of_its_cause_and_only_its_request_fails(
    error: Exception, code: int
) -> None:
    def compute(batch: list[Arrays], stop_if_abandoned: Any) -> list[Arrays]:
        if any(arrays["a"][0, 0] == 7 for arrays in batch):
            raise error
        return total(batch, stop_if_abandoned)

    bad = request(a=np.full((3, 2), 7, np.float32))
    first, failed, last = answer([request(), bad, request()], compute)
    assert failed.error().code() == code
    assert not first.has_error()
    assert not last.has_error()


def test_cancelled_requests_are_not_computed() -> None:
    sizes = []

    def compute(batch: list[Arrays], stop_if_abandoned: Any) -> list[Arrays]:
        sizes.append(len(batch))
        return total(batch, stop_if_abandoned)

    gone, served = answer([request(cancelled=True), request()], compute)
    assert gone.error().code() == CODES.CANCELLED
    assert not served.has_error()
    assert sizes == [1]


def test_work_goes_on_while_one_client_still_waits() -> None:
    requests = [request(), request()]

    def compute(batch: list[Arrays], stop_if_abandoned: Any) -> list[Arrays]:
        requests[0].cancel()
        stop_if_abandoned()
        return total(batch, stop_if_abandoned)

    gone, served = answer(requests, compute)
    assert gone.error().code() == CODES.CANCELLED
    assert not served.has_error()


def test_a_config_that_says_something_else_is_refused(tmp_path: Path) -> None:
    config = pb_stand_in.ModelConfig(json.dumps(CONFIG | {"max_batch_size": 4}))
    with pytest.raises(ValueError, match="max_batch_size"):
        python_twin.declare(config, INPUTS, ())
    with pytest.raises(RepositoryError, match="no model configuration"):
        read_config(tmp_path / "config.pbtxt")
    (tmp_path / "config.pbtxt").write_text("name: 3 {")
    with pytest.raises(RepositoryError, match="no model configuration"):
        read_config(tmp_path / "config.pbtxt")
