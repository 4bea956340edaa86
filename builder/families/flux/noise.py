"""Initial noise: Philox 4x32-10 and Box-Muller, the same bits on every machine.

A seed is a key; block i of the counter gives four 32-bit words, and each pair of words gives two
normal values. The logarithm and the sine are series of + - * / in FP64, one rounding for each
operation, so any implementation that follows IEEE 754 gives equal bits; a library's `log` and
`cos` would not. `prepare_graph` builds the same as an ONNX graph, from the constants here.

Philox: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011; the known answers of its library Random123 are a test.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""Added to the two words of the key after each round."""

ROUNDS = 10
MASK = 0xFFFFFFFF

HALVINGS = tuple((2.0**-n, float(n)) for n in (16, 8, 4, 2, 1))
"""Steps that bring u of (0,1] into [1/2,1]: where u is below the first number, the exponent falls
by the second."""

SQRT_HALF = math.sqrt(0.5)
LN2 = math.log(2.0)
LOG_SERIES = tuple(2.0 / (2 * k + 1) for k in range(9))
"""log(m) = s * sum of LOG_SERIES[k] * s^(2k) with s = (m-1)/(m+1); |s| <= 0.172, error 1e-15."""

SIN_SERIES = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(8))
COS_SERIES = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(9))
"""Taylor series of sin(a)/a and cos(a) in a*a; |a| <= pi/4, error 1e-15."""

ANGLE_UNIT = math.pi / 2**31
"""Radians per unit of a 32-bit angle."""

EIGHTH, QUARTER = 2**29, 2**30
"""An eighth and a quarter of a turn, in units of a 32-bit angle."""


def normal(seeds: "NDArray[np.int64]", count: int) -> "NDArray[np.float32]":
    """Standard normal values.

    Args:
        seeds: INT64 [B]; all 64 bits count.
        count: Values per seed, a multiple of 4.

    Returns:
        FP32 [B,count]. A longer array starts with the same values.
    """
    if count % 4:
        raise ValueError(f"count {count} is no multiple of 4")
    bits = seeds.astype(np.int64).view(np.uint64)[:, None]
    key = (bits & np.uint64(MASK), bits >> np.uint64(32))
    blocks = np.arange(count // 4, dtype=np.uint64)[None, :]
    zero = np.zeros_like(blocks)
    words = philox((blocks & np.uint64(MASK), blocks >> np.uint64(32), zero, zero), key)
    pairs = (*box_muller(words[0], words[1]), *box_muller(words[2], words[3]))
    return np.stack(pairs, axis=-1).astype(np.float32).reshape(len(seeds), count)


def philox(
    counter: "tuple[NDArray[np.uint64], ...]", key: "tuple[NDArray[np.uint64], ...]"
) -> "tuple[NDArray[np.uint64], ...]":
    """Philox 4x32-10.

    Args:
        counter: Four arrays of 32-bit words, kept in 64 bits.
        key: Two arrays of 32-bit words.

    Returns:
        Four arrays of 32-bit words; shapes broadcast.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    mask, half = np.uint64(MASK), np.uint64(32)
    for _ in range(ROUNDS):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & mask, (p0 >> half) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + np.uint64(WEYL[0])) & mask, (k1 + np.uint64(WEYL[1])) & mask
    return c0, c1, c2, c3


def box_muller(
    first: "NDArray[np.uint64]", second: "NDArray[np.uint64]"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Two standard normal values from two 32-bit words each.

    Returns:
        r cos(t) and r sin(t), FP64, with r = sqrt(-2 log u), u = (first + 1) / 2^32 and
        t = 2 pi second / 2^32.
    """
    u = (first.astype(np.float64) + 1.0) * 2.0**-32
    radius = np.sqrt(_log(u) * -2.0)
    turned = second.astype(np.int64) + EIGHTH
    quarter = (turned // QUARTER) & 3
    angle = ((turned & (QUARTER - 1)) - EIGHTH).astype(np.float64) * ANGLE_UNIT
    square = angle * angle
    sine, cosine = angle * _series(square, SIN_SERIES), _series(square, COS_SERIES)
    odd = (quarter & 1) == 1
    x, y = np.where(odd, sine, cosine), np.where(odd, cosine, sine)
    minus_x = ((quarter + 1) & 2) == 2  # quarters 1 and 2
    minus_y = (quarter & 2) == 2  # quarters 2 and 3
    return radius * np.where(minus_x, -x, x), radius * np.where(minus_y, -y, y)


def _log(u: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Natural logarithm for u in [2^-32, 1]."""
    mantissa, exponent = u, np.zeros_like(u)
    for bound, halvings in HALVINGS:
        low = mantissa < bound
        mantissa = np.where(low, mantissa / bound, mantissa)
        exponent = np.where(low, exponent - halvings, exponent)
    low = mantissa < SQRT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = np.where(low, exponent - 1.0, exponent)
    s: NDArray[np.float64] = (mantissa - 1.0) / (mantissa + 1.0)
    return exponent * LN2 + s * _series(s * s, LOG_SERIES)


def _series(x: "NDArray[np.float64]", coefficients: tuple[float, ...]) -> "NDArray[np.float64]":
    """A polynomial by Horner's rule, lowest power first in `coefficients`."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
