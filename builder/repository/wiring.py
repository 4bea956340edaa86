"""The rules by which the steps of an ensemble fit together.

They are those of Triton's own check (core/src/ensemble_scheduler/ensemble_utils.cc), applied
before a server sees the files, and one more: sizes are followed through the whole graph, so two
tensors of one model that share a symbol must get equal sizes.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from builder.repository.sizes import Sizes
from builder.stage import Dim


class Port(Protocol):
    """A named, typed tensor: a `Tensor` of a stage, or what a config states."""

    @property
    def name(self) -> str:
        """Name of the tensor."""

    @property
    def dtype(self) -> str:
        """Triton data type."""

    @property
    def dims(self) -> tuple[Dim, ...]:
        """Sizes and symbols."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not fit.

    Attributes:
        kind: `model`, `wiring`, `cycle`, `dtype`, `dims` or `batching`.
        step: Name of the model of the step, or None if the pipeline itself is concerned.
        text: What is wrong, without final period.
        hint: What to do about it.
    """

    kind: str
    step: str | None
    text: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One step: the model and its wiring, tensor of the model -> tensor of the pipeline."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Member:
    """What a step needs to know of its model.

    Attributes:
        inputs: Tensors with all dims, the batch dim included where `max_batch_size` > 0.
        outputs: Likewise.
        optional: Inputs that may stay unwired.
    """

    inputs: Sequence[Port]
    outputs: Sequence[Port]
    max_batch_size: int
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Graph:
    """An ensemble.

    Attributes:
        inputs: Tensors that a client sends, without batch dim.
        outputs: Tensors that a client gets, without batch dim.
    """

    name: str
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    steps: Sequence[Node]
    max_batch_size: int


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a wire: a tensor of a step, or of the pipeline, with its scope of symbols.

    Attributes:
        dims: All dims, the batch dim included.
    """

    owner: str
    scope: str
    name: str
    dtype: str
    dims: tuple[Dim, ...]
    batched: bool

    def __str__(self) -> str:
        return f"{self.owner}.{self.name} {self.dtype} [{','.join(map(str, self.dims))}]"


def check(graph: Graph, models: Mapping[str, Member | None]) -> Iterator[Problem]:
    """Find everything that does not fit, names first, then types, then sizes.

    Args:
        graph: The ensemble.
        models: Every model that there is; None where its tensors are not known.
    """
    members = {name: member for name, member in models.items() if member is not None}
    known = [step for step in graph.steps if step.model in members]
    for step in graph.steps:
        if step.model not in models:
            text = f"there is no model {step.model!r}"
            yield Problem("model", step.model, text, _close(step.model, models))
    yield from _check_names(graph, known, members)
    yield from _check_producers(graph)
    yield from _check_consumers(graph)
    yield from _check_order(graph)
    for step in known:
        limit = members[step.model].max_batch_size
        if 0 < limit < graph.max_batch_size:
            yield Problem(
                "batching",
                step.model,
                f"the pipeline takes batches of {graph.max_batch_size}, the model of {limit}",
                "lower max_batch_size of the pipeline",
            )
    yield from _check_wires(graph, known, members)


def _check_names(
    graph: Graph, steps: Iterable[Node], members: Mapping[str, Member]
) -> Iterator[Problem]:
    for step in steps:
        member = members[step.model]
        sides = (
            ("input", step.inputs, {t.name for t in member.inputs}),
            ("output", step.outputs, {t.name for t in member.outputs}),
        )
        for side, wired, names in sides:
            for name in sorted(wired.keys() - names):
                yield Problem(
                    "wiring", step.model, f"the model has no {side} {name!r}", _close(name, names)
                )
        unwired = sides[0][2] - step.inputs.keys() - member.optional
        for name in sorted(unwired):
            yield Problem(
                "wiring",
                step.model,
                f"input {name!r} is not wired to any tensor",
                "name the tensor of the pipeline that it gets",
            )
    if not graph.steps:
        yield Problem("wiring", None, "there are no steps")


def _producers(graph: Graph) -> dict[str, list[str]]:
    """Tensor of the pipeline -> who makes it."""
    made: dict[str, list[str]] = {t.name: ["the client"] for t in graph.inputs}
    for step in graph.steps:
        for name, tensor in step.outputs.items():
            made.setdefault(tensor, []).append(f"{step.model}.{name}")
    return made


def _check_producers(graph: Graph) -> Iterator[Problem]:
    made = _producers(graph)
    for tensor, makers in made.items():
        if len(makers) > 1:
            yield Problem(
                "wiring",
                None,
                f"tensor {tensor!r} is produced by {' and by '.join(makers)}",
                "give each its own name",
            )
    for step in graph.steps:
        for name, tensor in step.inputs.items():
            if tensor not in made:
                yield Problem(
                    "wiring",
                    step.model,
                    f"input {name!r} takes tensor {tensor!r}, which nothing produces",
                    _close(tensor, made),
                )
    for output in graph.outputs:
        if output.name not in made:
            yield Problem(
                "wiring",
                None,
                f"output {output.name!r} is produced by no step",
                _close(output.name, made),
            )


def _check_consumers(graph: Graph) -> Iterator[Problem]:
    """Triton refuses an ensemble with a tensor that leads nowhere."""
    used = {tensor for step in graph.steps for tensor in step.inputs.values()}
    outputs = {t.name for t in graph.outputs}
    for tensor in graph.inputs:
        if tensor.name not in used:
            text = f"input {tensor.name!r} of the pipeline is used by no step"
            yield Problem("wiring", None, text, "wire it, or leave it out")
    for step in graph.steps:
        for name, tensor_name in step.outputs.items():
            if tensor_name not in used | outputs:
                text = f"output {name!r} becomes tensor {tensor_name!r}, which nothing uses"
                yield Problem("wiring", step.model, text, "leave this output out of the step")
        if not step.outputs:
            yield Problem("wiring", step.model, "no output is wired", "leave the step out")


def _check_order(graph: Graph) -> Iterator[Problem]:
    """Run the steps whose inputs are there until none is left; what is left waits for itself."""
    made = _producers(graph)
    ready = {t.name for t in graph.inputs}
    waiting = list(graph.steps)
    while waiting:
        # A tensor without producer is reported elsewhere and must not look like a cycle.
        runnable = [s for s in waiting if all(t in ready or t not in made for t in _needs(s))]
        if not runnable:
            break
        waiting = [s for s in waiting if s not in runnable]
        ready.update(t for s in runnable for t in s.outputs.values())
    if waiting:
        loop = _loop(waiting)
        yield Problem(
            "cycle",
            loop[0].model,
            "the steps wait for each other: " + " -> ".join(s.model for s in (*loop, loop[0])),
            "an ensemble cannot loop: unroll the loop into one step per turn",
        )


def _needs(step: Node) -> Iterable[str]:
    return step.inputs.values()


def _loop(waiting: Sequence[Node]) -> list[Node]:
    """One cycle among steps that all wait, in the direction of the data."""
    maker = {tensor: step for step in waiting for tensor in step.outputs.values()}
    path = [waiting[0]]
    while True:
        before = next(maker[t] for t in _needs(path[-1]) if t in maker)
        if before in path:
            return list(reversed(path[path.index(before) :]))
        path.append(before)


def _check_wires(
    graph: Graph, steps: Sequence[Node], members: Mapping[str, Member]
) -> Iterator[Problem]:
    sources = {t.name: _pipeline_end(graph, t) for t in graph.inputs}
    targets: list[tuple[str | None, str, _End]] = []
    for index, step in enumerate(steps):
        member = members[step.model]
        for tensor in member.outputs:
            if tensor.name in step.outputs:
                end = _step_end(step.model, index, tensor, member.max_batch_size)
                sources.setdefault(step.outputs[tensor.name], end)
        for tensor in member.inputs:
            if tensor.name in step.inputs:
                end = _step_end(step.model, index, tensor, member.max_batch_size)
                targets.append((step.model, step.inputs[tensor.name], end))
    targets += [(None, t.name, _pipeline_end(graph, t)) for t in graph.outputs]
    sizes = Sizes()
    for model, name, target in targets:
        source = sources.get(name)
        if source is not None:
            yield from _check_wire(model, source, target, sizes)


def _check_wire(model: str | None, source: _End, target: _End, sizes: Sizes) -> Iterator[Problem]:
    wire = f"{source} -> {target}"
    if source.dtype != target.dtype:
        yield Problem(
            "dtype",
            model,
            f"{wire}: {source.dtype} is not {target.dtype}",
            f"make one of the two stages produce or take {target.dtype}",
        )
    left, right = source.dims, target.dims
    if len(left) != len(right) and source.batched != target.batched:
        # Triton then gives the tensor a batch dim of 1, or takes it away.
        left = left[1:] if source.batched else left
        right = right[1:] if target.batched else right
    if len(left) != len(right):
        yield Problem("dims", model, f"{wire}: {len(left)} dims are not {len(right)} dims")
        return
    for axis, (a, b) in enumerate(zip(left, right, strict=True)):
        if conflict := sizes.unify((source.scope, a), (target.scope, b)):
            yield Problem(
                "dims",
                model,
                f"{wire}: dim {axis} is {conflict[0]} on the left and {conflict[1]} on the right",
                "wire another tensor, or export one of the stages with other sizes",
            )


def _pipeline_end(graph: Graph, tensor: Port) -> _End:
    batched = graph.max_batch_size > 0
    dims = ("-1", *tensor.dims) if batched else tensor.dims
    return _End(graph.name, "pipeline", tensor.name, tensor.dtype, dims, batched)


def _step_end(model: str, index: int, tensor: Port, max_batch_size: int) -> _End:
    batched = max_batch_size > 0
    # Triton states a tensor without (further) dims as [1].
    dims = (*tensor.dims, 1) if len(tensor.dims) == int(batched) else tensor.dims
    return _End(model, f"step {index}", tensor.name, tensor.dtype, dims, batched)


def _close(name: str, names: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, list(names), n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(sorted(names))}" if names else None
