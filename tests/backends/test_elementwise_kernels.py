"""Elementwise operators against float64: functions, broadcasting in planes and plain tensors, other element types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS, check

import convc
from convc.backends.cpu.lower import ELEMENTWISE
from convc.errors import TargetError
from convc.frontends.builder import Builder, Value
from convc.types import DType

UNARY: dict[str, list[dict[str, Any]]] = {
    "relu": [{}], "leaky_relu": [{}, {"alpha": -0.5}], "clip": [{"min": -0.5}, {"max": 0.5}, {"min": 1.0, "max": -1.0}],
    "sigmoid": [{}], "hard_sigmoid": [{}, {"alpha": 1.0, "beta": -0.1}], "hard_swish": [{}], "silu": [{}], "tanh": [{}],
    "elu": [{}, {"alpha": 2.0}], "selu": [{}], "celu": [{}, {"alpha": 0.4}, {"alpha": -0.5}], "softplus": [{}],
    "softsign": [{}], "mish": [{}], "gelu": [{}, {"approximate": "tanh"}], "erf": [{}], "exp": [{}], "neg": [{}],
    "abs": [{}], "floor": [{}], "ceil": [{}], "round": [{}], "sign": [{}], "sin": [{}], "cos": [{}], "log": [{}],
    "sqrt": [{}], "reciprocal": [{}],
}  # fmt: skip
BINARY = ["add", "sub", "mul", "div", "max", "min", "pow", "mod"]
POSITIVE = {"log", "sqrt", "reciprocal", "pow"}
COMPARISONS = ["equal", "less", "less_or_equal", "greater", "greater_or_equal"]
OTHERS = {"logical_not", "logical_and", "logical_or", "cast", "where", "prelu"}


def test_every_operator_is_here() -> None:
    assert {*UNARY, *BINARY, *COMPARISONS, *OTHERS} == set(ELEMENTWISE)


def planes(b: Builder, name: str, *shape: int) -> Value:
    """An input copied into planes."""
    x = b.input(name, shape)
    eye = np.eye(shape[1], dtype=np.float32)
    return b.conv2d(x, eye[:, :, None, None]) if len(shape) == 4 else b.linear(x, eye)


@pytest.mark.parametrize("op", UNARY)
def test_functions(op: str) -> None:
    """In planes, and in plain tensors whose ends fill no vector."""
    for attrs in UNARY[op]:
        b = Builder("functions", seed=1)
        ends = [planes(b, "a", 2, 5, 3, 3), b.input("b", (2, 5, 3, 3)), b.input("c", (37,))]
        ends += [b.input("d", ())] if op in {"relu", "clip", "silu"} else []
        if op in POSITIVE:
            ends = [b.abs(x) + 0.01 for x in ends]
        graph = b.finish([b.op(op, [x * 3.0], **attrs) for x in ends])
        check(graph, tolerance=1e-6)


SHAPES = [
    ((2, 5, 3, 4), (2, 1, 3, 4)), ((2, 5, 3, 4), (5, 1, 1)), ((2, 5, 3, 4), ()), ((2, 5, 3, 4), (2, 5, 1, 1)),
    ((2, 5, 3, 4), (1, 1, 1, 1)), ((2, 5, 3, 4), (1, 5, 3, 1)), ((2, 5, 3, 4), (4,)), ((2, 5, 3, 4), (3, 1)),
    ((2, 5, 3, 4), (2, 5, 3, 4)), ((2, 5, 3, 4), (1, 5, 1, 4)), ((2, 5, 3, 4), (2, 1, 1, 1)),
    ((2, 5, 1, 1), (2, 5, 3, 4)), ((2, 1, 3, 4), (1, 5, 1, 1)), ((2, 1, 3, 4), (1, 1, 3, 4)),
    ((1, 5, 3, 4), (2, 1, 1, 4)), ((2, 37, 1, 1), (37, 1, 1)),
    ((2, 5), (5,)), ((2, 5), (2, 1)), ((2, 5), ()), ((1, 5), (2, 5)), ((2, 5), (1, 1)),
    ((3, 2, 5), (2, 1)), ((3, 1, 5), (2, 1)), ((7,), (1,)), ((7,), ()), ((), ()), ((1,), ()), ((1, 1, 1), (1,)),
    ((2, 3, 2, 3, 2, 3), (2, 3, 1, 3)), ((2, 1, 2, 1, 2, 1), (3, 1, 3, 1, 3)), ((2, 3, 4, 1, 5), (4, 3, 5)),
    ((2, 3, 17), (17,)), ((2, 3, 17), (3, 1)), ((0, 5, 3, 4), (5, 1, 1)), ((0, 3), (3,)), ((4, 0), (4, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), SHAPES, ids=str)
def test_broadcasting(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    """Every order, with both computed and with a constant, from plain tensors and from planes."""
    b = Builder("broadcasting", seed=2)
    values = [b.input("x", left), b.input("y", right)]
    pairs = [(values[0], values[1]), (values[1], values[0])]
    fixed = np.random.default_rng(3).normal(size=right).astype(np.float32)
    pairs += [(values[0], b.constant(fixed)), (b.constant(fixed), values[0])]
    for index, shape in enumerate((left, right)):
        if len(shape) in {2, 4} and shape[1]:
            laid = planes(b, "pq"[index], *shape)
            pairs += [(laid, values[1 - index]), (values[1 - index], laid), (laid, laid)]
            pairs += [(laid, b.constant(fixed))] if index == 0 else []
    check(b.finish([b.sub(one, other) for one, other in pairs]), tolerance=1e-6)


@pytest.mark.parametrize("op", BINARY)
def test_binary(op: str) -> None:
    b = Builder("binary", seed=2)
    x, y = b.input("x", (2, 19, 3)), b.input("y", (2, 19, 3))
    if op in POSITIVE:
        x = b.abs(x) + 0.01
    ends = [b.op(op, [x, y]), b.op(op, [x, y], name="fmod", fmod=True)] if op == "mod" else [b.op(op, [x, y])]
    check(b.finish(ends), tolerance=1e-6)


@pytest.mark.parametrize("slope", [(5, 1, 1), (1,), (), (2, 5, 3, 4), (1, 5, 1, 1), (4,), (3, 1)], ids=str)
def test_prelu(slope: tuple[int, ...]) -> None:
    b = Builder("prelu", seed=2)
    x, y = b.input("x", (2, 5, 3, 4)), planes(b, "y", 2, 5, 3, 4)
    fixed = np.random.default_rng(3).normal(size=slope).astype(np.float32)
    given = b.input("slope", slope)
    check(b.finish([b.prelu(x, fixed), b.prelu(y, fixed), b.prelu(x, given), b.prelu(y, given)]), tolerance=1e-6)


INTEGERS = [DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64]
KINDS = [*INTEGERS, DType.F32, DType.F64]


SLOW_SOURCES = [pytest.param(k, marks=pytest.mark.slow) for k in (DType.BOOL, DType.I32, DType.U8, DType.F64)]


def values_of(kind: DType, count: int, seed: int) -> Any:
    """Numbers of a type, small ones and its extremes."""
    random = np.random.default_rng(seed)
    if kind.is_float:
        return np.concatenate([random.normal(size=count - 3) * 3, [0.0, -0.0, 2.0]]).astype(kind.numpy)
    if kind is DType.BOOL:
        return random.integers(0, 2, count).astype(np.bool_)
    info = np.iinfo(kind.numpy)
    small = random.integers(max(info.min, -9), 10, count - 2)
    return np.concatenate([small.astype(kind.numpy), np.array([info.min, info.max], kind.numpy)])


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in {DType.I64, DType.F64}]


@pytest.mark.parametrize("kind", [DType.I64, DType.F64, *SLOW], ids=str)
def test_arithmetic_of_other_types(kind: DType) -> None:
    b = Builder("types")
    x, y = b.input("x", (3, 7), kind), b.input("y", (1, 7), kind)
    ends = [b.op(op, [x, y]) for op in ("add", "sub", "mul", "max", "min", *COMPARISONS)]
    ends += [b.neg(x), b.abs(y), b.where(b.less(x, y), x, y), b.add(x, b.constant(values_of(kind, 7, 3)))]
    inputs = {"x": values_of(kind, 21, 1).reshape(3, 7), "y": values_of(kind, 7, 2).reshape(1, 7)}
    check(b.finish(ends), inputs, tolerance=1e-15 if kind is DType.F64 else 1e-6)


@pytest.mark.parametrize("kind", [DType.I64, DType.F64, *SLOW], ids=str)
def test_division_of_other_types(kind: DType) -> None:
    """By zero, of the smallest number by -1, with every pair of signs, by infinity."""
    special = {"f64": [7.0, -7.0, 0.0, 3.5, -2.0, np.inf, np.nan], "f32": [1.0]}.get(kind.value)
    if special is None:
        info = np.iinfo(kind.numpy)
        special = [v for v in (0, 1, -1, 3, -3, 7, -7, info.min, info.max) if info.min <= v <= info.max]
    x, y = np.meshgrid(np.array(special, kind.numpy), np.array(special, kind.numpy))
    b = Builder("division")
    one, other = b.input("x", x.shape, kind), b.input("y", x.shape, kind)
    ends = [b.div(one, other), b.mod(one, other), b.mod(one, other, fmod=True)]
    check(b.finish(ends), {"x": x, "y": y})


def test_extremes_of_doubles_pass_nan() -> None:
    b = Builder("doubles")
    x, y = b.input("x", (4,), "f64"), b.input("y", (4,), "f64")
    inputs = {"x": np.array([np.nan, 1.0, np.inf, 2.0]), "y": np.array([0.0, np.nan, -np.inf, 3.0])}
    check(b.finish([b.max(x, y), b.min(x, y), b.add(x, y), b.equal(x, x)]), inputs)


@pytest.mark.parametrize("source", [DType.I64, DType.F32, *SLOW_SOURCES], ids=str)
def test_casts(source: DType) -> None:
    """Values that the target type holds; what others become is up to the processor."""
    b = Builder("casts")
    x = b.input("x", (5,), source)
    goals = [kind for kind in DType if kind is not DType.F16 and kind.bytes != 2]
    values = {"bool": [0, 1, 1, 0, 1], "f32": [0.0, 1.75, 2.5, 100.25, -0.0], "f64": [0.0, 1.75, 2.5, 100.25, -0.0]}
    given = np.array(values.get(source.value, [0, 1, 5, 100, 127]), source.numpy)
    check(b.finish([b.cast(x, to=goal, name=goal.value) for goal in goals]), {"x": given})
    if source.value in {"i32", "f32"}:
        b = Builder("casts")
        x = b.input("x", (3,), source)
        ends = [b.cast(x, to=goal, name=goal.value) for goal in (DType.I8, DType.I64, DType.F64)]
        check(b.finish(ends), {"x": np.array([-1.75, -100, -0.5]).astype(source.numpy)})


def test_logic_and_choices() -> None:
    b = Builder("logic")
    p, q = b.input("p", (2, 5, 3, 4), "bool"), b.input("q", (5, 1, 1), "bool")
    x, y = b.input("x", (2, 5, 3, 4)), planes(b, "y", 2, 5, 3, 4)
    ends = [
        b.logical_and(p, q),
        b.logical_or(q, p),
        b.logical_not(p),
        b.where(p, x, y),
        b.where(q, y, 1.0),
        b.equal(p, q),
    ]
    ends += [b.where(b.less(x, y), x, b.constant(np.float32(2))), b.cast(b.greater(y, 0.0), to=DType.F32)]
    check(b.finish(ends))


@pytest.mark.parametrize("op", ["relu", "sqrt", "tanh", "pow"])
def test_functions_of_doubles_are_refused_by_name(op: str) -> None:
    b = Builder("doubles")
    x = b.input("x", (3,), "f64")
    graph = b.finish(b.op(op, [x, x] if op in BINARY else [x], name="late"))
    with pytest.raises(TargetError, match=f"{op} %late.*Hint: use float32, or target='reference'"):
        convc.compile(graph, passes="none")


@pytest.mark.parametrize("target", [TARGETS[0], *(pytest.param(t, marks=pytest.mark.slow) for t in TARGETS[1:])])
def test_special_values_pass(target: str) -> None:
    """NaN, infinities and signed zeros, as in the interpreter."""
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.5, 3e38, -3e38, 1e-45, 88.9, -104.5], np.float32)
    b = Builder("special")
    x = b.input("x", (12,))
    y = b.constant(special[::-1].copy())
    ops = [
        "relu",
        "leaky_relu",
        "clip",
        "neg",
        "abs",
        "floor",
        "ceil",
        "sign",
        "elu",
        "hard_sigmoid",
        "softplus",
        "tanh",
    ]
    ends = [b.op(op, [x], **({"min": -1.0, "max": 2.0} if op == "clip" else {})) for op in ops]
    ends += [b.op(op, [x, y]) for op in ("add", "sub", "max", "min", "prelu")]
    ends += [b.cast(b.op(op, [x, y]), to=DType.F32) for op in COMPARISONS]
    ends += [b.op("sign", [x / y], name="quotient"), b.op("sign", [x * y], name="product")]
    check(b.finish(ends), {"x": special}, target=target)


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_batch_norm(rank: int) -> None:
    b = Builder("norm", seed=4)
    shape = (2, 19, 3, 2, 2)[:rank]
    x = b.input("x", shape)
    ends = [b.batch_norm(x, epsilon=0.1)]
    if rank == 4:
        y = planes(b, "y", *shape)
        ends += [b.batch_norm(y), b.batch_norm(b.concat([y, y])), b.batch_norm(b.channel_shuffle(y, groups=19))]
    check(b.finish(ends))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(2, 19, 1), (2, 1, 1), (1, 19, 1), (1, 1, 1), ("N", 19, 1), ("N", 19, 1, 1, 1)])
def test_axes_of_size_one_at_the_end(shape: tuple[Any, ...], target: str) -> None:
    b = Builder("ends", seed=4)
    x = b.input("x", shape)
    rows = b.constant(np.arange(1, shape[1] + 1, dtype=np.float32).reshape(1, -1, *[1] * (len(shape) - 2)))
    one = b.constant(np.full([1] * len(shape), 0.5, np.float32))
    ends = [
        b.batch_norm(x),
        x * rows,
        x - one,
        b.op("pow", [b.op("abs", [x]), one]),
        b.op("reduce_sum", [x], axes=(1,)) / x,
    ]
    for images in (1, 3) if shape[0] == "N" else (1,):
        check(b.finish(ends), target=target, **({"N": images} if shape[0] == "N" else {}))
