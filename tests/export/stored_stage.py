"""A small network whose weights lie in two safetensors files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from builder.families.flux.shards import read_header
from builder.stage import Arrays, Shape, Stage, Tensor, Tolerance, TorchSource
from builder.stored import Change, StoredTensor, StoredWeights


class Net(nn.Module):
    """Every way in which a weight is used: products, sums, norms, a look-up, a tied one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.first = nn.Linear(24, 40)
        self.norm = nn.LayerNorm(40)
        self.second = nn.Linear(40, 24, bias=False)
        self.again = self.embed
        self.register_buffer("table", torch.linspace(0, 1, 24), persistent=False)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(ids) + x * self.get_buffer("table") + self.again(ids)
        return x + self.second(self.norm(nn.functional.gelu(self.first(h))))


def meta_net() -> Net:
    with torch.device("meta"):
        net = Net().eval()
    net.table = torch.linspace(0, 1, 24)
    return net


def write_shards(folder: Path, dtype: torch.dtype, seed: int = 0) -> tuple[Path, Path]:
    """Random weights in two files."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(exist_ok=True)
    state: list[dict[str, torch.Tensor]] = [{}, {}]
    for index, (name, parameter) in enumerate(meta_net().named_parameters()):
        values = torch.randn(parameter.shape, generator=generator) / 3
        state[index % 2][name] = values.to(dtype)
    files = (
        folder / "model-00001-of-00002.safetensors",
        folder / "model-00002-of-00002.safetensors",
    )
    for file, tensors in zip(files, state, strict=True):
        safetensors.torch.save_file(tensors, file)
    return files


def stored_stage(
    folder: Path,
    changes: Mapping[str, Change] | None = None,
    module: Callable[[], nn.Module] = meta_net,
) -> Stage:
    """The network as a stage."""
    files = tuple(sorted(folder.glob("*.safetensors")))

    def tensors() -> Mapping[str, StoredTensor]:
        return {t.name: t for file in files for t in read_header(file)}

    def load() -> nn.Module:
        raise AssertionError("the weights are not to be loaded")

    def example(shape: Shape, rng: np.random.Generator) -> Arrays:
        size = (shape["B"], shape["T"])
        return {
            "ids": rng.integers(0, 50, size),
            "x": rng.standard_normal((*size, 24), dtype=np.float32),
        }

    stored = StoredWeights(module=module, tensors=tensors, changes=lambda: changes or {})
    return Stage(
        name="net",
        family="test",
        inputs=(Tensor("ids", "INT64", ("B", "T")), Tensor("x", "FP32", ("B", "T", 24))),
        outputs=(Tensor("y", "FP32", ("B", "T", 24)),),
        source=TorchSource(load=load, files=files, stored=stored),
        example=example,
        shapes=({"B": 2, "T": 3}, {"B": 1, "T": 7}),
        tolerance=Tolerance(atol=5e-6),
    )


def by_torch(
    stage: Stage, arrays: Arrays, changes: Mapping[str, Change] | None = None
) -> np.ndarray:
    """What the network computes with its weights loaded as anybody would."""
    state = {
        k: v.float() for f in stage.source.files for k, v in safetensors.torch.load_file(f).items()
    }
    state = {k: changes[k](v) if changes and k in changes else v for k, v in state.items()}
    net = Net().eval()
    net.load_state_dict(state | {"again.weight": state["embed.weight"]})
    with torch.inference_mode():
        result: np.ndarray = net(*(torch.from_numpy(arrays[t.name]) for t in stage.inputs)).numpy()
    return result
