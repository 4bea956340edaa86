"""Medians, ratios and the account of time, against figures computed by hand."""

import pytest

from builder.bench import summary
from builder.bench.results import Report, StageShare, Usage
from builder.bench.summary_text import mib_text, number, range_text, times_text
from tests.bench.report_data import report, rounds, run, usual


def stage(
    model: str, inferences: int, executions: int, *times: float, **more: object
) -> StageShare:
    return StageShare(model, inferences, executions, *times, **more)  # type: ignore[arg-type]


class TestSpread:
    def test_median_and_range_of_an_odd_and_an_even_number(self) -> None:
        odd, even = summary.spread([3.0, 1.0, 2.0]), summary.spread([4.0, 1.0, 2.0, 3.0])
        assert odd is not None
        assert even is not None
        assert (odd.median, odd.low, odd.high, odd.rounds) == (2.0, 1.0, 3.0, 3)
        assert even.median == 2.5

    def test_one_disturbed_round_moves_the_range_but_not_the_deviation(self) -> None:
        one = summary.spread([10.0, 11.0, 9.0, 10.0, 1000.0])
        assert one is not None
        assert (one.median, one.high, one.deviation) == (10.0, 1000.0, 1.0)

    def test_nothing_is_none(self) -> None:
        assert summary.spread([]) is None


class TestCells:
    def test_medians_over_rounds(self) -> None:
        cell = summary.cell(usual(), "one", "native", 1)
        assert cell is not None
        assert (cell.per_second.median, cell.per_second.low) == (200.0, 100.0)
        assert [run.round for run in cell.runs] == [1, 2, 3]

    def test_order_is_by_concurrency_then_native_first_and_floor_last(self) -> None:
        one = report(
            [run(v, concurrency=c) for c in (8, 1) for v in ("floor", "python", "bank", "native")]
        )
        assert summary.concurrencies(one, "one") == [1, 8]
        assert [cell.variant for cell in summary.cells(one, "one")][:4] == [
            "native",
            "python",
            "bank",
            "floor",
        ]

    def test_a_run_that_answered_nothing_is_no_measurement(self) -> None:
        one = report([run(per_second=0.0), run("python")])
        assert summary.cell(one, "one", "native", 4) is None
        assert [cell.variant for cell in summary.cells(one, "one")] == ["python"]

    def test_unstable_rounds_are_counted(self) -> None:
        cell = summary.cell(report([run(), run(round=2, stable=False)]), "one", "native", 4)
        assert cell is not None
        assert cell.unstable == 1


class TestRatio:
    def test_is_paired_within_the_round(self) -> None:
        # 300/50, 100/25, 200/40: unpaired medians (200/40) would hide the range.
        ratio = summary.ratio(usual(), "one", 1, "native", "python")
        assert ratio is not None
        assert (ratio.median, ratio.low, ratio.high) == (5.0, 4.0, 6.0)

    def test_of_p99(self) -> None:
        ratio = summary.ratio(usual(), "one", 4, "native", "python", summary.P99)
        assert ratio is not None
        assert ratio.median == 20.0 / 80.0

    def test_a_round_that_one_variant_missed_does_not_count(self) -> None:
        runs = [*rounds("native", [10.0, 30.0]), run("python", 2, 10.0), run("python", 7, 1.0)]
        ratio = summary.ratio(report(runs), "one", 4, "native", "python")
        assert ratio is not None
        assert (ratio.median, ratio.rounds) == (3.0, 1)

    @pytest.mark.parametrize("missing", ["native", "python"])
    def test_without_a_variant_there_is_none(self, missing: str) -> None:
        runs = [r for r in usual().runs if r.variant != missing]
        assert summary.ratio(report(runs), "one", 4, "native", "python") is None


class TestBreakdown:
    def _of(self, one: Report) -> summary.Breakdown:
        cell = summary.cell(one, "one", "native", 4)
        assert cell is not None
        found = summary.breakdown(cell)
        assert found is not None
        return found

    def test_of_one_model_leaves_the_rest_to_network_and_client(self) -> None:
        # 4 in flight at 400/s: 10 ms each, of which 1 + 2 + 4 + 0.5 in the model.
        shares = (stage("m", 100, 50, 1000.0, 2000.0, 4000.0, 500.0),)
        found = self._of(report([run(per_second=400.0, stages=shares)]))
        assert found.latency_ms == pytest.approx(10.0)
        assert found.stages[0].total_ms == pytest.approx(7.5)
        assert found.stages[0].batch == 2.0
        assert found.rest_ms == pytest.approx(2.5)

    def test_a_stage_that_is_visited_four_times_counts_four_times(self) -> None:
        shares = (stage("a", 100, 100, 0, 0, 1000.0, 0), stage("b", 400, 100, 0, 0, 1000.0, 0))
        found = self._of(report([run(per_second=400.0, requests=100, stages=shares)]))
        by_name = {s.model: s for s in found.stages}
        assert by_name["a"].compute_ms == pytest.approx(1.0)
        assert by_name["b"].compute_ms == pytest.approx(4.0)
        assert by_name["b"].visits == 4.0
        assert found.rest_ms == pytest.approx(5.0)

    def test_an_ensembles_own_entry_is_not_counted_twice(self) -> None:
        # The ensemble m took 3 ms in all, 1 ms of it in its stage; the server counted 200
        # requests, of which the load generator's window saw 100.
        shares = (stage("m", 200, 200, 0, 0, 3000.0, 0), stage("a", 200, 200, 0, 0, 1000.0, 0))
        found = self._of(report([run(per_second=400.0, requests=100, stages=shares)]))
        times = {s.model: s.total_ms for s in found.stages}
        assert times == pytest.approx({"a": 1.0, "m itself": 2.0})
        assert found.rest_ms == pytest.approx(7.0)

    def test_a_mixed_load_shares_a_request_among_models(self) -> None:
        shares = tuple(stage(name, 50, 50, 0, 0, 2000.0, 0) for name in ("a", "b"))
        found = self._of(report([run(per_second=400.0, models=("a", "b"), stages=shares)]))
        assert sum(s.compute_ms for s in found.stages) == pytest.approx(2.0)
        assert [s.visits for s in found.stages] == [0.5, 0.5]

    def test_stages_side_by_side_leave_no_negative_rest(self) -> None:
        shares = (stage("a", 10, 10, 0, 0, 8000.0, 0), stage("b", 10, 10, 0, 0, 8000.0, 0))
        found = self._of(report([run(per_second=400.0, requests=10, stages=shares)]))
        assert found.overlapped
        assert found.rest_ms == 0.0

    def test_a_stage_that_the_cache_answered_is_not_forgotten(self) -> None:
        shares = (
            stage("m", 100, 100, 0, 0, 3000.0, 0),
            stage("a", 25, 25, 0, 0, 1000.0, 0, cache_hits=75),
            stage("b", 0, 0, 0, 0, 0, 0, cache_hits=100),
        )
        found = self._of(report([run(per_second=400.0, stages=shares)]))
        by_name = {s.model: s for s in found.stages}
        assert (by_name["a"].visits, by_name["a"].cached) == (1.0, 0.75)
        assert by_name["a"].compute_ms == pytest.approx(0.25)
        assert (by_name["b"].visits, by_name["b"].cached, by_name["b"].batch) == (1.0, 1.0, 0.0)

    def test_without_statistics_there_is_none(self) -> None:
        cell = summary.cell(usual(), "one", "native", 4)
        assert cell is not None
        assert summary.breakdown(cell) is None


def test_batch_sizes_add_up_over_rounds_and_models() -> None:
    first = (stage("a", 5, 3, 0, 0, 0, 0, batch_sizes={"1": 2, "3": 1}),)
    second = (stage("b", 4, 2, 0, 0, 0, 0, batch_sizes={"3": 1, "1": 1, "8": 0}),)
    one = report([run(stages=first), run(round=2, stages=second)])
    cell = summary.cell(one, "one", "native", 4)
    assert cell is not None
    assert summary.batch_sizes(cell) == {1: 3, 3: 2}
    assert summary.batch_sizes(cell, "b") == {1: 1, 3: 1}
    assert summary.mean_batch({1: 3, 3: 2}) == pytest.approx(9 / 5)
    assert summary.mean_batch({}) is None


def test_cost_is_the_median_of_what_is_known() -> None:
    uses = [Usage(server_cores=1.0, stub_cores=0.5), Usage(server_cores=3.0), Usage()]
    one = report([run(round=n, usage=used) for n, used in enumerate(uses)])
    cell = summary.cell(one, "one", "native", 4)
    assert cell is not None
    used = summary.cost(cell)
    assert (used.server_cores, used.serving_cores, used.gpu_mib) == (2.0, 2.5, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012345, "0.0123"),
        (4.5649, "4.56"),
        (9.996, "10.0"),
        (99.96, "100"),
        (999.6, "1,000"),
        (12345.4, "12,345"),
        (0.0, "0"),
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_ranges_and_memory_as_text() -> None:
    many, alone = summary.spread([4.0, 5.0, 6.0]), summary.spread([5.0])
    assert many is not None
    assert alone is not None
    assert times_text(many) == "5.00\N{MULTIPLICATION SIGN} (4.00 to 6.00)"
    assert times_text(alone) == "5.00\N{MULTIPLICATION SIGN}"
    assert range_text(alone) == "one round"
    assert times_text(None) == "\N{EN DASH}"
    assert (mib_text(512.4), mib_text(2048.0)) == ("512 MiB", "2.00 GiB")
