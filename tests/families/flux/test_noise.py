"""Noise: Random123's known answers, the normal distribution, and equality to library functions."""

import numpy as np
import pytest
from scipy import stats

from builder.families.flux import noise

ONES = 0xFFFFFFFF
# Lines `philox4x32 10` of the file kat_vectors of Random123.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


PINNED = [
    "-0x1.f0bcb80000000p-1",
    "0x1.8d59d00000000p-3",
    "-0x1.3c51a40000000p+0",
    "0x1.ec86760000000p+0",
]


def words(values: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    return tuple(np.array([v], np.uint64) for v in values)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    assert tuple(int(w[0]) for w in noise.philox(words(counter), words(key))) == answer


def test_equal_seeds_give_equal_noise() -> None:
    first = noise.normal(np.array([5, 6, 5]), 64)
    assert np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[1])


def test_values_are_standard_normal() -> None:
    values = noise.normal(np.array([0, 1, -5, 2**63 - 1]), 1 << 16)
    for row in values:
        assert stats.kstest(row, "norm").pvalue > 1e-4
    together = values.reshape(-1)
    assert abs(float(together.mean())) < 0.01
    assert abs(float(together.std()) - 1) < 0.01
    # neighbours, of a pair and of a block, do not know of each other
    for lag in (1, 2, 3, 4):
        assert abs(np.corrcoef(together[:-lag], together[lag:])[0, 1]) < 0.01
    assert np.abs(np.corrcoef(values) - np.eye(4)).max() < 0.02


def test_box_muller_against_numpys_functions() -> None:
    chance = np.random.default_rng(3)
    ends = np.array([0, 1, 2, 2**29 - 1, 2**29, 2**30, 2**31, 3 * 2**30, 2**32 - 2, 2**32 - 1])
    a = np.append(chance.integers(0, 2**32, 50_000), ends).astype(np.uint64)
    b = np.append(chance.integers(0, 2**32, 50_000), ends[::-1]).astype(np.uint64)
    radius = np.sqrt(-2 * np.log((a + 1.0) / 2**32))
    turn = 2 * np.pi * b.astype(np.float64) / 2**32
    x, y = noise.box_muller(a, b)
    assert np.abs(x - radius * np.cos(turn)).max() < 1e-13
    assert np.abs(y - radius * np.sin(turn)).max() < 1e-13


def test_all_bits_of_a_seed_count() -> None:
    seeds = np.array([0, 1, 2**31, 2**32, 2**62, -1, -(2**63)])
    rows = noise.normal(seeds, 16)
    assert len({row.tobytes() for row in rows}) == len(seeds)


def test_a_longer_array_starts_with_the_same_values() -> None:
    seeds = np.array([9])
    assert np.array_equal(noise.normal(seeds, 64), noise.normal(seeds, 4096)[:, :64])


def test_count_is_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        noise.normal(np.array([0]), 6)


def test_pinned_values() -> None:
    """A picture belongs to its seed for ever: these values may not change."""
    first = noise.normal(np.array([42]), 4)[0]
    assert [value.hex() for value in first.astype(float)] == PINNED
