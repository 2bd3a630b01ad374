"""How far outputs are from those of the interpreter in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.interp import run_graph
from convc.types import Array

if TYPE_CHECKING:
    from convc.ir.graph import Graph

TOLERANCE = 1e-4
"""What compiled networks promise, of the largest magnitude of the output."""
MISMATCHED = 1e-4
"""Share of whole numbers that may differ: a largest class or a comparison flips where two values are nearly equal."""


@dataclass(frozen=True)
class Difference:
    """How two arrays differ. `error` is the largest difference over the largest magnitude expected, infinite where one
    is NaN or infinite and the other is not; for whole numbers and truth values it is the share that differs.
    """

    error: float
    floating: bool

    def within(self, tolerance: float = TOLERANCE) -> bool:
        """Whether this counts as the same."""
        return self.error <= (tolerance if self.floating else MISMATCHED)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def difference(found: Array, expected: Array) -> Difference:
    """How `found` differs from `expected`; arrays of other shapes differ without bound."""
    floating = bool(np.issubdtype(expected.dtype, np.floating))
    if found.shape != expected.shape:
        return Difference(float("inf"), floating)
    if not expected.size:
        return Difference(0.0, floating)
    if not floating:
        return Difference(float(np.mean(found != expected)), False)
    finite = np.isfinite(expected)
    odd = ~finite
    if odd.any() and not np.array_equal(found[odd].astype(np.float64), expected[odd], equal_nan=True):
        return Difference(float("inf"), True)
    with np.errstate(all="ignore"):
        apart = np.abs(found[finite].astype(np.float64) - expected[finite])
    if not np.isfinite(apart).all():
        return Difference(float("inf"), True)
    largest = float(apart.max(initial=0.0))
    scale = float(np.abs(expected[finite]).max(initial=0.0))
    return Difference(largest / scale if scale else (0.0 if largest == 0 else float("inf")), True)


def wide(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Floating arrays in float64, others as they are."""
    return {k: v.astype(np.float64) if np.issubdtype(v.dtype, np.floating) else v for k, v in arrays.items()}


def reference(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name, carried in float64."""
    return run_graph(graph, wide(inputs), dtype="float64")


__all__ = ["MISMATCHED", "TOLERANCE", "Difference", "difference", "reference", "wide"]
