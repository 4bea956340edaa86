"""What is compared: cases, each with its variants, declared by the families.

A family may have a module `bench` that defines

    def cases(config: Config) -> Iterable[Case]

It is imported by `builder bench`, so it must not import torch or NumPy at the top.
"""

import dataclasses
import fnmatch
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from builder import families
from builder.bench.results import FLOOR, CaseInfo
from builder.config import Config
from builder.errors import UsageError
from builder.family import all_families
from builder.stage import Arrays


@dataclass(frozen=True, slots=True)
class Load:
    """Requests to one model.

    Attributes:
        model: Name of the model.
        requests: Makes the requests, arrays with the batch dim included. They differ from each
            other, so that no cache answers them, and are sent in turn.
    """

    model: str
    requests: Callable[[], Sequence[Arrays]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to answer the requests of a case.

    Attributes:
        name: `native`, `python`, `trt`, `floor`, or any other.
        loads: What is sent, all at the same time. The concurrency is shared among them.
        needs: Models that those of the loads call by themselves.
        config_name: The server's `--model-config-name`, for pipelines that have several configs.
    """

    name: str
    loads: tuple[Load, ...]
    needs: tuple[str, ...] = ()
    config_name: str = ""

    @property
    def models(self) -> tuple[str, ...]:
        """Models that requests are sent to."""
        return tuple(dict.fromkeys(load.model for load in self.loads))

    @property
    def served(self) -> bool:
        """Whether a server answers; if not, ONNX Runtime does in a process of its own."""
        return self.name != FLOOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The same requests to several variants.

    Attributes:
        unit: What one request is, for example `window`.
        request: One line about the request.
        concurrency: Its own levels; empty means those that are asked for.
        quick: Whether it is part of a quick run.
        config: Where its models are.
        environ: Environment variables for the server, beside those of this process.
        prepare: Makes the models, where `builder build` does not.
    """

    name: str
    title: str
    unit: str
    request: str
    variants: tuple[Variant, ...]
    config: Config
    concurrency: tuple[int, ...] = ()
    quick: bool = True
    environ: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        """Check that the clients can be shared among the loads."""
        for variant in self.variants:
            loads = len(variant.loads)
            levels = self.concurrency or (1,)
            if not loads or any(level % loads for level in levels):
                raise ValueError(f"{self.name}: {levels} clients for {loads} loads")

    @property
    def info(self) -> CaseInfo:
        """For the report."""
        models = {variant.name: variant.models for variant in self.variants}
        return CaseInfo(self.name, self.title, self.unit, self.request, models)


def all_cases(config: Config) -> Iterator[Case]:
    """The cases of the configured families."""
    wanted = config.build.families or tuple(family.name for family in all_families())
    for name in wanted:
        module = f"{families.__name__}.{name}.bench"
        if importlib.util.find_spec(module) is not None:
            yield from importlib.import_module(module).cases(config)


def select_cases(
    cases: Iterable[Case], names: Sequence[str], variants: Sequence[str], *, quick: bool
) -> list[Case]:
    """The cases to measure, with the variants to measure.

    Args:
        names: Cases or models, patterns allowed; none means all.
        variants: Names of variants; none means all.
        quick: Leave out what takes long, unless it is named.

    Raises:
        UsageError: A name or a variant is unknown.
    """
    known = list(cases)
    chosen: list[Case] = []
    wanted = {case.name for name in names for case in _matching(known, name)}
    for case in known:
        if names and case.name not in wanted:
            continue
        if not names and quick and not case.quick:
            continue
        kept = tuple(v for v in case.variants if not variants or v.name in variants)
        if kept:
            chosen.append(dataclasses.replace(case, variants=kept))
    there = {variant.name for case in known for variant in case.variants}
    for name in variants:
        if name not in there:
            hint = f"variants here: {', '.join(sorted(there))}; trt needs published plans"
            raise UsageError(f"nothing has a variant {name!r}", hint=hint)
    return chosen


def _matching(cases: Sequence[Case], pattern: str) -> list[Case]:
    """The cases of that name, else those that send requests to a model of that name."""
    if found := [case for case in cases if fnmatch.fnmatchcase(case.name, pattern)]:
        return found
    if found := [
        case
        for case in cases
        if any(fnmatch.filter(variant.models, pattern) for variant in case.variants)
    ]:
        return found
    hint = f"cases: {', '.join(case.name for case in cases)}"
    raise UsageError(f"no case or model {pattern!r} is compared", hint=hint)
