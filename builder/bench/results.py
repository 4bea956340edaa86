"""What a benchmark measured, as data: written to report.json and read back to be compared.

Numbers are raw: one `Run` per measurement. Medians, spreads and ratios are computed from them by
whoever shows them, so that no report can contradict its own data.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from builder.errors import UsageError

FORMAT = 1
"""Raised when a field changes its meaning."""

NATIVE, PYTHON, TRT, FLOOR = "native", "python", "trt", "floor"
"""Variants. `floor` is the same ONNX model in an in-process ONNX Runtime loop, without a server."""


@dataclass(frozen=True, slots=True)
class StageShare:
    """Server statistics of one model during a run; an ensemble has one entry per stage.

    Attributes:
        inferences: Samples (requests times their batch size) that were answered.
        executions: Runs of the model; fewer than inferences where requests shared a batch.
        queue_us: Mean microseconds per inference spent waiting.
        input_us: Mean microseconds per inference spent gathering inputs.
        compute_us: Mean microseconds per inference spent computing.
        output_us: Mean microseconds per inference spent writing outputs.
        cache_hits: Requests that were answered from the response cache.
        batch_sizes: Batch size -> executions.
    """

    model: str
    inferences: int
    executions: int
    queue_us: float
    input_us: float
    compute_us: float
    output_us: float
    cache_hits: int = 0
    batch_sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes used during a run; None where it could not be read.

    Attributes:
        server_cores: CPU seconds per second of the server itself.
        stub_cores: The same of its python-backend stubs together.
        client_cores: The same of the load generator.
        server_mib: Resident memory of the server at the end.
        stub_mib: The same of its stubs together.
        gpu_percent: Mean utilisation of the GPU.
        gpu_mib: Memory used on the GPU.
    """

    server_cores: float | None = None
    stub_cores: float | None = None
    client_cores: float | None = None
    server_mib: float | None = None
    stub_mib: float | None = None
    gpu_percent: float | None = None
    gpu_mib: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: a case, a variant and a concurrency in one round.

    Attributes:
        models: Models that requests were sent to: one, or several for a mixed load.
        per_second: Requests answered per second. For several models at the same time, by the
            server's count in the middle half of the run.
        p50_ms: Of a mixed load, the mean over its models, weighted with their throughputs; so the
            other percentiles.
        stable: False where the throughput was not steady over the run.
        stages: Of every model that worked on the requests.
    """

    case: str
    variant: str
    models: tuple[str, ...]
    concurrency: int
    round: int
    seconds: float
    requests: int
    per_second: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    stable: bool = True
    stages: tuple[StageShare, ...] = ()
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class CaseInfo:
    """What a case compares, for people.

    Attributes:
        unit: What one request is, for example `window` or `image`.
        request: One line about the request: shapes, sizes.
        variants: Variant -> models it sends requests to.
    """

    name: str
    title: str
    unit: str
    request: str
    variants: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be measured; the rest of the report stands."""

    where: str
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one benchmark measured.

    Attributes:
        created: UTC, ISO 8601.
        machine: Cores, CPU, memory, GPU, operating system, by name.
        versions: Versions of what was measured, by name.
        settings: Rounds, seconds per run and whatever else decides the figures.
    """

    created: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    settings: Mapping[str, str]
    cases: tuple[CaseInfo, ...]
    runs: tuple[Run, ...]
    problems: tuple[Problem, ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        """As text for report.json."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def read_report(path: Path) -> Report:
    """Read a report.json.

    Raises:
        UsageError: There is no such file, it is damaged, or of another format.
    """
    hint = "write one with builder bench"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read: {error}", where=str(path), hint=hint) from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise UsageError(
            f"is of report format {found}, this builder reads {FORMAT}", where=str(path), hint=hint
        )
    try:
        report: Report = _build(Report, data)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"is damaged: {error!r}", where=str(path), hint=hint) from error
    return report


def _build(hint: Any, value: Any) -> Any:
    """`value`, as JSON has it, as the type that `hint` names."""
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        known = {key: _build(hints[key], item) for key, item in dict(value).items()}
        return hint(**known)  # type: ignore[operator]
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return None if value is None else _build(kinds[0], value)
    if origin is tuple:
        return tuple(_build(get_args(hint)[0], item) for item in list(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {str(key): _build(get_args(hint)[1], item) for key, item in dict(value).items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint):
        raise TypeError(f"expected {hint.__name__}, got {value!r}")
    return value
