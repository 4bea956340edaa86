"""Traces of single requests: Triton's trace extension, and its file format.

A traced request is a tree: the ensemble, and below it a span per stage that worked for it. The
server writes when each of them was queued, computed and done
(https://github.com/triton-inference-server/server/blob/main/docs/user_guide/trace.md).
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import ServerError

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

_WRITTEN_WITHIN = 10.0
"""Seconds that the server gets to write the traces after the last answer."""

_SETTINGS = ("trace_level", "trace_rate", "trace_count", "log_frequency")


@dataclass(frozen=True, slots=True)
class Span:
    """One model's part of a traced request; times in milliseconds since the request's start.

    Attributes:
        parent: The model that it worked for; empty for the whole request.
        depth: 0 for the whole request, 1 for its stages, more for what python models call.
        queue_ms: Waiting for an instance; so the next three: gathering inputs, computing,
            writing outputs. All are 0 for an ensemble, which does nothing of that itself.
        end_ms: When its response was ready.
        cached: Whether it answered without computing: from the response cache.
    """

    model: str
    parent: str
    depth: int
    start_ms: float
    queue_ms: float
    input_ms: float
    compute_ms: float
    output_ms: float
    end_ms: float
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """One request: the whole of it first, then the others by their start."""

    spans: tuple[Span, ...]

    @property
    def root(self) -> Span:
        """The whole request."""
        return self.spans[0]

    @property
    def stages(self) -> tuple[Span, ...]:
        """All but the whole."""
        return self.spans[1:]

    @property
    def total_ms(self) -> float:
        """From the request's arrival in the server's core to its response."""
        return self.root.end_ms

    @property
    def between_ms(self) -> float:
        """Time in which no stage worked or waited: the ensemble's scheduling."""
        busy, reached = 0.0, 0.0
        for span in sorted(self.stages, key=lambda span: span.start_ms):
            end = min(span.end_ms, self.total_ms)
            busy += max(0.0, end - max(span.start_ms, reached))
            reached = max(reached, end)
        return max(0.0, self.total_ms - busy)


def parse_traces(texts: Iterable[str], *, where: str = "trace") -> list[Trace]:
    """Every request in trace files, in the order in which they arrived.

    Raises:
        ServerError: A text is no trace.
    """
    models: dict[int, dict[str, Any]] = {}
    times: dict[int, dict[str, int]] = {}
    try:
        for text in texts:
            for entry in json.loads(text):
                number = int(entry["id"])
                if "model_name" in entry:
                    models[number] = entry
                for stamp in entry.get("timestamps", ()):
                    times.setdefault(number, {})[str(stamp["name"])] = int(stamp["ns"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ServerError(
            f"is no trace of a Triton server: {error!r}",
            where=where,
            hint="run the command again; another process may write to that file",
        ) from error
    roots = [n for n, entry in models.items() if "parent_id" not in entry and _began(times, n)]
    return [_tree(n, models, times) for n in sorted(roots, key=lambda n: _began(times, n))]


def median_trace(traces: Sequence[Trace]) -> Trace:
    """The request of median duration (the longer of the middle two)."""
    return sorted(traces, key=lambda trace: trace.total_ms)[len(traces) // 2]


def trace_file(client: "InferenceServerClient", *, where: str) -> Path:
    """The file that a running server writes traces to.

    Raises:
        ServerError: The server cannot trace, was started without such a file, or keeps it where
            this process does not see it.
    """
    hint = (
        "start tritonserver with --trace-config triton,file=<path>, or leave out --url: "
        "a server that can is started then"
    )
    settings = _settings(client, where, hint)
    name = settings.get("trace_file", "")
    if not name:
        raise ServerError("was started without a trace file", where=where, hint=hint)
    if settings.get("trace_mode", "triton") != "triton":
        raise ServerError(
            f"traces in mode {settings['trace_mode']}, not triton", where=where, hint=hint
        )
    path = Path(name)
    if not path.is_absolute() or not path.parent.is_dir():
        raise ServerError(
            f"writes traces to {name}, which is not on this machine", where=where, hint=hint
        )
    return path


def collect(
    client: "InferenceServerClient",
    model: str,
    send: Callable[[], object],
    *,
    count: int,
    file: Path,
    where: str,
) -> list[Trace]:
    """Trace `count` requests to one model, and put the server's settings back.

    Only requests to `model` are traced; those of others to the same model may be among them.

    Args:
        send: Sends one request, and waits for the answer.
        file: Where the server writes traces; it appends numbers.

    Raises:
        ServerError: The server cannot trace, a request failed, or no trace was written.
    """
    known = set(_files(file))
    with _tracing(client, model, count, where):
        for _ in range(count):
            send()
        deadline = time.monotonic() + _WRITTEN_WITHIN
        while True:
            new = [path for path in _files(file) if path not in known]
            late = time.monotonic() > deadline
            try:
                traces = parse_traces((p.read_text(encoding="utf-8") for p in new), where=str(file))
            except ServerError:
                if late:
                    raise
                traces = []  # half written: look again
            found = [trace for trace in traces if trace.root.model == model]
            if len(found) >= count or (found and late):
                return found
            if late:
                raise ServerError(
                    f"wrote no trace within {_WRITTEN_WITHIN:.0f} seconds",
                    where=where,
                    hint=f"see whether it may write to {file.parent}",
                )
            time.sleep(0.05)


def _files(file: Path) -> Iterator[Path]:
    """The numbered files that belong to a trace file."""
    for path in file.parent.glob("*"):
        stem, _, number = path.name.rpartition(".")
        if stem == file.name and number.isdigit():
            yield path


@contextmanager
def _tracing(client: "InferenceServerClient", model: str, count: int, where: str) -> Iterator[None]:
    values = {
        "trace_level": ["TIMESTAMPS"],
        "trace_rate": "1",
        "trace_count": str(count),
        "log_frequency": "1",
    }
    _update(client, model, values, where)
    try:
        yield
    finally:
        # None takes a setting back to the server's own; a dead server has none to put back.
        with suppress(ServerError):
            _update(client, model, dict.fromkeys(_SETTINGS), where)


def _update(
    client: "InferenceServerClient", model: str, values: Mapping[str, Any], where: str
) -> None:
    from tritonclient.utils import InferenceServerException

    try:
        client.update_trace_settings(model_name=model, settings=dict(values), client_timeout=30.0)
    except InferenceServerException as error:
        raise ServerError(
            f"does not let itself be traced: {error.message()}",
            where=where,
            hint="its build may lack tracing; leave out --url to use a server that has it",
        ) from error


def _settings(client: "InferenceServerClient", where: str, hint: str) -> dict[str, str]:
    from tritonclient.utils import InferenceServerException

    try:
        answer = client.get_trace_settings(client_timeout=30.0)
    except InferenceServerException as error:
        raise ServerError(f"cannot trace: {error.message()}", where=where, hint=hint) from error
    return {name: ",".join(setting.value) for name, setting in answer.settings.items()}


def _began(times: Mapping[int, Mapping[str, int]], number: int) -> int:
    return times.get(number, {}).get("REQUEST_START", 0)


def _tree(
    root: int, models: Mapping[int, Mapping[str, Any]], times: Mapping[int, Mapping[str, int]]
) -> Trace:
    children: dict[int, list[int]] = {}
    for number, entry in models.items():
        if "parent_id" in entry and _began(times, number):
            children.setdefault(int(entry["parent_id"]), []).append(number)
    zero = _began(times, root)

    def walk(number: int, parent: str, depth: int) -> Iterator[Span]:
        name = str(models[number]["model_name"])
        below = sorted(children.get(number, ()), key=lambda n: _began(times, n))
        yield _span(name, parent, depth, times[number], zero, leaf=not below)
        for child in below:
            yield from walk(child, name, depth + 1)

    whole, *stages = walk(root, "", 0)
    if stages and whole.end_ms < max(span.end_ms for span in stages):
        whole = replace(whole, end_ms=max(span.end_ms for span in stages))
    return Trace((whole, *stages))


def _span(
    model: str, parent: str, depth: int, at: Mapping[str, int], zero: int, *, leaf: bool
) -> Span:
    def between(start: str, end: str) -> float:
        return max(0, at[end] - at[start]) / 1e6 if start in at and end in at else 0.0

    # REQUEST_END is when the memory was given back, which may be long after the response.
    ends = ("INFER_RESPONSE_COMPLETE", "COMPUTE_END", "REQUEST_END")
    end = next((at[name] for name in ends if name in at), at["REQUEST_START"])
    return Span(
        model,
        parent,
        depth,
        (at["REQUEST_START"] - zero) / 1e6,
        between("QUEUE_START", "COMPUTE_START"),
        between("COMPUTE_START", "COMPUTE_INPUT_END"),
        between("COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"),
        between("COMPUTE_OUTPUT_START", "COMPUTE_END"),
        (end - zero) / 1e6,
        leaf and "COMPUTE_START" not in at,
    )
