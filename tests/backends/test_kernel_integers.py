"""Arithmetic of a kernel's int64, of which addresses are made, is Python's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import product

import numpy as np

from convc.backends.cpu.build import build_objects, link_objects
from convc.backends.cpu.isa import choose
from convc.backends.store import Store

VALUES = [-(1 << 40), -17, -16, -8, -7, -1, 0, 1, 2, 7, 8, 9, 31, 1 << 40]
COMPARISONS = ["a < b", "a <= b", "a > b", "a >= b", "a == b", "a != b"]


def kernel(expressions: list[str]) -> Callable[[int, int], list[int]]:
    """A kernel that computes expressions of a and b."""
    lines = [f"    store_i64(out, {index}, {text})" for index, text in enumerate(expressions)]
    source = "\n".join(["def integers(out, a, b, thread, threads):", *lines, ""])
    code, _ = build_objects({"integers": source}, choose(), Store(), None)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)(link_objects(code)["integers"])

    def compute(a: int, b: int) -> list[int]:
        out = np.zeros(len(expressions), np.int64)
        function(out.ctypes.data, a, b, 0, 1)
        return [int(value) for value in out]

    compute.code = code  # type: ignore[attr-defined]
    return compute


def test_sums_products_and_comparisons() -> None:
    arithmetic = ["a + b", "a - b", "a * 3 - b * 5", "7 - a"]
    compute = kernel([*arithmetic, *(f"1 if {text} else 0" for text in COMPARISONS)])
    for a, b in product(VALUES, VALUES):
        assert compute(a, b) == [int(eval(text, {"a": a, "b": b})) for text in arithmetic + COMPARISONS], (a, b)


def test_quotients_are_rounded_down() -> None:
    texts = ["a // b", "a // 7", "a // 8", "a // 1", "(a + b - 1) // b * b"]
    compute = kernel(texts)
    for a, b in product(VALUES, [value for value in VALUES if value > 0]):
        assert compute(a, b) == [int(eval(text, {"a": a, "b": b})) for text in texts], (a, b)


def test_nothing_stops_where_a_size_is_zero() -> None:
    compute = kernel(["a // b"])
    for a in VALUES:
        compute(a, 0)
