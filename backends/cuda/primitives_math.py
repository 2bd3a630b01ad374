"""The vocabulary of emitted kernels: functions written in the vocabulary itself, so both bindings run the same text.

Stated errors as on the CPU: exp, log, sin, cos 4 ulp; tanh, erf, elu and its kin 6 ulp; sigmoid, softplus, silu, mish,
gelu 5e-7 of the larger of 1 and |x|. NaN passes through every function. The polynomials are Chebyshev fits.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from typing import Any

TEXT = """
def relu(x):
    return maximum(x, 0.0)

def exp(x):
    # 2^t (1 + ln2 r): t is x / ln 2 rounded, r what the rounding lost
    bounded = minimum(maximum(x, -104.0), 89.0)
    t = bounded * 1.4426950408889634
    r = fma(bounded, 1.4426950408889634, -t)
    r = fma(bounded, 1.925963033500901e-08, r)
    y = exp2(t)
    return fma(y, r * 0.6931471805599453, y)

def log(x):
    return log2(x) * 0.6931471805599453

def reciprocal(x):
    return 1.0 / x

def sigmoid(x):
    return 1.0 / (exp(-x) + 1.0)

def tanh(x):
    size = absolute(x)
    square = x * x
    p = fma(square, 0.002224318734692907, -0.008281770789125948)
    p = fma(p, square, 0.021749399856524944)
    p = fma(p, square, -0.053956799965597615)
    p = fma(p, square, 0.13333292948850567)
    p = fma(p, square, -0.3333333310119763)
    near = fma(square * x, p, x)
    tail = 1.0 - 2.0 / (exp(size + size) + 1.0)
    return select(size < 0.64, near, select(x < 0.0, -tail, tail))

def erf(x):
    size = absolute(x)
    square = x * x
    p = fma(square, 7.88249710667486e-05, -0.000801885499196538)
    p = fma(p, square, 0.0051893119426174895)
    p = fma(p, square, -0.02685432879604287)
    p = fma(p, square, 0.11283597463487706)
    p = fma(p, square, -0.37612626903580443)
    p = fma(p, square, 1.1283791658815026)
    bounded = minimum(size, 4.0)
    t = 1.0 / fma(bounded, 0.5, 1.0)
    q = fma(t, -0.05354061612210244, -0.057338735298103516)
    q = fma(q, t, 0.403838362613389)
    q = fma(q, t, 0.10126824481844582)
    q = fma(q, t, 0.33084068045130494)
    q = fma(q, t, 0.2736181534775212)
    q = fma(q, t, 0.0006064087388710051)
    tail = 1.0 - exp(-(bounded * bounded)) * q
    return select(size < 1.0, x * p, select(x < 0.0, -tail, tail))

def expm1(x):
    t = tanh(x * 0.5)
    near = (t + t) / (1.0 - t)
    return select(absolute(x) < 1.0, near, exp(x) - 1.0)

def softplus(x):
    return maximum(x, 0.0) + log(exp(-absolute(x)) + 1.0)

def softsign(x):
    return x / (absolute(x) + 1.0)

def sign(x):
    return select(x > 0.0, 1.0, select(x < 0.0, -1.0, x))

def neg(x):
    return -x

def silu(x):
    return x * sigmoid(x)

def mish(x):
    return x * tanh(softplus(x))

def gelu(x):
    half = x * 0.5
    return fma(half, erf(x * 0.7071067811865476), half)

def gelu_tanh(x):
    inner = fma(x * x * x, 0.044715, x) * 0.7978845608028654
    half = x * 0.5
    return fma(half, tanh(inner), half)

def hard_swish(x):
    return x * minimum(maximum(fma(x, 0.16666666666666666, 0.5), 0.0), 1.0)

def leaky_relu(x, alpha):
    return select(x < 0.0, x * alpha, x)

def elu(x, alpha):
    return select(x < 0.0, alpha * expm1(x), x)

def celu(x, alpha):
    return select(x < 0.0, alpha * expm1(x / alpha), x)

def selu(x, alpha, gamma):
    return gamma * select(x < 0.0, alpha * expm1(x), x)

def clip(x, low, high):
    return minimum(maximum(x, low), high)

def hard_sigmoid(x, alpha, beta):
    return minimum(maximum(fma(x, alpha, beta), 0.0), 1.0)

def quarter(x, n, k: "i32"):
    r = fma(n, -1.5703125, x)
    r = fma(n, -0.0004837512969970703, r)
    r = fma(n, -7.549789948768648e-08, r)
    q = r * r
    s = fma(q, 2.718311493989822e-06, -0.00019839334836096632)
    s = fma(s, q, 0.008333329385889463)
    s = fma(s, q, -0.16666666641626524)
    s = fma(s * q, r, r)
    c = fma(q, 2.44331571e-05, -0.00138873162)
    c = fma(c, q, 0.0416666456)
    c = fma(c, q, -0.5)
    c = fma(c, q, 1.0)
    y = select((k & 1) == 1, c, s)
    return select((k & 2) == 2, -y, y)

def sin(x):
    # x = n pi/2 + r in three parts of pi/2: good to |x| of some 1e5
    n = rint(x * 0.6366197723675814)
    return quarter(x, n, to_i32(n))

def cos(x):
    n = rint(x * 0.6366197723675814)
    return quarter(x, n, to_i32(n) + 1)

def power(x, y):
    # 2^(y log2 |x|), the sign of an odd whole y restored; NaN for other powers of a negative number
    size = exp2(y * log2(absolute(x)))
    half = y * 0.5
    odd = (rint(y) == y) & (floor(half) != half)
    whole = select(odd, -size, select(rint(y) == y, size, bits_float(0x7FC00000)))
    return select(y == 0.0, 1.0, select(x < 0.0, whole, size))

def trunc_mod(x, y):
    # the sign of the dividend
    size = absolute(y)
    rest = fma(-floor(absolute(x) / size), size, absolute(x))
    rest = select(rest < 0.0, rest + size, select(rest >= size, rest - size, rest))
    return select(x < 0.0, -rest, rest)

def floor_mod(x, y):
    # the sign of the divisor
    rest = trunc_mod(x, y)
    return select((rest != 0.0) & ((rest < 0.0) != (y < 0.0)), rest + y, rest)
"""


@cache
def _functions() -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(TEXT).body if isinstance(node, ast.FunctionDef)}


COMPOSITES: dict[str, tuple[str, ...]] = {
    name: tuple("f32" if a.annotation is None else "i32" for a in node.args.args) for name, node in _functions().items()
}
"""Name to kinds of the operands, in an order in which each uses only those before it. The result is float32."""


def define(name: str, vocabulary: Mapping[str, Any]) -> Any:
    """The function over a vocabulary, which holds those that it uses."""
    space = dict(vocabulary)
    tree = ast.Module([_functions()[name]], [])
    exec(compile(tree, f"<{name}>", "exec"), space)
    return space[name]
