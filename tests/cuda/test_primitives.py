"""The vocabulary: both bindings have every name, functions keep to their errors, lock step sees what it should."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from kernel_support import needs_compiler

from convc.backends.cuda import vocabulary
from convc.backends.cuda.conv_launch import to_storage
from convc.backends.cuda.lockstep import LockstepError, Ran, execute
from convc.backends.cuda.primitives_numpy import Lanes, round_tf32
from convc.types import Array

EPSILON = 2.0**-23


def names_in_numpy() -> set[str]:
    blocks = (np.zeros(1, np.int64), np.zeros(1, np.int64), 0)
    return set(Lanes(32, blocks, 0, races=False, conflicts={}).vocabulary)


@needs_compiler
def test_both_bindings_have_the_same_names() -> None:
    from convc.backends.cuda.compile import _numba

    assert names_in_numpy() == set(_numba()[2])


def kernel(body: str, *, pointers: str = "xy", numbers: str = "n", threads: int = 64) -> str:
    arguments = [f'{p}: "f32*"' for p in pointers] + [f'{n}: "i32"' for n in numbers]
    lines = ["t = thread()", f"i = block_x() * {threads} + t", "p = inside(i, n)", *body.splitlines()]
    return f'def k({", ".join(arguments)}) -> "{threads} threads":\n' + "".join(f"    {line}\n" for line in lines)


def over(function: str, x: Array) -> Array:
    y = np.full(len(x), np.nan, np.float32)
    text = kernel(f"store_f32(p, y, i, {function}(load_f32(p, x, i)))")
    execute(text, (-(-len(x) // 64), 1, 1), 0, [x, y, len(x)])
    return y


GRID = np.concatenate([np.linspace(-30, 30, 4001), np.linspace(-1, 1, 2001), 10.0 ** np.linspace(-8, 1.5, 500)])
FUNCTIONS: dict[str, tuple[Callable[[Array], Array], float, float]] = {
    "exp": (np.exp, 4, 0), "expm1": (np.expm1, 6, 0), "tanh": (np.tanh, 6, 0), "sin": (np.sin, 4, 1e-7),
    "cos": (np.cos, 4, 1e-7), "erf": (np.vectorize(math.erf), 6, 0), "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 8, 0),
    "softplus": (lambda x: np.logaddexp(0, x), 4, 5e-7), "silu": (lambda x: x / (1 + np.exp(-x)), 8, 0),
    "gelu": (lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), 4, 2e-6),
    "mish": (lambda x: x * np.tanh(np.logaddexp(0, x)), 4, 2e-6), "softsign": (lambda x: x / (1 + abs(x)), 4, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_keep_to_their_stated_errors(name: str) -> None:
    """`ulps` of the result, and an absolute error where tails lose digits."""
    meaning, ulps, absolute = FUNCTIONS[name]
    x = GRID.astype(np.float32)
    found, want = over(name, x).astype(np.float64), meaning(x.astype(np.float64))
    assert np.all(np.abs(found - want) <= ulps * EPSILON * np.abs(want) + absolute + 1e-38)


@pytest.mark.parametrize("name", [*FUNCTIONS, "relu", "log", "sign", "reciprocal"])
def test_nan_stays_nan_and_infinity_is_met(name: str) -> None:
    found = over(name, np.array([np.nan, np.inf], np.float32))
    assert np.isnan(found[0])
    assert name in {"sin", "cos", "softsign"} or not np.isnan(found[1])


def test_fastdiv_divides_every_non_negative_integer() -> None:
    divisors = [*range(1, 300), *(2**k + j for k in range(9, 31) for j in (-1, 0, 1))]
    rng = np.random.default_rng(0)
    for d in divisors:
        factor, shift = vocabulary.magic(d)
        assert -(2**31) <= factor < 2**31
        for n in [0, d - 1, d, 2**31 - 1, *map(int, rng.integers(0, 2**31, 8))]:
            if n < 2**31:
                assert ((n * (factor % 2**32)) >> 31) % 2**32 >> shift == n // d, (n, d)


def test_conversions_round_to_nearest() -> None:
    x = np.array([1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 65504.0, 1e-40, np.inf, np.nan], np.float32)
    assert round_tf32(x)[:3].tolist() == [1 + 2**-10, 1 + 2**-9, -1 - 2**-10]
    y = np.zeros(8, np.uint16)
    pair = "def k(x: 'f32*', y: 'bf16*', n: 'i32') -> '32 threads':\n    t = thread()\n"
    execute(pair + "    store_bf16(inside(t, n), y, t, load_f32(inside(t, n), x, t))\n", (1, 1, 1), 0, [x, y, 7])
    assert np.array_equal(y[:6], to_storage(x[:6], "bf16")) and np.isnan(
        (y[6:7].astype(np.uint32) << 16).view(np.float32)
    )


X = np.arange(256, dtype=np.float32)
SHARED = "s = shared()\n"
FAULTS = {
    "reads out of bounds": ("v = load_f32(i < 300, x, i + n)", "out of bounds of x"),
    "stores out of bounds": ("store_f32(t == 0, y, i - 1, f32(0.0))", "out of bounds of y"),
    "misaligned": ("v = load_f32x4(i == 1, x, i)", "misaligned"),
    "float64": ("store_f32(p, y, i, load_f32(p, x, i) * load_f32(p, x, i).astype('f8'))", "float64 where float32"),
    "stores twice": ("store_f32(p, y, i * 0, f32(0.0))", "stored twice"),
    "reads what it stored": ("store_f32(p, y, i, f32(0.0))\nv = load_f32(p, y, i)", "stored by this launch"),
    "branches by thread": ("while i < n:\n    i = i + 1", "branches"),
    "never written": (SHARED + "v = load_shared_f32(s + t * 4)", "never written"),
    "shared out of bounds": (SHARED + "store_shared_f32(s + 1024 + t * 4, f32(0.0))", "out of bounds of 1024 shared"),
    "shared misaligned": (SHARED + "store_shared_f32x2(s + t * 4, (f32(0.0), f32(0.0)))", "shared address misaligned"),
    "no barrier": (
        SHARED + "store_shared_f32(s + t * 4, f32(0.0))\nv = load_shared_f32(s + (t ^ 1) * 4)", "barrier missing"),
    "two writers": (SHARED + "store_shared_f32(s + (t >> 1) * 4, f32(0.0))", "two threads"),
    "written while read": (
        SHARED + "store_shared_f32(s + t * 4, f32(0.0))\nbarrier()\nv = load_shared_f32(s + (t ^ 1) * 4)\n"
        "store_shared_f32(s + t * 4, v)", "may still read"),
    "no wait": (
        SHARED + "copy_b32(p, s + t * 4, x, i)\ncommit()\nbarrier()\nv = load_shared_f32(s + t * 4)", "not waited"),
    "wait too short": (
        SHARED + "copy_b32(p, s + t * 4, x, i)\ncommit()\nwait(1)\nv = load_shared_f32(s + t * 4)", "not waited"),
    "copies left in flight": (SHARED + "copy_b32(p, s + t * 4, x, i)\ncommit()", "not waited for"),
    "negative dividend": ("v = udiv(i - 5, n)", "negative"),
}  # fmt: skip


def run(body: str) -> Ran:
    return execute(kernel(body), (4, 1, 1), 1024, [X, np.zeros(256, np.float32), 256])


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_lock_step_refuses(fault: tuple[str, str]) -> None:
    with pytest.raises(LockstepError, match=fault[1]):
        run(fault[0])


def test_lock_step_counts_bank_conflicts_and_what_was_not_stored() -> None:
    strided = (
        SHARED + "store_shared_f32(s + (t & 31) * 32 + (t >> 5) * 4, f32(0.0))\nstore_f32(p & (i < 99), y, i, f32(0.0))"
    )
    ran = execute(kernel(strided), (4, 1, 1), 1024, [X, np.zeros(256, np.float32), 256])
    assert ran.conflicts == {"store_shared_f32": 8}
    assert ran.unwritten["y"] == 2 * (256 - 99)


def test_a_copy_fills_zeros_where_it_is_off() -> None:
    y = np.full(256, np.nan, np.float32)
    body = (
        SHARED
        + "copy_b32(p & (t < 8), s + t * 4, x, i)\ncommit()\nwait(0)\nstore_f32(p, y, i, load_shared_f32(s + t * 4))"
    )
    execute(kernel(body), (4, 1, 1), 256, [X, y, 256])
    assert np.array_equal(y, np.where(np.arange(256) % 64 < 8, X, 0))


def test_shuffle_exchanges_within_a_warp() -> None:
    y = np.zeros(256, np.float32)
    execute(kernel("store_f32(p, y, i, shuffle_xor(load_f32(p, x, i), 5))"), (4, 1, 1), 0, [X, y, 256])
    assert np.array_equal(y, np.arange(256) ^ 5)
