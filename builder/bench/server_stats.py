"""The server's own counters, before and after: where the time went, model by model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder.bench.results import StageShare
from builder.errors import ServerError

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

_TIMEOUT = 10.0
_DURATIONS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class Counters:
    """What one model has done since it was loaded, all its versions together.

    Attributes:
        nanoseconds: Of `queue` and the three parts of the computation, over all requests.
        counted: Requests that these are the sum of.
        batch_sizes: Batch size -> executions.
    """

    inferences: int = 0
    executions: int = 0
    succeeded: int = 0
    failed: int = 0
    cache_hits: int = 0
    nanoseconds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_DURATIONS, 0))
    counted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_DURATIONS, 0))
    batch_sizes: dict[int, int] = field(default_factory=dict)

    def add(self, entry: Any) -> None:
        """Add the statistics of one version (`ModelStatistics` of the protocol)."""
        stats = entry.inference_stats
        self.inferences += entry.inference_count
        self.executions += entry.execution_count
        self.succeeded += stats.success.count
        self.failed += stats.fail.count
        self.cache_hits += stats.cache_hit.count
        for name in _DURATIONS:
            self.nanoseconds[name] += getattr(stats, name).ns
            self.counted[name] += getattr(stats, name).count
        for batch in entry.batch_stats:
            size = int(batch.batch_size)
            count = int(batch.compute_infer.count)
            self.batch_sizes[size] = self.batch_sizes.get(size, 0) + count


def read_counters(client: "InferenceServerClient", model: str = "") -> dict[str, Counters]:
    """Counters by model; of all loaded models if none is named.

    Raises:
        ServerError: The server does not answer.
    """
    from tritonclient.utils import InferenceServerException

    try:
        answer = client.get_inference_statistics(model, client_timeout=_TIMEOUT)
    except InferenceServerException as error:
        raise ServerError(f"gives no statistics: {error}", where=model or "server") from error
    counters: dict[str, Counters] = {}
    for entry in answer.model_stats:
        counters.setdefault(entry.name, Counters()).add(entry)
    return counters


def answered(client: "InferenceServerClient", models: Iterable[str]) -> int | None:
    """Requests that the models have answered so far; None if the server does not say."""
    names = list(models)
    try:
        counters = read_counters(client, names[0] if len(names) == 1 else "")
    except ServerError:
        return None
    return sum(counters[name].succeeded for name in names if name in counters)


def stage_shares(
    before: Mapping[str, Counters], after: Mapping[str, Counters]
) -> tuple[StageShare, ...]:
    """What every model did in between; models that did nothing are left out."""
    shares = []
    for model, late in after.items():
        early = before.get(model, Counters())
        inferences = late.inferences - early.inferences
        hits = late.cache_hits - early.cache_hits
        if inferences <= 0 and hits <= 0:
            continue
        sizes = {
            str(size): late.batch_sizes[size] - early.batch_sizes.get(size, 0)
            for size in sorted(late.batch_sizes)
        }
        queue, gather, compute, scatter = (_mean_us(early, late, name) for name in _DURATIONS)
        shares.append(
            StageShare(
                model=model,
                inferences=inferences,
                executions=late.executions - early.executions,
                queue_us=queue,
                input_us=gather,
                compute_us=compute,
                output_us=scatter,
                cache_hits=hits,
                batch_sizes={size: count for size, count in sizes.items() if count > 0},
            )
        )
    return tuple(shares)


def failures(before: Mapping[str, Counters], after: Mapping[str, Counters]) -> int:
    """Requests that failed in between."""
    return sum(c.failed - before.get(model, Counters()).failed for model, c in after.items())


def _mean_us(early: Counters, late: Counters, name: str) -> float:
    count = late.counted[name] - early.counted[name]
    return (late.nanoseconds[name] - early.nanoseconds[name]) / count / 1e3 if count > 0 else 0.0
