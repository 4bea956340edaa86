"""What counts as a change, and what as noise."""

import itertools

import pytest

from builder.bench.compare import compare, regressions, verdict
from tests.bench.report_data import MACHINE, case, report, rounds, run


class TestVerdict:
    def test_disjoint_ranges_are_a_change(self) -> None:
        assert verdict([100, 102, 98], [80, 82, 78], bigger_is_better=True) == "worse"
        assert verdict([100, 102, 98], [80, 82, 78], bigger_is_better=False) == "better"

    def test_overlapping_ranges_are_noise(self) -> None:
        assert verdict([100, 102, 81], [80, 82, 78], bigger_is_better=True) == "same"

    def test_a_difference_below_the_threshold_is_noise_however_sure(self) -> None:
        assert verdict([100, 100.1, 99.9], [97, 97.1, 96.9], bigger_is_better=True) == "same"
        assert verdict([100, 100.1], [97, 97.1], bigger_is_better=True, threshold=0.01) == "worse"

    def test_one_round_says_nothing(self) -> None:
        assert verdict([100], [50, 51, 52], bigger_is_better=True) == "unclear"
        assert verdict([], [50], bigger_is_better=True) == "unclear"

    def test_five_rounds_need_complete_separation(self) -> None:
        before, after = [100.0, 101, 102, 103, 104], [80.0, 81, 82, 83, 84]
        assert verdict(before, after, bigger_is_better=True) == "worse"
        assert verdict(before, [80.0, 81, 82, 83, 101.5], bigger_is_better=True) == "same"

    def test_many_rounds_bear_one_outlier(self) -> None:
        before = [100.0 + i for i in range(9)]
        after = [80.0 + i for i in range(8)] + [120.0]
        assert verdict(before, after, bigger_is_better=True) == "worse"

    def test_level_of_the_test_by_enumeration(self) -> None:
        """Of all ways to deal ten ranked values to two reports, few may look like a change."""
        values = [100.0 * 1.1**i for i in range(10)]  # far enough apart for the threshold
        marked = ways = 0
        for chosen in itertools.combinations(range(10), 5):
            before = [values[i] for i in chosen]
            after = [values[i] for i in range(10) if i not in chosen]
            ways += 1
            marked += verdict(before, after, bigger_is_better=True) != "same"
        assert ways == 252
        assert marked == 2  # all low against all high, and the other way round


class TestCompare:
    def test_figures_and_ratios(self) -> None:
        before = report([*rounds("native", [100.0, 101.0]), *rounds("python", [10.0, 10.1])])
        after = report([*rounds("native", [50.0, 51.0]), *rounds("python", [10.0, 10.1])])
        found = compare(after, before)
        change = found.find("one", "native", 4, "throughput")
        assert change is not None
        assert change.verdict == "worse"
        assert change.relative == pytest.approx(50.5 / 100.5 - 1)
        same = found.find("one", "python", 4, "throughput")
        assert same is not None
        assert same.verdict == "same"
        ratio = found.find("one", "native", 4, "throughput ratio to python")
        assert ratio is not None
        assert ratio.before == pytest.approx(10.0)

    def test_regressions_leave_out_what_is_compared_with(self) -> None:
        before = report([*rounds("native", [100.0, 101.0]), *rounds("python", [10.0, 10.1])])
        after = report([*rounds("native", [100.0, 101.0]), *rounds("python", [5.0, 5.1])])
        assert regressions(after, before) == []
        worse = report([*rounds("native", [50.0, 51.0]), *rounds("python", [10.0, 10.1])])
        assert {c.figure for c in regressions(worse, before)} == {
            "throughput",
            "throughput ratio to python",
        }

    def test_a_longer_p99_is_a_regression(self) -> None:
        before = report([run(p99_ms=10.0), run(round=2, p99_ms=11.0)])
        after = report([run(p99_ms=20.0), run(round=2, p99_ms=21.0)])
        assert [c.figure for c in regressions(after, before)] == ["p99"]
        assert regressions(before, after) == []

    def test_on_another_machine_only_ratios_count(self) -> None:
        before = report([*rounds("native", [100.0, 101.0]), *rounds("python", [10.0, 10.1])])
        slower = report(
            [*rounds("native", [50.0, 50.5]), *rounds("python", [5.0, 5.05])],
            machine=MACHINE | {"cpu": "An older CPU"},
        )
        found = compare(slower, before)
        assert not found.same_machine
        assert found.differences == {"machine: cpu": ("A CPU", "An older CPU")}
        assert regressions(slower, before) == []
        lost = report(
            [*rounds("native", [50.0, 50.5]), *rounds("python", [10.0, 10.1])],
            machine=slower.machine,
        )
        assert [c.figure for c in regressions(lost, before)] == ["throughput ratio to python"]

    def test_what_only_one_has_is_named(self) -> None:
        before = report([run(), run("trt")])
        after = report([run(), run(concurrency=8), run(case="two")], cases=(case(), case("two")))
        found = compare(after, before)
        assert found.only_before == ("one, trt at concurrency 4",)
        assert found.only_after == (
            "one, native at concurrency 8",
            "two, native at concurrency 4",
        )

    def test_versions_settings_and_requests_that_differ_are_named(self) -> None:
        before = report([run()], cases=(case(request="FP32 [50,25]"),))
        after = report([run()], versions={"torch": "2"}, settings={"rounds": "5"})
        assert compare(after, before).differences == {
            "version: tritonserver": ("2.51.0", "not named"),
            "version: torch": ("not named", "2"),
            "setting: rounds": ("3", "5"),
            "request: one": ("FP32 [50,25]", "FP32 [100,25]"),
        }

    def test_empty_reports(self) -> None:
        assert compare(report(), report()).changes == ()
        assert regressions(report(), report([run()])) == []
