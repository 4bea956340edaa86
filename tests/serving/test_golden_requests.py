import numpy as np
import pytest
import torch
from torchscript_models import Linear

from builder.serving.golden import GoldenRequest, check_golden
from builder.serving.server import TritonServer
from builder.stage import Tolerance

pytestmark = pytest.mark.e2e


def test_right_and_wrong_answers_are_told_apart(server: TritonServer, linear: Linear) -> None:
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    with torch.inference_mode():
        y = linear(torch.from_numpy(x))[0].numpy()
    off = y.copy()
    off[1, 2, 0] += 0.01
    right, wrong, loose, shape, missing = check_golden(
        server.grpc_url,
        [
            GoldenRequest("pipe", {"x": x}, {"y": y}),
            GoldenRequest("pipe", {"x": x}, {"y": off}),
            GoldenRequest("pipe", {"x": x}, {"y": off}, Tolerance(atol=0.02)),
            GoldenRequest("pipe", {"x": x}, {"y": y[:1]}),
            GoldenRequest("nowhere", {"x": x}, {"y": y}),
        ],
    )
    assert right.ok
    assert right.max_abs["y"] <= 1e-6
    assert 0 < right.latency_ms < 10_000
    assert wrong.error is not None
    assert "differs by up to 0.01" in wrong.error
    assert loose.ok
    assert loose.max_abs["y"] == pytest.approx(0.01, abs=1e-4)
    assert shape.error is not None
    assert missing.error == "the server has no such model"
    assert missing.to_json()["ok"] is False
