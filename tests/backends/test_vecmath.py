"""Vector functions over the whole range of float32: the errors that vecmath states, and special values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS

import convc
from convc.frontends.builder import Builder
from convc.ops import OPS
from convc.types import Array

EDGES = [0.0, -0.0, 1e-45, -1e-45, 1.2e-38, -1.2e-38, np.inf, -np.inf, np.nan, 3.4028235e38, -3.4028235e38, 88.72283,
         88.7229, -87.4, -103.97, -103.98, -104.1, 0.64, -0.64, 1.0, -1.0, 4.0, -4.0]  # fmt: skip
SWEEP = np.concatenate([
    np.arange(0, 2**32, 2**14 + 1, dtype=np.uint64).astype(np.uint32).view(np.float32),
    np.linspace(-20, 20, 200_001, dtype=np.float32), np.array(EDGES, np.float32),
])  # fmt: skip
"""A quarter of a million bit patterns, the part where functions bend, and where formulas change."""

ULPS: dict[str, float] = {
    "exp": 2, "tanh": 4, "erf": 4, "elu": 4, "selu": 4, "celu": 4, "log": 2, "sin": 2, "cos": 2, "softsign": 2,
    "sqrt": 0.5, "reciprocal": 0.5, "floor": 0, "ceil": 0, "round": 0, "sign": 0, "abs": 0, "neg": 0, "relu": 0,
}  # fmt: skip
"""Largest error in units of the last place of the float64 result rounded to float32."""
RELATIVE = {
    "sigmoid": 3e-7, "softplus": 3e-7, "silu": 3e-7, "mish": 3e-7, "gelu": 3e-7, "hard_swish": 3e-7,
    "hard_sigmoid": 3e-7,
}  # fmt: skip
"""Largest error relative to the larger of 1 and |x|."""
TARGET = [TARGETS[0], *(pytest.param(target, marks=pytest.mark.slow) for target in TARGETS[1:])]


def both(op: str, target: str, **attrs: Any) -> tuple[Array, Array]:
    """What the CPU makes of the sweep, and NumPy in float64."""
    b = Builder("function")
    model = convc.compile(b.finish(b.op(op, [b.input("x", ("N",))], **attrs)), target=target, threads=1)
    with np.errstate(all="ignore"):
        return model(SWEEP), np.asarray(OPS[op].evaluate([SWEEP.astype(np.float64)], OPS[op].complete(attrs)))


def assert_special(found: Array, wanted: Array) -> Array:
    """NaN and infinity are where they should be; gives the finite rest."""
    with np.errstate(over="ignore"):
        rounded = wanted.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(rounded))
    infinite = np.isinf(rounded) | np.isinf(found)
    np.testing.assert_array_equal(found[infinite], rounded[infinite])
    return np.isfinite(rounded)


@pytest.mark.parametrize("op", ULPS)
@pytest.mark.parametrize("target", TARGET)
def test_errors_in_last_places(op: str, target: str) -> None:
    found, wanted = both(op, target)
    finite = assert_special(found, wanted)
    found, wanted = found[finite], wanted[finite]
    with np.errstate(all="ignore"):
        ulps = np.abs(found - wanted) / np.spacing(np.maximum(np.abs(wanted), 1e-38).astype(np.float32))
    worst = int(np.argmax(ulps))
    assert ulps[worst] <= ULPS[op], f"{op}({SWEEP[finite][worst]}) is {found[worst]}, not {wanted[worst]}"
    if op in {"neg", "abs", "floor", "ceil", "round", "sqrt"}:
        zero = SWEEP[finite] == 0
        np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(wanted[zero]))


@pytest.mark.parametrize(("op", "attrs"), [*((op, {}) for op in RELATIVE), ("gelu", {"approximate": "tanh"})])
@pytest.mark.parametrize("target", TARGET)
def test_errors_relative_to_the_argument(op: str, attrs: dict[str, str], target: str) -> None:
    found, wanted = both(op, target, **attrs)
    finite = assert_special(found, wanted)
    errors = np.abs(found[finite] - wanted[finite]) / np.maximum(np.abs(SWEEP[finite].astype(np.float64)), 1)
    worst = int(np.argmax(errors))
    assert errors[worst] <= RELATIVE[op], f"{op}({SWEEP[finite][worst]}) is off by {errors[worst]}"


@pytest.mark.parametrize("target", TARGET)
def test_powers_are_right_to_two_last_places_and_at_every_edge(target: str) -> None:
    edges = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.2e-38,
             3.4e38, -3.4e38, 2.0**24, 2.0**24 + 2, -7.0, 1 / 3, 0.9999999, 1.0000001, -0.9999999, 88.0, 1e6, -1e6,
             127.0, -149.0]  # fmt: skip
    some, others = np.meshgrid(np.array(edges, np.float32), np.array(edges, np.float32))
    random = np.random.default_rng(1)
    x = [some.ravel(), np.exp(random.uniform(-87, 88, 50_000)), random.uniform(0.5, 2, 50_000)]
    y = [others.ravel(), random.uniform(-3, 3, 50_000), random.uniform(-120, 120, 50_000)]
    a, b = (np.concatenate(parts).astype(np.float32) for parts in (x, y))
    builder = Builder("powers")
    graph = builder.finish(builder.pow(builder.input("x", ("N",)), builder.input("y", ("N",))))
    found = convc.compile(graph, target=target, threads=1)(a, b)
    with np.errstate(all="ignore"):
        wanted = np.power(a.astype(np.float64), b.astype(np.float64))
        rounded = wanted.astype(np.float32)
        ulps = np.abs(found - wanted) / np.spacing(np.maximum(np.abs(rounded), np.float32(1.2e-38)))
    finite = assert_special(found, wanted)
    assert np.nanmax(ulps[finite]) <= 2
    signed = ~np.isnan(rounded)
    np.testing.assert_array_equal(np.signbit(found)[signed], np.signbit(rounded)[signed])


def test_squares_are_products() -> None:
    builder = Builder("squares")
    x = builder.input("x", SWEEP.shape)
    model = convc.compile(builder.finish(builder.pow(x, np.full((1,), 2.0, np.float32))), threads=1)
    assert [step.kernel.split("__")[0] for step in model.program.steps] == ["f32_map_plain_square_v"]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(model(SWEEP), SWEEP * SWEEP)


def test_powers_and_remainders() -> None:
    random = np.random.default_rng(1)
    x, y = random.uniform(-9, 9, 20_000).astype(np.float32), random.uniform(-9, 9, 20_000).astype(np.float32)
    special = np.array([0, -0.0, 1, -1, 2, -3, 0.5, np.inf, -np.inf, np.nan], np.float32)
    x = np.concatenate([x, np.repeat(special, len(special))])
    y = np.concatenate([y, np.tile(special, len(special))])
    b = Builder("pairs")
    u, v = b.input("x", x.shape), b.input("y", x.shape)
    model = convc.compile(b.finish([b.pow(u, v), b.pow(b.abs(u), v), b.mod(u, v), b.mod(u, v, fmod=True)]), threads=1)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64), y.astype(np.float64)
        wanted = [np.power(*wide), np.power(np.abs(wide[0]), wide[1]), np.mod(*wide), np.fmod(*wide)]
    for found, goal in zip(model(x, y), wanted, strict=True):
        finite = assert_special(found, goal)
        np.testing.assert_allclose(found[finite], goal[finite], rtol=3e-7, atol=3e-6)
