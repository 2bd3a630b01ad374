"""Powers of e and two, and logarithms, of vectors of float32: what activations are made of.

The polynomials are Chebyshev fits in float64; LLVM has had no vector library for Numba since SVML went away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from convc.backends.cpu.primitives import F64, I32, Value, fma, function

EXP = [0.5000000013468379, 0.16666666719031673, 0.041666464914580495, 0.0083332984697224,
       0.0013933650354120235, 0.00019899285074944216]  # fmt: skip
EXP_WITHIN = [1.000000032183778, 0.4999999420556456, 0.16666431170129095, 0.0416680025742652,
              0.008374163377315327, 0.0013843644119806726]  # fmt: skip
LOG = [0.3333390951156616, -0.2500133812427521, 0.19963061809539795, -0.165775865316391, 0.1491478681564331,
       -0.1426747590303421, 0.08700359612703323]  # fmt: skip
MAGIC = 12582912.0
"""1.5 * 2^23: added to a number of at most 2^22, it leaves the nearest whole number in the lowest bits."""
LOG_WIDE = [-0.5000000028418982, 0.33333331982196657, -0.24999938114336795, 0.2000009650788134, -0.16670327692637046,
            0.14285696485926114, -0.12412642222666768, 0.11021111560369133, -0.1087052648963468, 0.10726921581555515,
            -0.059940009005653966]  # fmt: skip
"""P of log(1 + f) = f + f^2 P(f) for 1 + f of 0.71 to 1.41, to 1e-10."""
SQRT_HALF_BITS = 0x3F3504F3
LOG2, LOG2E, LN2_HIGH, LN2_LOW = 0.6931471805599453, 1.4426950408889634, 0.693359375, -2.12194440e-4


def const(like: Value, value: float) -> Value:
    """`value` in every lane of a vector like `like`."""
    return ir.Constant(like.type, [ir.Constant(like.type.element, value)] * like.type.count)


def _whole(like: Value) -> Value:
    """The vector of as many int32."""
    return ir.VectorType(I32, like.type.count)


def _integer(like: Value, value: int) -> Value:
    return ir.Constant(_whole(like), [value] * like.type.count)


def polynomial(builder: Any, x: Value, coefficients: Sequence[float]) -> Value:
    """The sum of coefficients[i] x^i."""
    total = const(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = fma(builder, total, x, const(x, coefficient))
    return total


def unary_llvm(name: str) -> Callable[[Any, Value], Value]:
    """LLVM's own function of a vector."""

    def apply(builder: Any, x: Value) -> Value:
        return builder.call(function(builder, f"llvm.{name}.v{x.type.count}f32", x.type, [x.type]), [x])

    return apply


floor, ceil, rint, fabs, sqrt = map(unary_llvm, ("floor", "ceil", "roundeven", "fabs", "sqrt"))


def at_least(builder: Any, x: Value, low: Value) -> Value:
    """Max with a bound that is not NaN: one vmaxps, and NaN in x passes."""
    return builder.select(builder.fcmp_ordered(">", low, x), low, x)


def at_most(builder: Any, x: Value, high: Value) -> Value:
    """Min, likewise."""
    return builder.select(builder.fcmp_ordered("<", high, x), high, x)


def _power_of_two(builder: Any, n: Value) -> Value:
    bits = builder.add(builder.fptosi(n, _whole(n)), _integer(n, 127))
    return builder.bitcast(builder.shl(bits, _integer(n, 23)), n.type)


def _times_power(builder: Any, p: Value, n: Value) -> Value:
    """2^n p in two factors: 2^n itself may not be a float."""
    half = floor(builder, builder.fmul(n, const(n, 0.5)))
    return builder.fmul(builder.fmul(p, _power_of_two(builder, half)), _power_of_two(builder, builder.fsub(n, half)))


def exp(builder: Any, x: Value) -> Value:
    """2^n * (1 + r + r^2 P(r)), n = round(x / ln 2). Below -104 the result is 0, above 88.73 infinite."""
    bounded = at_most(builder, at_least(builder, x, const(x, -104.0)), const(x, 89.0))
    numeric = builder.select(builder.fcmp_unordered("uno", x, x), const(x, 0.0), bounded)
    n = rint(builder, builder.fmul(numeric, const(x, LOG2E)))
    r = fma(builder, n, const(x, -LN2_HIGH), numeric)
    r = fma(builder, n, const(x, -LN2_LOW), r)
    p = fma(builder, polynomial(builder, r, EXP), builder.fmul(r, r), builder.fadd(r, const(x, 1.0)))
    return or_nan(builder, x, _times_power(builder, p, n))


def exp_within(builder: Any, x: Value) -> Value:
    """exp(x) for -86 <= x <= 88 in half the instructions, to 1.5e-7; anything for NaN.

    n = round(x / ln 2) comes out of the lowest bits of a sum, and goes into the exponent of 1 + r Q(r) by an addition.
    """
    shifted, r, q = _reduced(builder, x)
    p = fma(builder, r, q, const(x, 1.0))
    exponent = builder.shl(builder.bitcast(shifted, _whole(x)), _integer(x, 23))
    return builder.bitcast(builder.add(builder.bitcast(p, _whole(x)), exponent), x.type)


def exp_down(builder: Any, x: Value) -> Value:
    """exp(x) for x <= 0, likewise; 0 below -87."""
    found = exp_within(builder, at_least(builder, x, const(x, -86.0)))
    return builder.select(builder.fcmp_ordered("<", x, const(x, -87.0)), const(x, 0.0), found)


def _reduced(builder: Any, x: Value) -> tuple[Value, Value, Value]:
    """A sum with n = round(x / ln 2) in its lowest bits, the r that is left, and Q(r) with exp(r) = 1 + r Q(r)."""
    shifted = fma(builder, x, const(x, LOG2E), const(x, MAGIC))
    n = builder.fsub(shifted, const(x, MAGIC))
    r = fma(builder, n, const(x, -LN2_LOW), fma(builder, n, const(x, -LN2_HIGH), x))
    return shifted, r, polynomial(builder, r, EXP_WITHIN)


def reciprocal(builder: Any, x: Value) -> Value:
    """1 / x to 1.5e-7, where neither is below the normal range: 16 lanes divide at a quarter of this speed."""
    if x.type.count != 16:
        return builder.fdiv(const(x, 1.0), x)
    mask = ir.IntType(16)
    near = builder.call(
        function(builder, "llvm.x86.avx512.rcp14.ps.512", x.type, [x.type, x.type, mask]),
        [x, const(x, 0.0), mask(0xFFFF)],
    )
    return fma(builder, near, fma(builder, builder.fneg(x), near, const(x, 1.0)), near)


def or_nan(builder: Any, x: Value, value: Value) -> Value:
    """`value`, or NaN where x is."""
    return builder.select(builder.fcmp_unordered("uno", x, x), x, value)


def log(builder: Any, x: Value) -> Value:
    """N log 2 + f - f^2 / 2 + f^3 P(f), where x = 2^n (1 + f) and 1 + f is 0.71 to 1.41."""
    n, f = _apart(builder, x)
    square = builder.fmul(f, f)
    found = builder.fmul(polynomial(builder, f, LOG), builder.fmul(f, square))
    found = fma(builder, square, const(x, -0.5), fma(builder, n, const(x, LN2_LOW), found))
    found = fma(builder, n, const(x, LN2_HIGH), builder.fadd(f, found))
    edge = builder.select(builder.fcmp_ordered("==", x, const(x, 0.0)), const(x, -math.inf), const(x, math.nan))
    found = builder.select(builder.fcmp_ordered(">", x, const(x, 0.0)), found, edge)
    return builder.select(builder.fcmp_ordered("==", x, const(x, math.inf)), x, found)


def _apart(builder: Any, x: Value) -> tuple[Value, Value]:
    """N and f of x = 2^n (1 + f), 1 + f of 0.71 to 1.41; x finite and above 0, also below the normal range."""
    small = builder.fcmp_ordered("<", x, const(x, 2.0**-126))
    bits = builder.bitcast(builder.select(small, builder.fmul(x, const(x, 2.0**23)), x), _whole(x))
    above = builder.sub(bits, _integer(x, SQRT_HALF_BITS))
    scaled = builder.bitcast(builder.sub(bits, builder.and_(above, _integer(x, -(1 << 23)))), x.type)
    n = builder.sitofp(builder.ashr(above, _integer(x, 23)), x.type)
    n = builder.fadd(n, builder.select(small, const(x, -23.0), const(x, 0.0)))
    return n, builder.fsub(scaled, const(x, 1.0))


def power(builder: Any, x: Value, y: Value) -> Value:
    """|x|^y as exp(y log |x|), the exponent in float64; signs and edges as C's pow has them."""
    size, zero, one = fabs(builder, x), const(x, 0.0), const(x, 1.0)
    n, f = _apart(builder, size)
    wide = ir.VectorType(F64, x.type.count)
    f64, n64, y64 = (builder.fpext(value, wide) for value in (f, n, y))
    found = fma(builder, builder.fmul(f64, f64), polynomial(builder, f64, LOG_WIDE), f64)
    exponent = builder.fmul(y64, fma(builder, n64, const(f64, LOG2), found))
    exponent = at_most(builder, at_least(builder, exponent, const(exponent, -150.0)), const(exponent, 150.0))
    times = rint(builder, builder.fptrunc(builder.fmul(exponent, const(exponent, LOG2E)), x.type))
    left = fma(builder, builder.fpext(times, wide), const(exponent, -LOG2), exponent)
    r = builder.fptrunc(left, x.type)
    p = fma(builder, polynomial(builder, r, EXP), builder.fmul(r, r), builder.fadd(r, one))
    found = _times_power(builder, p, times)
    large = builder.select(builder.fcmp_ordered(">", y, zero), const(x, math.inf), zero)
    found = builder.select(builder.fcmp_ordered("==", size, const(x, math.inf)), large, found)
    small = builder.select(builder.fcmp_ordered(">", y, zero), zero, const(x, math.inf))
    found = builder.select(builder.fcmp_ordered("==", size, zero), small, found)
    found = builder.select(builder.fcmp_ordered("==", size, one), one, found)
    half = builder.fmul(y, const(x, 0.5))
    even = builder.fcmp_ordered("==", half, floor(builder, half))
    whole = builder.fcmp_ordered("==", y, floor(builder, y))
    negative = builder.icmp_signed("<", builder.bitcast(x, _whole(x)), _integer(x, 0))
    odd = builder.and_(negative, builder.and_(whole, builder.not_(even)))
    found = builder.select(odd, builder.fneg(found), found)
    finite = builder.and_(builder.fcmp_ordered("<", x, zero), builder.fcmp_ordered(">", x, const(x, -math.inf)))
    found = builder.select(builder.and_(finite, builder.not_(whole)), const(x, math.nan), found)
    found = or_nan(builder, x, or_nan(builder, y, found))
    certain = builder.or_(builder.fcmp_ordered("==", y, zero), builder.fcmp_ordered("==", x, one))
    return builder.select(certain, one, found)


def expm1(builder: Any, x: Value) -> Value:
    """exp(x) - 1 for x <= 88, as 2^n (exp(r) - 1) + 2^n - 1; anything for NaN."""
    shifted, r, q = _reduced(builder, at_least(builder, x, const(x, -86.0)))
    exponent = builder.shl(builder.bitcast(shifted, _whole(x)), _integer(x, 23))
    scale = builder.bitcast(builder.add(exponent, _integer(x, 127 << 23)), x.type)
    return fma(builder, scale, builder.fmul(r, q), builder.fsub(scale, const(x, 1.0)))
