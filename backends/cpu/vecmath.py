"""The vocabulary of emitted kernels, part three: arithmetic on vectors and tiles, elementwise.

Stated errors against float64, measured over the whole range by tests: exp, log, sin, cos 2 ulp; tanh, erf, elu and its
kin 4 ulp; sigmoid, softplus, silu, mish, gelu 3e-7 of the larger of 1 and |x|, so their tails lose digits.
The polynomials are Chebyshev fits in float64; LLVM has had no vector library for Numba since SVML went away.
NaN passes through every function; max and min return NaN where either operand is NaN, as NumPy does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core.errors import TypingError
from numba.extending import intrinsic

from convc.backends.cpu.primitives import F32, I32, Tile, Value, Vec, fma, function
from convc.backends.cpu.tiles import tile_join, tile_parts

EXP = [0.5000000013468379, 0.16666666719031673, 0.041666464914580495, 0.0083332984697224,
       0.0013933650354120235, 0.00019899285074944216]  # fmt: skip
EXP_WITHIN = [1.000000032183778, 0.4999999420556456, 0.16666431170129095, 0.0416680025742652,
              0.008374163377315327, 0.0013843644119806726]  # fmt: skip
TANH = [-0.3333333310119763, 0.13333292948850567, -0.053956799965597615, 0.021749399856524944,
        -0.008281770789125948, 0.002224318734692907]  # fmt: skip
ERF_NEAR = [1.1283791658815026, -0.37612626903580443, 0.11283597463487706, -0.02685432879604287,
            0.0051893119426174895, -0.000801885499196538, 7.88249710667486e-05]  # fmt: skip
ERF_FAR = [0.0006064087388710051, 0.2736181534775212, 0.33084068045130494, 0.10126824481844582,
           0.403838362613389, -0.057338735298103516, -0.05354061612210244]  # fmt: skip
GELU = ([0.7978845238685608, 0.06761326640844345, 0.008740298449993134, 0.0002968416374642402, 6.004646365909139e-06,
         -4.400128972292805e-08, 2.337412763342428e-10],
        [1.0, 0.2514066994190216, 0.027857154607772827, 0.0017041143728420138, 5.5007447372190654e-05])  # fmt: skip
"""P and Q of erf(x / sqrt 2) = x P(x^2) / Q(x^2) for |x| < 5.4, to 4e-8."""
GELU_WITHIN = 5.4**2
LOG = [0.3333390951156616, -0.2500133812427521, 0.19963061809539795, -0.165775865316391, 0.1491478681564331,
       -0.1426747590303421, 0.08700359612703323]  # fmt: skip
LOG1P = [0.9999999403953552, -0.4999949336051941, 0.3331909477710724, -0.2484297752380371, 0.1910598874092102,
         -0.1366320699453354, 0.07822549343109131, -0.029504956677556038, 0.005232624243944883]  # fmt: skip
MAGIC = 12582912.0
"""1.5 * 2^23: added to a number of at most 2^22, it leaves the nearest whole number in the lowest bits."""
SQRT_HALF_BITS = 0x3F3504F3
LOG2E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4


def const(like: Value, value: float) -> Value:
    """`value` in every lane of a vector like `like`."""
    return ir.Constant(like.type, [ir.Constant(F32, value)] * like.type.count)


def _polynomial(builder: Any, x: Value, coefficients: Sequence[float]) -> Value:
    total = const(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = fma(builder, total, x, const(x, coefficient))
    return total


def _unary_llvm(name: str) -> Callable[[Any, Value], Value]:
    def apply(builder: Any, x: Value) -> Value:
        return builder.call(function(builder, f"llvm.{name}.v{x.type.count}f32", x.type, [x.type]), [x])

    return apply


_floor, _ceil, _rint, _fabs, _sqrt = map(_unary_llvm, ("floor", "ceil", "roundeven", "fabs", "sqrt"))


def maximum(builder: Any, a: Value, b: Value) -> Value:
    """The larger; NaN where either is NaN."""
    larger = builder.select(builder.fcmp_ordered(">", a, b), a, b)
    return builder.select(builder.fcmp_unordered("uno", a, a), a, larger)


def maximum_of_three(builder: Any, a: Value, b: Value, c: Value) -> Value:
    """The largest; NaN where one is NaN: one comparison finds it in a or b, and c, compared last, passes it on."""
    inner = builder.select(builder.fcmp_ordered(">", b, c), b, c)
    largest = builder.select(builder.fcmp_ordered(">", a, inner), a, inner)
    return builder.select(builder.fcmp_unordered("uno", a, b), const(a, math.nan), largest)


def minimum(builder: Any, a: Value, b: Value) -> Value:
    """The smaller; NaN where either is NaN."""
    smaller = builder.select(builder.fcmp_ordered("<", a, b), a, b)
    return builder.select(builder.fcmp_unordered("uno", a, a), a, smaller)


def _above(builder: Any, x: Value, low: Value) -> Value:
    """Max with a bound that is not NaN: one vmaxps, and NaN in x passes."""
    return builder.select(builder.fcmp_ordered(">", low, x), low, x)


def _below(builder: Any, x: Value, high: Value) -> Value:
    return builder.select(builder.fcmp_ordered("<", high, x), high, x)


def relu(builder: Any, x: Value) -> Value:
    """max(x, 0)."""
    return _above(builder, x, const(x, 0.0))


def _power_of_two(builder: Any, n: Value) -> Value:
    whole = ir.VectorType(I32, n.type.count)
    bits = builder.add(builder.fptosi(n, whole), ir.Constant(whole, [127] * n.type.count))
    return builder.bitcast(builder.shl(bits, ir.Constant(whole, [23] * n.type.count)), n.type)


def exp(builder: Any, x: Value) -> Value:
    """2^n * (1 + r + r^2 P(r)), n = round(x / ln 2). Below -104 the result is 0, above 88.73 infinite."""
    bounded = _below(builder, _above(builder, x, const(x, -104.0)), const(x, 89.0))
    numeric = builder.select(builder.fcmp_unordered("uno", x, x), const(x, 0.0), bounded)
    n = _rint(builder, builder.fmul(numeric, const(x, LOG2E)))
    r = fma(builder, n, const(x, -LN2_HIGH), numeric)
    r = fma(builder, n, const(x, -LN2_LOW), r)
    p = fma(builder, _polynomial(builder, r, EXP), builder.fmul(r, r), builder.fadd(r, const(x, 1.0)))
    half = _floor(builder, builder.fmul(n, const(x, 0.5)))  # two factors: 2^n itself may not be a float
    p = builder.fmul(p, _power_of_two(builder, half))
    p = builder.fmul(p, _power_of_two(builder, builder.fsub(n, half)))
    return builder.select(builder.fcmp_unordered("uno", x, x), x, p)


def _exp_within(builder: Any, x: Value) -> Value:
    """exp(x) for -86 <= x <= 88 in half the instructions, to 1.5e-7; anything for NaN.

    n = round(x / ln 2) comes out of the lowest bits of a sum, and goes into the exponent of 1 + r Q(r) by an addition.
    """
    whole = ir.VectorType(I32, x.type.count)
    shifted, r, q = _reduced(builder, x)
    p = fma(builder, r, q, const(x, 1.0))
    exponent = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [23] * x.type.count))
    return builder.bitcast(builder.add(builder.bitcast(p, whole), exponent), x.type)


def _reduced(builder: Any, x: Value) -> tuple[Value, Value, Value]:
    """A sum with n = round(x / ln 2) in its lowest bits, the r that is left, and Q(r) with exp(r) = 1 + r Q(r)."""
    shifted = fma(builder, x, const(x, LOG2E), const(x, MAGIC))
    n = builder.fsub(shifted, const(x, MAGIC))
    r = fma(builder, n, const(x, -LN2_LOW), fma(builder, n, const(x, -LN2_HIGH), x))
    return shifted, r, _polynomial(builder, r, EXP_WITHIN)


def _reciprocal(builder: Any, x: Value) -> Value:
    """1 / x to 1.5e-7, where neither is below the normal range: 16 lanes divide at a quarter of this speed."""
    if x.type.count != 16:
        return builder.fdiv(const(x, 1.0), x)
    mask = ir.IntType(16)
    near = builder.call(
        function(builder, "llvm.x86.avx512.rcp14.ps.512", x.type, [x.type, x.type, mask]),
        [x, const(x, 0.0), mask(0xFFFF)],
    )
    return fma(builder, near, fma(builder, builder.fneg(x), near, const(x, 1.0)), near)


def _or_nan(builder: Any, x: Value, value: Value) -> Value:
    return builder.select(builder.fcmp_unordered("uno", x, x), x, value)


def _logistic(builder: Any, x: Value) -> Value:
    """1 / (1 + exp(-x)), 0 below -87; anything for NaN."""
    bounded = _below(builder, _above(builder, builder.fneg(x), const(x, -86.0)), const(x, 87.0))
    found = _reciprocal(builder, builder.fadd(const(x, 1.0), _exp_within(builder, bounded)))
    return builder.select(builder.fcmp_ordered("<", x, const(x, -87.0)), const(x, 0.0), found)


def sigmoid(builder: Any, x: Value) -> Value:
    """1 / (1 + exp(-x))."""
    return _or_nan(builder, x, _logistic(builder, x))


def tanh(builder: Any, x: Value) -> Value:
    """X + x^3 P(x^2) near 0, sign(x) (1 - 2 / (exp(2|x|) + 1)) elsewhere."""
    size, one = _fabs(builder, x), const(x, 1.0)
    square = builder.fmul(x, x)
    near = fma(builder, builder.fmul(square, x), _polynomial(builder, square, TANH), x)
    grown = _exp_within(builder, _below(builder, builder.fadd(size, size), const(x, 40.0)))
    tail = _reciprocal(builder, builder.fadd(grown, one))
    far = _copysign(builder, fma(builder, tail, const(x, -2.0), one), x)
    return _or_nan(builder, x, builder.select(builder.fcmp_ordered("<", size, const(x, 0.64)), near, far))


def erf(builder: Any, x: Value) -> Value:
    """X P(x^2) for |x| < 1; sign(x) (1 - exp(-x^2) Q(1 / (1 + |x| / 2))) up to 4; sign(x) beyond."""
    size, one = _fabs(builder, x), const(x, 1.0)
    square = builder.fmul(x, x)
    near = builder.fmul(x, _polynomial(builder, square, ERF_NEAR))
    bounded = _below(builder, size, const(x, 4.0))
    t = _reciprocal(builder, fma(builder, bounded, const(x, 0.5), one))
    decay = _exp_within(builder, builder.fneg(builder.fmul(bounded, bounded)))
    tail = builder.fmul(decay, _polynomial(builder, t, ERF_FAR))
    far = _copysign(builder, builder.fsub(one, tail), x)
    return _or_nan(builder, x, builder.select(builder.fcmp_ordered("<", size, one), near, far))


def _copysign(builder: Any, size: Value, sign: Value) -> Value:
    name = f"llvm.copysign.v{size.type.count}f32"
    return builder.call(function(builder, name, size.type, [size.type] * 2), [size, sign])


def log(builder: Any, x: Value) -> Value:
    """N log 2 + f - f^2 / 2 + f^3 P(f), where x = 2^n (1 + f) and 1 + f is 0.71 to 1.41."""
    whole = ir.VectorType(I32, x.type.count)

    def integer(value: int) -> Value:
        return ir.Constant(whole, [value] * x.type.count)

    small = builder.fcmp_ordered("<", x, const(x, 2.0**-126))  # below the normal range
    bits = builder.bitcast(builder.select(small, builder.fmul(x, const(x, 2.0**23)), x), whole)
    above = builder.sub(bits, integer(SQRT_HALF_BITS))
    scaled = builder.bitcast(builder.sub(bits, builder.and_(above, integer(-(1 << 23)))), x.type)
    n = builder.sitofp(builder.ashr(above, integer(23)), x.type)
    n = builder.fadd(n, builder.select(small, const(x, -23.0), const(x, 0.0)))
    f = builder.fsub(scaled, const(x, 1.0))
    square = builder.fmul(f, f)
    found = builder.fmul(_polynomial(builder, f, LOG), builder.fmul(f, square))
    found = fma(builder, square, const(x, -0.5), fma(builder, n, const(x, LN2_LOW), found))
    found = fma(builder, n, const(x, LN2_HIGH), builder.fadd(f, found))
    edge = builder.select(builder.fcmp_ordered("==", x, const(x, 0.0)), const(x, -math.inf), const(x, math.nan))
    found = builder.select(builder.fcmp_ordered(">", x, const(x, 0.0)), found, edge)
    return builder.select(builder.fcmp_ordered("==", x, const(x, math.inf)), x, found)


def _log1p_exp(builder: Any, x: Value) -> Value:
    """log(1 + exp(x)) as max(x, 0) + log(1 + u) with u = exp(-|x|), and log(1 + u) = u P(u)."""
    u = _exp_within(builder, _above(builder, builder.fneg(_fabs(builder, x)), const(x, -86.0)))
    return fma(builder, u, _polynomial(builder, u, LOG1P), relu(builder, x))


def _mish(builder: Any, x: Value) -> Value:
    """X tanh(log(1 + w)) = x n / (n + 2) with w = exp(x), n = w (w + 2); 0 below -87, where w may not be a float."""
    w = _exp_within(builder, _below(builder, _above(builder, x, const(x, -86.0)), const(x, 20.0)))
    n = builder.fmul(w, builder.fadd(w, const(x, 2.0)))
    share = builder.fmul(n, _reciprocal(builder, builder.fadd(n, const(x, 2.0))))
    gone = builder.fcmp_ordered("<", x, const(x, -87.0))
    return builder.fmul(x, builder.select(gone, const(x, 0.0), share))


def _hard_sigmoid(builder: Any, x: Value, alpha: Value, beta: Value) -> Value:
    return _below(builder, relu(builder, fma(builder, x, alpha, beta)), const(x, 1.0))


def _leaky_relu(builder: Any, x: Value, alpha: Value) -> Value:
    return builder.select(builder.fcmp_ordered("<", x, const(x, 0.0)), builder.fmul(x, alpha), x)


def _expm1(builder: Any, x: Value) -> Value:
    """exp(x) - 1 for x <= 88, as 2^n (exp(r) - 1) + 2^n - 1; anything for NaN."""
    whole = ir.VectorType(I32, x.type.count)
    shifted, r, q = _reduced(builder, _above(builder, x, const(x, -86.0)))
    exponent = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [23] * x.type.count))
    power = builder.bitcast(builder.add(exponent, ir.Constant(whole, [127 << 23] * x.type.count)), x.type)
    return fma(builder, power, builder.fmul(r, q), builder.fsub(power, const(x, 1.0)))


def _elu(builder: Any, x: Value, alpha: Value) -> Value:
    negative = builder.fmul(alpha, _expm1(builder, x))
    return builder.select(builder.fcmp_ordered("<", x, const(x, 0.0)), negative, x)


def _selu(builder: Any, x: Value, alpha: Value, gamma: Value) -> Value:
    return builder.fmul(gamma, _elu(builder, x, alpha))


def _celu(builder: Any, x: Value, alpha: Value) -> Value:
    ratio = builder.fdiv(x, alpha)  # above 0 where alpha is below
    far = builder.fsub(exp(builder, ratio), const(x, 1.0))
    grown = builder.select(builder.fcmp_ordered(">", ratio, const(x, 1.0)), far, _expm1(builder, ratio))
    negative = builder.fmul(alpha, grown)
    return builder.select(builder.fcmp_ordered("<", x, const(x, 0.0)), negative, x)


def _gelu(builder: Any, x: Value) -> Value:
    """X / 2 (1 + erf(x / sqrt 2)). The quotient for erf passes 1 where its argument is bounded, and ends there."""
    half = builder.fmul(x, const(x, 0.5))
    square = _below(builder, builder.fmul(x, x), const(x, GELU_WITHIN))
    over, under = (_polynomial(builder, square, part) for part in GELU)
    found = builder.fmul(builder.fmul(x, over), _reciprocal(builder, under))
    found = _above(builder, _below(builder, found, const(x, 1.0)), const(x, -1.0))
    return fma(builder, half, found, half)


def _gelu_tanh(builder: Any, x: Value) -> Value:
    cube = builder.fmul(builder.fmul(x, x), x)
    inner = builder.fmul(fma(builder, cube, const(x, 0.044715), x), const(x, 0.7978845608028654))
    half = builder.fmul(x, const(x, 0.5))
    return fma(builder, half, tanh(builder, inner), half)


def _softsign(builder: Any, x: Value) -> Value:
    return builder.fdiv(x, builder.fadd(_fabs(builder, x), const(x, 1.0)))


def _sign(builder: Any, x: Value) -> Value:
    zero = const(x, 0.0)
    up = builder.select(builder.fcmp_ordered(">", x, zero), const(x, 1.0), x)
    return builder.select(builder.fcmp_ordered("<", x, zero), const(x, -1.0), up)


def _clip(builder: Any, x: Value, low: Value, high: Value) -> Value:
    return _below(builder, _above(builder, x, low), high)


def _modulo(builder: Any, a: Value, b: Value) -> Value:
    """A - floor(a / b) * b: the sign of the divisor, as numpy.mod."""
    rest = builder.frem(a, b)
    zero = const(a, 0.0)
    differs = builder.xor(builder.fcmp_ordered("<", rest, zero), builder.fcmp_ordered("<", b, zero))
    wrong = builder.and_(differs, builder.fcmp_unordered("!=", rest, zero))
    return builder.select(wrong, builder.fadd(rest, b), rest)


def _binary_llvm(name: str) -> Callable[[Any, Value, Value], Value]:
    def apply(builder: Any, a: Value, b: Value) -> Value:
        return builder.call(function(builder, f"llvm.{name}.v{a.type.count}f32", a.type, [a.type] * 2), [a, b])

    return apply


FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "relu": (1, relu), "exp": (1, exp), "sigmoid": (1, sigmoid), "tanh": (1, tanh), "erf": (1, erf),
    "log": (1, log), "sqrt": (1, _sqrt), "abs": (1, _fabs), "floor": (1, _floor), "ceil": (1, _ceil),
    "round": (1, _rint), "sin": (1, _unary_llvm("sin")), "cos": (1, _unary_llvm("cos")), "sign": (1, _sign),
    "neg": (1, lambda b, x: b.fneg(x)), "reciprocal": (1, lambda b, x: b.fdiv(const(x, 1.0), x)),
    "hard_swish": (1, lambda b, x: b.fmul(x, _hard_sigmoid(b, x, const(x, 1 / 6), const(x, 0.5)))),
    "silu": (1, lambda b, x: b.fmul(x, _logistic(b, x))), "softplus": (1, _log1p_exp), "softsign": (1, _softsign),
    "mish": (1, _mish), "gelu": (1, _gelu), "gelu_tanh": (1, _gelu_tanh),
    "leaky_relu": (2, _leaky_relu), "elu": (2, _elu), "celu": (2, _celu), "selu": (3, _selu), "clip": (3, _clip),
    "at_least": (2, _above),
    "hard_sigmoid": (3, _hard_sigmoid), "prelu": (2, _leaky_relu),
    "add": (2, lambda b, x, y: b.fadd(x, y)), "sub": (2, lambda b, x, y: b.fsub(x, y)),
    "mul": (2, lambda b, x, y: b.fmul(x, y)), "div": (2, lambda b, x, y: b.fdiv(x, y)),
    "max": (2, maximum), "max_of_three": (3, maximum_of_three), "min": (2, minimum),
    "pow": (2, _binary_llvm("pow")), "mod": (2, _modulo),
    "fmod": (2, lambda b, x, y: b.frem(x, y)),
    "scale_shift": (3, fma),
}  # fmt: skip
"""Name to operand count and LLVM emitter. Operands after the first of an activation are its parameters."""


def _define(name: str, emit: Callable[..., Value], operands: int) -> Any:
    def rule(kinds: Sequence[Any]) -> Any:
        for kind in kinds:
            if not isinstance(kind, (Vec, Tile)):
                raise TypingError(f"{name} takes vectors or a tile, got {kind}")

        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
            first = kinds[0]
            if isinstance(first, Vec):
                return emit(builder, *args)
            parts = [emit(builder, part, *args[1:]) for part in tile_parts(builder, first, args[0])]
            return tile_join(builder, first, parts)

        return kinds[0](*kinds), codegen

    if operands == 1:

        def apply(typingctx: Any, x: Any) -> Any:
            return rule((x,))
    elif operands == 2:

        def apply(typingctx: Any, x: Any, y: Any) -> Any:  # type: ignore[misc]
            return rule((x, y))
    else:

        def apply(typingctx: Any, x: Any, y: Any, z: Any) -> Any:  # type: ignore[misc]
            return rule((x, y, z))

    apply.__name__ = f"v_{name}"
    return intrinsic(apply)


VOCABULARY: dict[str, Any] = {f"v_{name}": _define(name, emit, count) for name, (count, emit) in FUNCTIONS.items()}
