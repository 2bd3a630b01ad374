"""The vocabulary of emitted kernels, part three: arithmetic on vectors and tiles, elementwise.

Stated errors against float64, measured over the whole range by tests: exp, log, pow, sin, cos 2 ulp; tanh, erf, elu
and its kin 4 ulp; sigmoid, softplus, silu, mish, gelu 3e-7 of the larger of 1 and |x|, so their tails lose digits.
NaN passes through every function; max and min return NaN where either operand is NaN, as NumPy does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from numba.core.errors import TypingError
from numba.extending import intrinsic

from convc.backends.cpu.primitives import Tile, Value, Vec, fma, function
from convc.backends.cpu.tiles import tile_join, tile_parts
from convc.backends.cpu.vecexp import (
    at_least,
    at_most,
    ceil,
    const,
    exp,
    exp_down,
    exp_within,
    expm1,
    fabs,
    floor,
    log,
    or_nan,
    polynomial,
    power,
    reciprocal,
    rint,
    sqrt,
    unary_llvm,
)  # fmt: skip

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
LOG1P = [0.9999999403953552, -0.4999949336051941, 0.3331909477710724, -0.2484297752380371, 0.1910598874092102,
         -0.1366320699453354, 0.07822549343109131, -0.029504956677556038, 0.005232624243944883]  # fmt: skip


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


def relu(builder: Any, x: Value) -> Value:
    """max(x, 0)."""
    return at_least(builder, x, const(x, 0.0))


def _logistic(builder: Any, x: Value) -> Value:
    """1 / (1 + exp(-x)), 0 below -87; anything for NaN."""
    bounded = at_most(builder, at_least(builder, builder.fneg(x), const(x, -86.0)), const(x, 87.0))
    found = reciprocal(builder, builder.fadd(const(x, 1.0), exp_within(builder, bounded)))
    return builder.select(builder.fcmp_ordered("<", x, const(x, -87.0)), const(x, 0.0), found)


def sigmoid(builder: Any, x: Value) -> Value:
    """1 / (1 + exp(-x))."""
    return or_nan(builder, x, _logistic(builder, x))


def tanh(builder: Any, x: Value) -> Value:
    """X + x^3 P(x^2) near 0, sign(x) (1 - 2 / (exp(2|x|) + 1)) elsewhere."""
    size, one = fabs(builder, x), const(x, 1.0)
    square = builder.fmul(x, x)
    near = fma(builder, builder.fmul(square, x), polynomial(builder, square, TANH), x)
    grown = exp_within(builder, at_most(builder, builder.fadd(size, size), const(x, 40.0)))
    tail = reciprocal(builder, builder.fadd(grown, one))
    far = _copysign(builder, fma(builder, tail, const(x, -2.0), one), x)
    return or_nan(builder, x, builder.select(builder.fcmp_ordered("<", size, const(x, 0.64)), near, far))


def erf(builder: Any, x: Value) -> Value:
    """X P(x^2) for |x| < 1; sign(x) (1 - exp(-x^2) Q(1 / (1 + |x| / 2))) up to 4; sign(x) beyond."""
    size, one = fabs(builder, x), const(x, 1.0)
    square = builder.fmul(x, x)
    near = builder.fmul(x, polynomial(builder, square, ERF_NEAR))
    bounded = at_most(builder, size, const(x, 4.0))
    t = reciprocal(builder, fma(builder, bounded, const(x, 0.5), one))
    decay = exp_within(builder, builder.fneg(builder.fmul(bounded, bounded)))
    tail = builder.fmul(decay, polynomial(builder, t, ERF_FAR))
    far = _copysign(builder, builder.fsub(one, tail), x)
    return or_nan(builder, x, builder.select(builder.fcmp_ordered("<", size, one), near, far))


def _copysign(builder: Any, size: Value, sign: Value) -> Value:
    name = f"llvm.copysign.v{size.type.count}f32"
    return builder.call(function(builder, name, size.type, [size.type] * 2), [size, sign])


def _log1p_exp(builder: Any, x: Value) -> Value:
    """log(1 + exp(x)) as max(x, 0) + log(1 + u) with u = exp(-|x|), and log(1 + u) = u P(u)."""
    u = exp_within(builder, at_least(builder, builder.fneg(fabs(builder, x)), const(x, -86.0)))
    return fma(builder, u, polynomial(builder, u, LOG1P), relu(builder, x))


def _mish(builder: Any, x: Value) -> Value:
    """X tanh(log(1 + w)) = x n / (n + 2) with w = exp(x), n = w (w + 2); 0 below -87, where w may not be a float."""
    w = exp_within(builder, at_most(builder, at_least(builder, x, const(x, -86.0)), const(x, 20.0)))
    n = builder.fmul(w, builder.fadd(w, const(x, 2.0)))
    share = builder.fmul(n, reciprocal(builder, builder.fadd(n, const(x, 2.0))))
    gone = builder.fcmp_ordered("<", x, const(x, -87.0))
    return builder.fmul(x, builder.select(gone, const(x, 0.0), share))


def _hard_sigmoid(builder: Any, x: Value, alpha: Value, beta: Value) -> Value:
    return at_most(builder, relu(builder, fma(builder, x, alpha, beta)), const(x, 1.0))


def _leaky_relu(builder: Any, x: Value, alpha: Value) -> Value:
    return builder.select(builder.fcmp_ordered("<", x, const(x, 0.0)), builder.fmul(x, alpha), x)


def _elu(builder: Any, x: Value, alpha: Value) -> Value:
    negative = builder.fmul(alpha, expm1(builder, x))
    return builder.select(builder.fcmp_ordered("<", x, const(x, 0.0)), negative, x)


def _selu(builder: Any, x: Value, alpha: Value, gamma: Value) -> Value:
    return builder.fmul(gamma, _elu(builder, x, alpha))


def _celu(builder: Any, x: Value, alpha: Value) -> Value:
    ratio = builder.fdiv(x, alpha)  # above 0 where alpha is below
    far = builder.fsub(exp(builder, ratio), const(x, 1.0))
    grown = builder.select(builder.fcmp_ordered(">", ratio, const(x, 1.0)), far, expm1(builder, ratio))
    negative = builder.fmul(alpha, grown)
    return builder.select(builder.fcmp_ordered("<", x, const(x, 0.0)), negative, x)


def _gelu(builder: Any, x: Value) -> Value:
    """X / 2 (1 + erf(x / sqrt 2)). The quotient for erf passes 1 where its argument is bounded, and ends there."""
    half = builder.fmul(x, const(x, 0.5))
    square = at_most(builder, builder.fmul(x, x), const(x, GELU_WITHIN))
    over, under = (polynomial(builder, square, part) for part in GELU)
    found = builder.fmul(builder.fmul(x, over), reciprocal(builder, under))
    found = at_least(builder, at_most(builder, found, const(x, 1.0)), const(x, -1.0))
    return fma(builder, half, found, half)


def _gelu_tanh(builder: Any, x: Value) -> Value:
    cube = builder.fmul(builder.fmul(x, x), x)
    inner = builder.fmul(fma(builder, cube, const(x, 0.044715), x), const(x, 0.7978845608028654))
    half = builder.fmul(x, const(x, 0.5))
    return fma(builder, half, tanh(builder, inner), half)


def _softsign(builder: Any, x: Value) -> Value:
    return builder.fdiv(x, builder.fadd(fabs(builder, x), const(x, 1.0)))


def _sign(builder: Any, x: Value) -> Value:
    zero = const(x, 0.0)
    up = builder.select(builder.fcmp_ordered(">", x, zero), const(x, 1.0), x)
    return builder.select(builder.fcmp_ordered("<", x, zero), const(x, -1.0), up)


def _clip(builder: Any, x: Value, low: Value, high: Value) -> Value:
    return at_most(builder, at_least(builder, x, low), high)


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
    "log": (1, log), "sqrt": (1, sqrt), "abs": (1, fabs), "floor": (1, floor), "ceil": (1, ceil),
    "round": (1, rint), "sin": (1, unary_llvm("sin")), "cos": (1, unary_llvm("cos")), "sign": (1, _sign),
    "neg": (1, lambda b, x: b.fneg(x)), "reciprocal": (1, lambda b, x: b.fdiv(const(x, 1.0), x)),
    "hard_swish": (1, lambda b, x: b.fmul(x, _hard_sigmoid(b, x, const(x, 1 / 6), const(x, 0.5)))),
    "silu": (1, lambda b, x: b.fmul(x, _logistic(b, x))), "softplus": (1, _log1p_exp), "softsign": (1, _softsign),
    "mish": (1, _mish), "gelu": (1, _gelu), "gelu_tanh": (1, _gelu_tanh),
    "leaky_relu": (2, _leaky_relu), "elu": (2, _elu), "celu": (2, _celu), "selu": (3, _selu), "clip": (3, _clip),
    "at_least": (2, at_least),
    "hard_sigmoid": (3, _hard_sigmoid), "prelu": (2, _leaky_relu),
    "add": (2, lambda b, x, y: b.fadd(x, y)), "sub": (2, lambda b, x, y: b.fsub(x, y)),
    "mul": (2, lambda b, x, y: b.fmul(x, y)), "div": (2, lambda b, x, y: b.fdiv(x, y)),
    "max": (2, maximum), "max_of_three": (3, maximum_of_three), "min": (2, minimum),
    "exp_down": (1, exp_down), "pow": (2, power), "square": (1, lambda b, x: b.fmul(x, x)), "mod": (2, _modulo),
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
