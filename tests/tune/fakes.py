"""A machine whose speed is known, with noise that is the same in every run."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from builder.bench.perf_analyzer import Figures
from builder.config import StageOptions
from builder.tune.judge import Turn
from builder.tune.search import CandidateError


def figures(per_second: float, p99_ms: float | None = None) -> Figures:
    """One client's figures: the latency follows from the throughput unless it is given."""
    latency = 1000.0 / per_second
    p99 = 2 * latency if p99_ms is None else p99_ms
    return Figures(per_second, latency, latency, latency, p99)


@dataclass
class FakeMachine:
    """Measures settings by a formula.

    Attributes:
        speed: Requests per second with some settings, without noise.
        noise: Each measurement is off by up to this part.
        drift: The machine gets slower by this part with every turn.
        seconds_per_turn: What a turn takes on `now`.
    """

    speed: Callable[[Mapping[str, StageOptions]], float]
    noise: float = 0.0
    drift: float = 0.0
    p99: Callable[[Mapping[str, StageOptions]], float] | None = None
    fails: Callable[[Mapping[str, StageOptions]], bool] = lambda settings: False
    shares: dict[str, float] = field(default_factory=dict)
    levels: tuple[int, ...] = (1, 8)
    seconds_per_turn: float = 1.0
    seed: int = 0
    now: float = 0.0
    turns: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def turn(self, settings: Mapping[str, StageOptions], seconds: float) -> Turn:
        self.turns += 1
        self.now += self.seconds_per_turn
        if self.fails(settings):
            raise CandidateError("the server died")
        slow = (1 - self.drift) ** self.turns
        p99 = None if self.p99 is None else self.p99(settings)
        return {
            level: figures(
                self.speed(settings) * slow * (1 + self._random.uniform(-self.noise, self.noise)),
                p99,
            )
            for level in self.levels
        }

    def clock(self) -> float:
        return self.now
