"""The server of a case, its models, and one measurement of them."""

import contextlib
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.bench.case import Case, Load, Variant
from builder.bench.gpu import GpuWatch
from builder.bench.perf_analyzer import (
    STRETCH,
    WINDOWS,
    Figures,
    LoadError,
    LoadGenerators,
    OptionError,
)
from builder.bench.requests import perf_analyzer_json
from builder.bench.results import StageShare, Usage
from builder.bench.server_stats import answered, failures, read_counters, stage_shares
from builder.bench.tool import PerfAnalyzer
from builder.bench.usage import Sampler
from builder.errors import ServerError, from_os_error
from builder.serving.client import connect, infer
from builder.serving.launch import make_server
from builder.stage import Arrays

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

FEWEST_ANSWERS = 8
"""Answers that a window is long enough for, at the latency of a single client."""

MOST_WINDOW = 60.0
"""Seconds that a window is never longer than, however slow the model."""

_LONGER = 4.0
_WARMUP_SECONDS = 2.0
_WARMUP_FEWEST = 3
_LOOK_SECONDS = (0.05, 0.5)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One variant at one concurrency."""

    figures: Figures
    seconds: float
    requests: int
    stable: bool
    stages: tuple[StageShare, ...] = ()
    usage: Usage = Usage()


@dataclass(slots=True)
class Prepared:
    """A variant whose requests are written and which has answered.

    Attributes:
        targets: Model and its `--input-data`, for each load.
        latency: Seconds that one request takes when it is alone.
    """

    targets: list[tuple[str, Path]] = field(default_factory=list)
    latency: float = 0.0


class CaseServer:
    """A server with the models of some variants, and nothing else.

    Args:
        variants: Variants that it serves; they have the same `config_name`.
    """

    def __init__(self, case: Case, variants: Sequence[Variant]):
        models = [m for variant in variants for m in (*variant.models, *variant.needs)]
        with _environ(case.environ):
            self.server, self.selection = make_server(
                case.config,
                python=True,
                models=list(dict.fromkeys(models)),
                model_config_name=variants[0].config_name or None,
                strict=False,
                free_ports=True,
            )
        self._environ = case.environ
        self._client: InferenceServerClient | None = None

    def start(self) -> None:
        """Start it, or start it again.

        Raises:
            ServerError: It does not start. Models that fail to load are no reason not to.
        """
        self.stop()
        with _environ(self._environ):
            self.server.start()
        self._client = connect(self.server.grpc_url)

    def stop(self) -> None:
        """Stop it; may be called twice."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self.server.stop()

    @property
    def client(self) -> "InferenceServerClient":
        """A client of it."""
        if self._client is None:
            raise ServerError("the server has not been started")
        return self._client

    def why_dead(self) -> str | None:
        """How the server ended; None if it runs."""
        if self.server.running:
            return None
        return f"the server died; its last words:\n{self.server.last_words()}"

    def why_unusable(self, variant: Variant) -> str | None:
        """Why the models of a variant are not ready; None if they are."""
        reasons = {state.name: state.reason for state in self.server.failures()}
        for model in (*variant.models, *variant.needs):
            if model in reasons:
                others = [f"{n}: {r}" for n, r in reasons.items() if n in reasons[model]]
                return "; ".join([f"{model} did not load: {reasons[model]}", *others])
        return None

    def prepare(self, variant: Variant, folder: Path) -> Prepared:
        """Write the requests of a variant, send some of them, and see how long they take.

        Raises:
            ServerError: The model does not answer them.
            DataError: They do not fit perf_analyzer.
            RepositoryError: They cannot be written.
        """
        prepared = Prepared()
        latencies = []
        for number, load in enumerate(variant.loads):
            requests = list(load.requests())
            path = folder / f"{variant.name}-{number}.json"
            text = perf_analyzer_json(requests, batched=self._batched(load))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            except OSError as error:
                raise from_os_error(error, "writing requests", path) from error
            prepared.targets.append((load.model, path))
            latencies.append(self._warm_up(load, requests))
        prepared.latency = statistics.mean(latencies)
        return prepared

    def _batched(self, load: Load) -> bool:
        from tritonclient.utils import InferenceServerException

        try:
            answer = self.client.get_model_config(load.model, client_timeout=10.0)
        except InferenceServerException as error:
            raise ServerError(f"gives no configuration: {error}", where=load.model) from error
        return int(answer.config.max_batch_size) > 0

    def _warm_up(self, load: Load, requests: Sequence[Arrays]) -> float:
        """Median latency of some requests, the first one left out."""
        took: list[float] = []
        end = time.monotonic() + _WARMUP_SECONDS
        for request in requests:
            start = time.monotonic()
            infer(self.client, load.model, request, timeout=MOST_WINDOW)
            took.append(time.monotonic() - start)
            if len(took) >= _WARMUP_FEWEST and time.monotonic() > end:
                break
        return statistics.median(took[1:] or took)

    def measure(
        self,
        tool: PerfAnalyzer,
        variant: Variant,
        prepared: Prepared,
        *,
        concurrency: int,
        seconds: float,
        folder: Path,
    ) -> Measurement:
        """Load the variant and take its figures.

        Args:
            concurrency: Of all its loads together.
            seconds: How long to measure; longer for a model that is slow.

        Raises:
            LoadError: perf_analyzer failed, or requests did.
            ServerError: The server does not answer any more.
        """
        loads = len(prepared.targets)
        window = window_seconds(seconds, prepared.latency, loads, concurrency)
        try:
            return self._measure(tool, variant, prepared, concurrency // loads, window, folder)
        except OptionError:
            # No answer fell into a window: requests that share batches are answered in bursts.
            if not self.server.running:
                raise
        window = min(_LONGER * window, MOST_WINDOW)
        return self._measure(tool, variant, prepared, concurrency // loads, window, folder)

    def _measure(
        self,
        tool: PerfAnalyzer,
        variant: Variant,
        prepared: Prepared,
        concurrency: int,
        window: float,
        folder: Path,
    ) -> Measurement:
        """One run; the concurrency is that of every load."""
        before = read_counters(self.client)
        generators = LoadGenerators(
            tool,
            self.server.grpc_url,
            prepared.targets,
            concurrency=concurrency,
            window=window,
            folder=folder,
        )
        try:
            sampler = Sampler(
                server=self.server.pid if self.server.installation.image is None else None,
                clients=generators.pids,
                answered=lambda: answered(self.client, variant.models),
                period=min(max(window / 8, _LOOK_SECONDS[0]), _LOOK_SECONDS[1]),
            )
            with GpuWatch() as gpu, sampler:
                figures = generators.wait(slack=2 * MOST_WINDOW)
        finally:
            generators.kill()
        after = read_counters(self.client)
        if failed := failures(before, after):
            raise LoadError(f"{failed} requests failed", where=", ".join(variant.models))
        stages = stage_shares(before, after)
        # Requests that are refused at the door are in no statistics.
        if not any(stage.model in variant.models for stage in stages):
            raise LoadError("answered no request", where=", ".join(variant.models))
        if len(prepared.targets) > 1 and (rate := sampler.middle_rate) is not None:
            # The load generators start and end one after the other, and each of them is fastest
            # while others are missing: their throughputs add up to more than there was.
            figures = replace(figures, per_second=rate)
        return Measurement(
            figures,
            sampler.seconds,
            sampler.answered,
            sampler.steady,
            stages,
            replace(sampler.usage(), gpu_percent=gpu.percent, gpu_mib=gpu.mib),
        )


def window_seconds(seconds: float, latency: float, loads: int, concurrency: int) -> float:
    """Length of one of perf_analyzer's windows.

    Args:
        seconds: What all windows together should take.
        latency: Seconds that a request takes when it is alone.
        loads: Load generators; each sees its own part of the answers only.
        concurrency: Of all of them. If requests wait for each other and are then answered
            together, that happens once in `concurrency` times the latency.
    """
    fewest = latency * max(FEWEST_ANSWERS * loads, 2 * concurrency)
    return min(max(seconds / (WINDOWS * STRETCH), fewest), MOST_WINDOW)


@contextlib.contextmanager
def _environ(values: Mapping[str, str]) -> Iterator[None]:
    """The variables are set for processes that are started inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
