"""The real server under the real load, with one candidate after the other loaded into it.

A candidate is loaded with its configuration in the load request (`config` of Triton's model
repository extension): nothing is built or written. Loading a stage loads the pipelines that use it
again, too. The response cache is off: the requests repeat, and answering them from the cache would
measure nothing.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from builder.bench.case import Case, Load, Variant
from builder.bench.perf_analyzer import Figures, LoadError
from builder.bench.results import NATIVE, StageShare
from builder.bench.served import MOST_WINDOW, CaseServer, Measurement, Prepared
from builder.bench.tool import PerfAnalyzer
from builder.config import Config, StageOptions
from builder.errors import BuilderError, ServerError
from builder.serving.client import infer
from builder.tune.candidate import candidate_config, config_json
from builder.tune.judge import Turn
from builder.tune.search import CandidateError
from builder.tune.subject import Subject

_WARMUP_REQUESTS = 2
_STRETCH = 4.0

_ANSWERS = 4
"""Makes a window twice as long as the median latency: `CaseServer` wants 8 answers in one."""


class Arena:
    """A server that measures settings; a context manager.

    Args:
        levels: Concurrencies that make a turn.
    """

    def __init__(self, config: Config, subject: Subject, tool: PerfAnalyzer, levels: Sequence[int]):
        self._config = config.replace("server", response_cache_mib=0)
        self._subject = subject
        self._stages = {stage.name: stage for stage in subject.stages}
        self._tool = tool
        self._levels = tuple(levels)
        self._requests = list(subject.load.requests())
        load = Load(subject.load.model, lambda: self._requests)
        self._variant = Variant(name=NATIVE, loads=(load,))
        case = Case(
            name=subject.name,
            title=subject.name,
            unit="request",
            request=subject.request,
            variants=(self._variant,),
            config=self._config,
        )
        self._scratch = tempfile.TemporaryDirectory(prefix="builder-tune-")
        self._loaded: dict[str, StageOptions] = {}
        self._prepared = Prepared()
        self._shares: tuple[StageShare, ...] = ()
        self._server = CaseServer(case, [self._variant])

    def __enter__(self) -> "Arena":
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server."""
        self._server.stop()
        self._scratch.cleanup()

    @property
    def installation_text(self) -> str:
        """Kind and version of the server."""
        installation = self._server.server.installation
        return f"{installation.kind} {installation.version or ''}".strip()

    @property
    def shares(self) -> Mapping[str, float]:
        """Stage -> its part of the time that all stages took, waiting included; last turn."""
        spent = {
            share.model: share.inferences
            * (share.queue_us + share.input_us + share.compute_us + share.output_us)
            for share in self._shares
            if share.model in self._stages
        }
        total = sum(spent.values())
        return {name: time / total for name, time in spent.items()} if total else {}

    def turn(self, settings: Mapping[str, StageOptions], seconds: float) -> Turn:
        """Load the settings of all stages and measure every level.

        Args:
            seconds: Length of one measurement; a slow model takes longer.

        Raises:
            CandidateError: They do not load, or do not survive the load. The server has been
                started again then, if need be.
            ServerError: The server does not start again.
        """
        self._apply(settings)
        try:
            self._ask()
            turn: dict[int, Figures] = {}
            for level in self._levels:
                measured = self._measure(level, seconds)
                turn[level] = measured.figures
                self._shares = measured.stages
            # That of the first requests, which is known so far, says little about the rest.
            self._prepared.latency = max(f.p50_ms for f in turn.values()) / _ANSWERS / 1e3
        except ServerError as error:
            reason = self._server.why_dead() or str(error.what)
            # It may be dead, or hang: the next candidate gets a fresh one.
            self._start()
            raise CandidateError(_one_line(reason)) from error
        return turn

    def _measure(self, level: int, seconds: float) -> Measurement:
        """One level; once more, with longer windows, if the load generator failed.

        On a busy machine it gives up where no answer falls into a window, or where the server's
        statistics come late: neither is the fault of the candidate.
        """
        try:
            return self._measure_once(level, seconds)
        except LoadError:
            if not self._server.server.running:
                raise
        self._ask()  # raises if the server hangs
        self._prepared.latency *= _STRETCH
        return self._measure_once(level, seconds)

    def _ask(self) -> None:
        for request in self._requests[:_WARMUP_REQUESTS]:
            infer(self._server.client, self._variant.models[0], request, timeout=MOST_WINDOW)

    def _measure_once(self, level: int, seconds: float) -> Measurement:
        return self._server.measure(
            self._tool,
            self._variant,
            self._prepared,
            concurrency=level,
            seconds=seconds,
            folder=Path(self._scratch.name) / "runs",
        )

    def _start(self) -> None:
        self._loaded.clear()
        self._server.start()
        if reason := self._server.why_unusable(self._variant):
            raise ServerError(reason, where=self._subject.name, hint="run builder build first")
        self._prepared = self._server.prepare(self._variant, Path(self._scratch.name) / "requests")

    def _apply(self, settings: Mapping[str, StageOptions]) -> None:
        for name, options in settings.items():
            if self._loaded.get(name) == options:
                continue
            self._loaded.pop(name, None)
            self._load(name, options)
            self._loaded[name] = options

    def _load(self, name: str, options: StageOptions) -> None:
        from tritonclient.utils import InferenceServerException

        try:
            text = config_json(candidate_config(self._config, self._stages[name], options))
            self._server.client.load_model(
                name, config=text, client_timeout=self._config.server.timeout
            )
        except InferenceServerException as error:
            reason = self._server.why_dead()
            if reason is not None or "DEADLINE" in str(error.status()):
                self._start()
            raise CandidateError(
                _one_line(reason or f"does not load: {error.message()}")
            ) from error
        except BuilderError as error:
            raise CandidateError(_one_line(error.what)) from error


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
