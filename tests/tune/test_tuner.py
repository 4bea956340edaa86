"""The whole search on a fake machine: order of stages, legs, budget, limits."""

import dataclasses
from collections.abc import Mapping

import pytest

from builder.config import StageOptions
from builder.errors import ServerError
from builder.stage import OnnxSource, Stage, Tensor
from builder.tune.judge import Judge
from builder.tune.tuner import Tuner
from tests.tune.fakes import FakeMachine

DEFAULT = StageOptions()


def stage(name: str, max_batch_size: int = 0) -> Stage:
    tensor = Tensor("x", "FP32", ("B",))
    return Stage(
        name=name,
        family="test",
        inputs=(tensor,),
        outputs=(tensor,),
        source=OnnxSource(build=lambda: None, reference=lambda arrays: arrays),  # type: ignore[arg-type, return-value]
        example=lambda shape, rng: {},
        shapes=({"B": 1}, {"B": 2}),
        max_batch_size=max_batch_size,
    )


def tuner(machine: FakeMachine, *stages: Stage, budget: float = 1000, **judge: float) -> Tuner:
    return Tuner(
        machine,
        stages,
        {s.name: DEFAULT for s in stages},
        Judge(**judge),  # type: ignore[arg-type]
        cores=4,
        budget=budget,
        clock=machine.clock,
    )


def prefers(wanted: StageOptions, name: str = "a") -> FakeMachine:
    """A machine that is faster by half for every setting that is as wanted."""

    def speed(settings: Mapping[str, StageOptions]) -> float:
        mine = settings[name]
        keys = ("instances", "max_queue_delay_us")
        right = sum(getattr(mine, key) == getattr(wanted, key) for key in keys)
        return float(100 * 1.5**right)

    return FakeMachine(speed, noise=0.05)


def test_the_winners_of_both_legs_add_up() -> None:
    wanted = dataclasses.replace(DEFAULT, instances=2, max_queue_delay_us=500)
    found = tuner(prefers(wanted), stage("a", 8))
    found.run()
    assert found.changed == {"a": wanted} or (
        found.changed["a"].instances == 2 and found.changed["a"].max_queue_delay_us == 500
    )
    assert [result.leg for result in found.results] == ["execution", "batching"]


def test_nothing_better_changes_nothing() -> None:
    found = tuner(FakeMachine(lambda settings: 100, noise=0.02), stage("a", 8))
    found.run()
    assert found.changed == {}


def test_the_stage_with_most_of_the_time_comes_first_and_small_ones_are_left_out() -> None:
    machine = prefers(dataclasses.replace(DEFAULT, instances=4), "b")
    machine.shares = {"a": 0.2, "b": 0.79, "c": 0.01}
    found = tuner(machine, stage("a"), stage("b"), stage("c"))
    found.run()
    assert [result.stage for result in found.results] == ["b", "a"]
    assert set(found.changed) == {"b"}
    assert found.changed["b"].instances == 4
    assert found.notes == ["c is not searched: 1.0% of the time"]


def test_later_stages_are_measured_with_what_the_earlier_ones_won() -> None:
    seen: list[tuple[int, int]] = []

    def speed(settings: Mapping[str, StageOptions]) -> float:
        seen.append((settings["a"].instances, settings["b"].instances))
        return 100.0 * settings["a"].instances

    machine = FakeMachine(speed, shares={"a": 0.9, "b": 0.1})
    found = tuner(machine, stage("b"), stage("a"))
    found.run()
    assert found.changed["a"].instances == 4
    assert all(a == 4 for a, b in seen if b != 1)


def test_the_budget_is_kept() -> None:
    for budget in (5, 20, 60, 200):
        machine = FakeMachine(lambda settings: 100, noise=0.3, seconds_per_turn=2)
        found = tuner(machine, stage("a", 8), budget=budget)
        found.run()
        assert found.spent <= budget + 4  # a turn that has begun is finished


def test_too_small_a_budget_says_what_would_do() -> None:
    machine = FakeMachine(lambda settings: 100, seconds_per_turn=30)
    found = tuner(machine, stage("a"), budget=60)
    found.run()
    assert found.results == []
    assert found.changed == {}
    [note] = found.notes
    assert "a turn takes 30 s" in note
    needed = float(note.split("--budget ")[1].split()[0])
    again = tuner(FakeMachine(lambda s: 100, seconds_per_turn=30), stage("a"), budget=needed)
    again.run()
    assert again.results


def test_candidates_that_do_not_fit_are_named_not_measured() -> None:
    machine = FakeMachine(lambda settings: 100, seconds_per_turn=1)
    found = tuner(machine, stage("a"), budget=22)
    found.run()
    [result] = found.results
    assert result.left_out
    assert "left out for lack of time" in found.notes[0]


def test_no_settings_within_the_limit_name_the_nearest() -> None:
    machine = FakeMachine(lambda s: 100, p99=lambda settings: 40 / settings["a"].instances)
    found = tuner(machine, stage("a"), p99_ms=5)
    found.run()
    assert found.nearest_p99 == pytest.approx(10)
    within = tuner(dataclasses.replace(machine), stage("a"), p99_ms=15)
    within.run()
    assert within.nearest_p99 is None
    assert within.changed["a"].instances == 4


def test_the_limit_is_checked_even_if_nothing_could_be_searched() -> None:
    machine = FakeMachine(lambda s: 100, p99=lambda settings: 40, seconds_per_turn=100)
    found = tuner(machine, stage("a"), budget=10, p99_ms=5)
    found.run()
    assert found.nearest_p99 == 40


def test_candidates_that_kill_the_server_are_survived() -> None:
    machine = FakeMachine(lambda s: 100 * s["a"].instances, fails=lambda s: s["a"].instances == 4)
    found = tuner(machine, stage("a"))
    found.run()
    assert found.changed["a"].instances == 2
    verdicts = {t.candidate.instances: t.verdict for t in found.results[0].trials}
    assert verdicts[4] == "out: the server died"


def test_current_settings_that_fail_are_an_error() -> None:
    with pytest.raises(ServerError, match="current settings cannot be measured"):
        tuner(FakeMachine(lambda s: 100, fails=lambda s: True), stage("a")).run()


def test_an_interruption_leaves_what_is_known() -> None:
    machine = FakeMachine(lambda s: 100 * s["a"].instances)
    found = tuner(machine, stage("a", 8))
    plain = machine.turn

    def turn(settings: Mapping[str, StageOptions], seconds: float) -> object:
        if machine.turns == 9:
            raise KeyboardInterrupt
        return plain(settings, seconds)

    machine.turn = turn  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        found.run()
    assert len(found.results) == 1
    assert any(trial.turns for trial in found.results[0].trials)
