"""What a search found: as JSON, and as tables for people."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from builder.bench.perf_analyzer import Figures
from builder.config import StageOptions
from builder.tune.judge import Turn
from builder.tune.search import Search, Trial
from builder.tune.space import TUNED, describe
from builder.tune.tuner import LegResult, Tuner

FORMAT = 1


def to_json(
    tuner: Tuner,
    *,
    model: str,
    request: str,
    machine: Mapping[str, str],
    versions: Mapping[str, str],
    written: str | None,
) -> dict[str, Any]:
    """Every measurement, what followed from it, and where.

    Args:
        written: The file that the winner was written to; None if it was not.
    """
    return {
        "format": FORMAT,
        "model": model,
        "request": request,
        "goal": tuner.judge.goal,
        "p99_ms": tuner.judge.p99_ms,
        "budget": tuner.budget,
        "seconds": round(tuner.spent, 1),
        "machine": dict(machine),
        "versions": dict(versions),
        "shares": {name: round(share, 4) for name, share in tuner.shares.items()},
        "first": [_turn(turn) for turn in tuner.first],
        "legs": [_leg(result) for result in tuner.results],
        "notes": tuner.notes,
        "before": {name: _settings(options) for name, options in tuner.before.items()},
        "settings": {name: _settings(options) for name, options in tuner.changed.items()},
        "nearest_p99_ms": tuner.nearest_p99,
        "written": written,
    }


def print_result(tuner: Tuner, console: Console) -> None:
    """The tables, one per leg, and what was not searched."""
    batch = {stage.name: stage.max_batch_size for stage in tuner.stages}
    if len(tuner.shares) > 1:
        parts = sorted(tuner.shares.items(), key=lambda item: -item[1])
        text = ", ".join(f"{name} {share:.0%}" for name, share in parts)
        console.print(f"share of the time: {text}", highlight=False)
    for result in tuner.results:
        console.print()
        console.print(_table(result, batch[result.stage]))
        if result.search.remark:
            console.print(f"[yellow]cut short[/yellow]: {result.search.remark}", highlight=False)
    for note in tuner.notes:
        console.print(f"[dim]{note}[/dim]", highlight=False)


def median_figures(turns: Sequence[Turn]) -> dict[int, Figures]:
    """The median of every figure, by concurrency."""
    levels = turns[0] if turns else {}
    names = [field.name for field in dataclasses.fields(Figures)]
    return {
        level: Figures(
            *(statistics.median(getattr(turn[level], name) for turn in turns) for name in names)
        )
        for level in levels
    }


def _table(result: LegResult, max_batch_size: int) -> Table:
    trials = [trial for trial in result.trials if trial.turns or trial.out]
    levels = sorted({level for trial in trials for turn in trial.turns for level in turn})
    heading = " / ".join(f"x{level}" for level in levels)
    table = Table(
        title=f"{result.stage}: {result.leg}, {result.seconds:g} s per measurement",
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("settings")
    for column in ("per second", "p50 ms", "p99 ms"):
        table.add_column(f"{column} {heading}", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("verdict")
    for trial in trials:
        figures = median_figures(trial.turns)
        table.add_row(
            describe(trial.candidate, max_batch_size),
            _join(figures[level].per_second for level in levels if level in figures),
            _join(figures[level].p50_ms for level in levels if level in figures),
            _join(figures[level].p99_ms for level in levels if level in figures),
            _ratio_text(result.search, trial),
            trial.verdict,
            style="green" if trial is result.search.winner and trial is not trials[0] else None,
        )
    return table


def _ratio_text(search: Search[StageOptions], trial: Trial[StageOptions]) -> str:
    """The median ratio with its range: of the duel, else of the rounds."""
    ratios = search.pair_ratios(trial) or trial.ratios
    if not ratios:
        return ""
    text = f"{statistics.median(ratios):.2f}"
    return text if len(ratios) == 1 else f"{text} ({min(ratios):.2f} to {max(ratios):.2f})"


def _join(values: Any) -> str:
    return " / ".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in values)


def _settings(options: StageOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in TUNED}


def _turn(turn: Turn) -> dict[str, Any]:
    return {str(level): dataclasses.asdict(figures) for level, figures in turn.items()}


def _leg(result: LegResult) -> dict[str, Any]:
    return {
        "stage": result.stage,
        "leg": result.leg,
        "seconds": result.seconds,
        "remark": result.search.remark,
        "candidates": [
            {
                "settings": _settings(trial.candidate),
                "verdict": trial.verdict,
                "winner": trial is result.search.winner,
                "ratios": trial.ratios,
                "pair_ratios": result.search.pair_ratios(trial),
                "turns": [_turn(turn) for turn in trial.turns],
            }
            for trial in result.trials
        ],
        "left_out": [_settings(options) for options in result.left_out],
    }
