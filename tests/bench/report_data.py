"""Small reports whose medians can be computed by hand."""

from collections.abc import Sequence
from typing import Any

from builder.bench.results import CaseInfo, Problem, Report, Run

MACHINE = {"cpu": "A CPU", "cores": "2"}


def case(name: str = "one", **changes: Any) -> CaseInfo:
    values = {"title": "A case", "unit": "window", "request": "FP32 [100,25]"} | changes
    variants = values.pop("variants", {"native": ("m",), "python": ("m_py",)})
    return CaseInfo(name, variants=variants, **values)


def run(variant: str = "native", round: int = 1, per_second: float = 100.0, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "case": "one",
        "models": ("m",) if variant == "native" else ("m_py",),
        "concurrency": 4,
        "seconds": 5.0,
        "requests": int(per_second * 5),
        "p50_ms": 10.0,
        "p90_ms": 12.0,
        "p95_ms": 13.0,
        "p99_ms": 20.0,
    } | changes
    return Run(variant=variant, round=round, per_second=per_second, **values)


def report(runs: Sequence[Run] = (), **changes: Any) -> Report:
    values: dict[str, Any] = {
        "created": "2026-01-02T03:04:05Z",
        "machine": MACHINE,
        "versions": {"tritonserver": "2.51.0"},
        "settings": {"rounds": "3"},
        "cases": (case(),),
    } | changes
    return Report(runs=tuple(runs), **values)


def rounds(variant: str, figures: Sequence[float], **changes: Any) -> list[Run]:
    """One run per figure: requests per second in rounds 1, 2, …"""
    return [run(variant, number, figure, **changes) for number, figure in enumerate(figures, 1)]


def usual() -> Report:
    """Two variants, three rounds, two concurrencies."""
    runs = [
        *rounds("native", [300.0, 100.0, 200.0], concurrency=1),
        *rounds("python", [50.0, 25.0, 40.0], concurrency=1),
        *rounds("native", [900.0, 1000.0, 1100.0]),
        *rounds("python", [100.0, 100.0, 100.0], p99_ms=80.0),
    ]
    return report(runs, problems=(Problem("two", "the server died", "see its log"),))
