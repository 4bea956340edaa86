"""The arithmetic of `noise` as ONNX nodes, operation by operation."""

import numpy as np

from builder.families.flux import noise
from builder.families.flux.nodes import Nodes


def normal_nodes(g: Nodes, seed: str, block: str) -> str:
    """`noise.normal` as nodes.

    Args:
        seed: INT64 [B,1].
        block: INT64 [1,M], the counter: 0 to M-1.

    Returns:
        FP32 [B,M,4].
    """
    from onnx import TensorProto

    mask = g.constant(noise.MASK, np.int64)
    low = g.add("BitwiseAnd", seed, mask)
    high = g.add("Div", g.add("Sub", seed, low), g.constant(noise.MASK + 1, np.int64))
    key = (low, g.add("BitwiseAnd", high, mask))
    words = _philox(g, block, key)
    pairs = (*_box_muller(g, words[0], words[1]), *_box_muller(g, words[2], words[3]))
    last = g.constant([-1], np.int64)
    singles = [
        g.add("Unsqueeze", g.add("Cast", value, to=TensorProto.FLOAT), last) for value in pairs
    ]
    return g.add("Concat", *singles, axis=2)


def _philox(g: Nodes, block: str, key: tuple[str, str]) -> tuple[str, str, str, str]:
    mask = g.constant(noise.MASK, np.int64)
    zero = g.constant([[0]], np.int64)
    c0, c1, c2, c3 = block, zero, zero, zero
    k0, k1 = key
    for number in range(noise.ROUNDS):
        high0, low0 = _product(g, c0, noise.MULTIPLIERS[0])
        high1, low1 = _product(g, c2, noise.MULTIPLIERS[1])
        c0, c2 = (
            g.add("BitwiseXor", g.add("BitwiseXor", c1, k0), high1),
            g.add("BitwiseXor", g.add("BitwiseXor", c3, k1), high0),
        )
        c1, c3 = low1, low0
        if number < noise.ROUNDS - 1:
            k0 = g.add("BitwiseAnd", g.add("Add", k0, g.constant(noise.WEYL[0], np.int64)), mask)
            k1 = g.add("BitwiseAnd", g.add("Add", k1, g.constant(noise.WEYL[1], np.int64)), mask)
    return c0, c1, c2, c3


def _product(g: Nodes, word: str, multiplier: int) -> tuple[str, str]:
    """Upper and lower 32 bits of a product of 32-bit words, in halves that INT64 can hold."""
    half = g.constant(2**16, np.int64)
    upper = g.add("Mul", word, g.constant(multiplier >> 16, np.int64))
    lower = g.add("Mul", word, g.constant(multiplier & 0xFFFF, np.int64))
    # product = upper * 2^16 + lower; both summands of `carried` stay below 2^48
    carried = g.add(
        "Add",
        lower,
        g.add("Mul", g.add("BitwiseAnd", upper, g.constant(0xFFFF, np.int64)), half),
    )
    high = g.add(
        "Add",
        g.add("Div", upper, half),
        g.add("Div", carried, g.constant(noise.MASK + 1, np.int64)),
    )
    return high, g.add("BitwiseAnd", carried, g.constant(noise.MASK, np.int64))


def _box_muller(g: Nodes, first: str, second: str) -> tuple[str, str]:
    from onnx import TensorProto

    def real(value: float) -> str:
        return g.constant(value, np.float64)

    def whole(value: int) -> str:
        return g.constant(value, np.int64)

    plus_one = g.add("Add", g.add("Cast", first, to=TensorProto.DOUBLE), real(1.0))
    u = g.add("Mul", plus_one, real(2.0**-32))
    radius = g.add("Sqrt", g.add("Mul", _log(g, u), real(-2.0)))
    turned = g.add("Add", second, whole(noise.EIGHTH))
    rest = g.add("BitwiseAnd", turned, whole(noise.QUARTER - 1))
    quarter = g.add("BitwiseAnd", g.add("Div", turned, whole(noise.QUARTER)), whole(3))
    centred = g.add("Cast", g.add("Sub", rest, whole(noise.EIGHTH)), to=TensorProto.DOUBLE)
    angle = g.add("Mul", centred, real(noise.ANGLE_UNIT))
    square = g.add("Mul", angle, angle)
    sine = g.add("Mul", angle, _series(g, square, noise.SIN_SERIES))
    cosine = _series(g, square, noise.COS_SERIES)
    odd = g.add("Equal", g.add("BitwiseAnd", quarter, whole(1)), whole(1))
    x, y = g.add("Where", odd, sine, cosine), g.add("Where", odd, cosine, sine)
    # The signs of quarters 0 to 3; a product with -1 is a change of sign, no rounding.
    sign_x = g.add("Gather", _table(g, (1.0, -1.0, -1.0, 1.0)), quarter)
    sign_y = g.add("Gather", _table(g, (1.0, 1.0, -1.0, -1.0)), quarter)
    return (
        g.add("Mul", radius, g.add("Mul", x, sign_x)),
        g.add("Mul", radius, g.add("Mul", y, sign_y)),
    )


def _table(g: Nodes, values: tuple[float, ...]) -> str:
    """A constant FP64 vector."""
    return g.constant(values, np.float64)


def _log(g: Nodes, u: str) -> str:
    def real(value: float) -> str:
        return g.constant(value, np.float64)

    mantissa, exponent = u, real(0.0)
    steps = ((bound, 1.0 / bound, halvings) for bound, halvings in noise.HALVINGS)
    for bound, factor, halvings in (*steps, (noise.SQRT_HALF, 2.0, 1.0)):
        low = g.add("Less", mantissa, real(bound))
        mantissa = g.add("Mul", mantissa, g.add("Where", low, real(factor), real(1.0)))
        exponent = g.add("Sub", exponent, g.add("Where", low, real(halvings), real(0.0)))
    s = g.add("Div", g.add("Sub", mantissa, real(1.0)), g.add("Add", mantissa, real(1.0)))
    series = _series(g, g.add("Mul", s, s), noise.LOG_SERIES)
    return g.add("Add", g.add("Mul", exponent, real(noise.LN2)), g.add("Mul", s, series))


def _series(g: Nodes, x: str, coefficients: tuple[float, ...]) -> str:
    total = g.constant(coefficients[-1], np.float64)
    for coefficient in reversed(coefficients[:-1]):
        total = g.add("Add", g.add("Mul", total, x), g.constant(coefficient, np.float64))
    return total
