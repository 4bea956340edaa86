"""Small TorchScript models and their configs."""

import warnings
from pathlib import Path

import torch

LINEAR = """\
backend: "pytorch"
max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 20000 }
input { name: "INPUT__0" data_type: TYPE_FP32 dims: [ -1, 3 ] }
output { name: "OUTPUT__1" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ -1, 2 ] }
parameters { key: "INTRA_OP_THREAD_COUNT" value { string_value: "1" } }
"""
NAMED = """\
backend: "pytorch"
input { name: "b" data_type: TYPE_FP32 dims: [ -1 ] }
input { name: "a" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "difference" data_type: TYPE_FP32 dims: [ -1 ] }
parameters { key: "family" value { string_value: "anomaly" } }
"""
ENSEMBLE = """\
platform: "ensemble"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ -1, 2 ] }
ensemble_scheduling { step {
  model_name: "linear" model_version: -1
  input_map { key: "INPUT__0" value: "x" }
  output_map { key: "OUTPUT__0" value: "y" }
} }
"""


class Linear(torch.nn.Module):
    """Two outputs, in an order that the config above turns round; fails on large values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if bool((x > 1000).any()):
            raise ValueError("x is too large")
        y = self.linear(x)
        return y, y.sum(-1)


class Named(torch.nn.Module):
    """Arguments in another order than the config's inputs, and a dict as the result."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": a + b, "difference": a - b}


def write_model(folder: Path, config: str, module: torch.nn.Module | None = None) -> Path:
    """A model folder with one version; the path of its model.pt."""
    version = folder / "1"
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    path = version / "model.pt"
    if module is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(module.eval()).save(str(path))
    return path
