"""Ensembles as graphs, read from configs."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.lint.model import ConfigFile, Context, Hit, Model
from builder.repository.wiring import Graph, Member, Node, check
from builder.stage import Dim

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dtype: str
    dims: tuple[Dim, ...]


def problems(context: Context, kinds: Collection[str], remedy: str) -> Iterator[Hit]:
    """What the wiring check finds in every ensemble, of the given kinds only.

    Args:
        context: All models.
        kinds: Kinds of `builder.repository.wiring.Problem`.
        remedy: What to do where the check itself has no hint.
    """
    members = {name: _member(models[0]) for name, models in context.by_name.items()}
    for model in context.models:
        for file, config in model.parsed:
            if config.HasField("ensemble_scheduling"):
                yield from _problems(file, config, members, kinds, remedy)


def _problems(
    file: ConfigFile,
    config: "ModelConfig",
    members: Mapping[str, Member | None],
    kinds: Collection[str],
    remedy: str,
) -> Iterator[Hit]:
    graph = Graph(
        name=config.name or file.path.parent.name,
        inputs=[_tensor(t, 0) for t in config.input],
        outputs=[_tensor(t, 0) for t in config.output],
        steps=[
            Node(s.model_name, dict(s.input_map), dict(s.output_map))
            for s in config.ensemble_scheduling.step
        ],
        max_batch_size=config.max_batch_size,
    )
    for problem in check(graph, members):
        if problem.kind in kinds:
            step = f"step {problem.step}: " if problem.step else ""
            line = file.line(problem.step) if problem.step else file.line("ensemble_scheduling")
            yield Hit(file.path, step + problem.text, problem.hint or remedy, line)


def _member(model: Model) -> Member | None:
    """The tensors of a model; None where its config leaves them to auto-completion."""
    config = model.main
    if config is None or not config.input or not config.output:
        return None
    return Member(
        [_tensor(t, config.max_batch_size) for t in config.input],
        [_tensor(t, config.max_batch_size) for t in config.output],
        config.max_batch_size,
        frozenset(t.name for t in config.input if t.optional),
    )


def _tensor(stated: Any, max_batch_size: int) -> _Tensor:
    """A tensor as a config states it; every -1 is a symbol of its own."""
    from builder.repository.model_config import dtype_of

    dims: list[Dim] = [f"{stated.name}.{i}" if d < 0 else d for i, d in enumerate(stated.dims)]
    if max_batch_size > 0:
        dims.insert(0, "-1")
    return _Tensor(stated.name, dtype_of(stated.data_type), tuple(dims))
