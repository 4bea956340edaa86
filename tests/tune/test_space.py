"""Which candidates there are, and that the server would tell them apart."""

import dataclasses

import pytest

from builder.config import StageOptions
from builder.tune.space import (
    TUNED,
    batching_leg,
    changes,
    describe,
    execution_leg,
    legs,
)

DEFAULT = StageOptions()


@pytest.mark.parametrize("cores", [1, 2, 3, 6, 16])
def test_execution_uses_no_more_threads_than_cores(cores: int) -> None:
    leg = execution_leg(DEFAULT, cores)
    pairs = [(c.instances, c.intra_op_threads) for c in leg.candidates]
    assert len(set(pairs)) == len(pairs)
    assert (1, 1) not in pairs
    assert all(instances * threads <= cores for instances, threads in pairs)
    if cores > 1:
        assert {(cores, 1), (1, cores)} <= set(pairs)


def test_all_cores_by_the_name_of_zero_is_not_tried_twice() -> None:
    leg = execution_leg(dataclasses.replace(DEFAULT, intra_op_threads=0), 4)
    assert (1, 4) not in [(c.instances, c.intra_op_threads) for c in leg.candidates]


def test_on_a_gpu_only_instances_are_searched() -> None:
    leg = execution_leg(dataclasses.replace(DEFAULT, device="gpu"), 16)
    assert {c.intra_op_threads for c in leg.candidates} == {1}
    assert [c.instances for c in leg.candidates] == [4, 3, 2]


def test_batching_candidates_differ_for_the_server() -> None:
    leg = batching_leg(DEFAULT, 8)
    assert dataclasses.replace(DEFAULT, dynamic_batching=False) in leg.candidates
    assert {c.max_queue_delay_us for c in leg.candidates} == {0, 100, 500, 2000}
    assert {c.preferred_batch_sizes for c in leg.candidates} == {(), (4,), (2, 4, 8)}
    # (8,) is what Triton fills in for an empty list
    asked = dataclasses.replace(DEFAULT, preferred_batch_sizes=(8,), max_queue_delay_us=100)
    same = dataclasses.replace(DEFAULT, max_queue_delay_us=100)
    assert same not in batching_leg(asked, 8).candidates


@pytest.mark.parametrize("size", [2, 3, 4, 6, 8, 16])
def test_preferred_sizes_fit_the_largest_batch(size: int) -> None:
    for candidate in batching_leg(DEFAULT, size).candidates:
        assert all(1 < n <= size for n in candidate.preferred_batch_sizes)


def test_from_no_batching_batching_is_tried() -> None:
    off = dataclasses.replace(DEFAULT, dynamic_batching=False)
    candidates = batching_leg(off, 4).candidates
    assert off not in candidates
    assert DEFAULT in candidates
    assert changes(DEFAULT, off) == {"dynamic_batching": True}


def test_a_stage_without_batch_dim_has_no_batching_leg() -> None:
    assert [leg.name for leg in legs(DEFAULT, 0, 2)] == ["execution"]
    assert [leg.name for leg in legs(DEFAULT, 1, 2)] == ["execution"]
    assert [leg.name for leg in legs(DEFAULT, 8, 2)] == ["execution", "batching"]
    assert [leg.name for leg in legs(DEFAULT, 8, 1)] == ["batching"]


def test_only_what_is_tuned_changes() -> None:
    for leg in legs(dataclasses.replace(DEFAULT, response_cache=True, warmup=False), 8, 4):
        for candidate in leg.candidates:
            assert candidate.response_cache
            assert not candidate.warmup
    assert set(TUNED) <= {field.name for field in dataclasses.fields(StageOptions)}


def test_changes_are_what_builder_toml_says() -> None:
    options = dataclasses.replace(DEFAULT, instances=2, preferred_batch_sizes=(2, 4))
    assert changes(options, DEFAULT) == {"instances": 2, "preferred_batch_sizes": [2, 4]}
    assert changes(DEFAULT, DEFAULT) == {}


def test_a_line_for_people() -> None:
    assert describe(DEFAULT, 0) == "instances 1, threads 1"
    options = dataclasses.replace(DEFAULT, max_queue_delay_us=100, preferred_batch_sizes=(2, 4))
    assert describe(options, 8) == "instances 1, threads 1, delay 100 us, prefer 2,4"
    off = dataclasses.replace(DEFAULT, dynamic_batching=False)
    assert describe(off, 8) == "instances 1, threads 1, no batching"
