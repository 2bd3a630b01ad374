"""The matrices of Winograd's convolution, and kernels transformed by them; NumPy only, for packing needs no Numba."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from convc.types import Array

Matrix = npt.NDArray[np.float64]

POINTS: dict[int, tuple[float, ...]] = {
    4: (0.0, 1.0, -1.0),
    6: (0.0, 0.75, -0.75, 1.5, -1.5),
    8: (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0),
    10: (0.0, 0.375, -0.375, 0.75, -0.75, 1.25, -1.25, 2.0, -2.0),
}
"""Finite interpolation points by the number of all of them, infinity being the last. Their powers are exact in float32.

The rounding error as a multiple of the direct kernel's (root mean square, 256 channels): F(2 x 2, 3 x 3) 0.6, F(4 x 4,
3 x 3) 1.8, F(2 x 2, 5 x 5) 1.2, F(1 x 6, 1 x 3) 2.7, F(1 x 4, 1 x 7) 4.4, F(1 x 6, 1 x 5) 5.0. The usual points of
F(4 x 4, 3 x 3), 0, 1, -1, 2, -2, make it twice as large.
"""
MOST_ALONG_BOTH = 6
"""Points along each axis where a kernel extends along both."""
LARGEST_TILE = 6
"""Outputs along an axis: F(1 x 8, 1 x 3) would have 7 times the error of the direct kernel."""
MOST_OUTPUTS = 16
"""Of a tile: F(5 x 5, 2 x 2) would have 2.9 times the error, and is no sooner than F(3 x 3, 2 x 2), which has 0.9."""
PAIR = ((1, 0), (0, 0), (0, 1), (1, 1))
"""Outputs along each axis that mixed tiles have less than whole ones, in the order in which they lie: of any point,
those that have it are side by side.
"""
AT_A_TIME = 8192
"""Kernels that are transformed together: what they take in float64 stays in a cache."""


@dataclass(frozen=True, slots=True)
class Form:
    """F(down x across, height x breadth): tiles of outputs, and the kernel; 1 and 1 along an axis that has one tap."""

    down: int
    across: int
    height: int
    breadth: int

    @property
    def rows(self) -> int:
        """Rows of points, and of inputs of a tile."""
        return self.down + self.height - 1

    @property
    def columns(self) -> int:
        """Points of a row, and columns of inputs of a tile."""
        return self.across + self.breadth - 1

    @property
    def points(self) -> int:
        """Points of a tile: as many multiplications for down * across outputs."""
        return self.rows * self.columns

    def __str__(self) -> str:
        return f"f{self.down}x{self.across}_{self.height}x{self.breadth}"


@cache
def forms_of(kernel: tuple[int, int]) -> tuple[Form, ...]:
    """Forms for a kernel of (rows, columns): of as many points along both axes, or along the one that has taps."""
    height, breadth = kernel
    if height == 1 or breadth == 1:
        tiles = [(n - height + 1, 1) if height > 1 else (1, n - breadth + 1) for n in POINTS]
    else:
        tiles = [(n - height + 1, n - breadth + 1) for n in POINTS if n <= MOST_ALONG_BOTH]
    return tuple(Form(*tile, *kernel) for tile in tiles if _fits(tile, kernel)) if max(kernel) > 1 else ()


def _fits(tile: tuple[int, int], kernel: tuple[int, int]) -> bool:
    saves = all(outputs > 1 or taps == 1 for outputs, taps in zip(tile, kernel, strict=True))
    return saves and max(tile) <= LARGEST_TILE and tile[0] * tile[1] <= MOST_OUTPUTS


def shrinks(outputs: int, taps: int) -> bool:
    """Whether smaller tiles may be mixed in along an axis: of one output less, by one point less. Their rounding error
    is 0.8 to 1.15 times that of whole ones, measured.
    """
    return taps > 1 and outputs > 2


def places(n: int) -> tuple[int, ...]:
    """Where n points are in memory: an odd number of them among those of one more, of which the last finite is left
    out, so that both have transformed kernels in common.
    """
    return (*range(n - 1), n) if n % 2 and n > 1 else tuple(range(n))


def _finite(n: int) -> tuple[float, ...]:
    return POINTS[n + 1][:-1] if n % 2 else POINTS[n]


def input_matrix(n: int) -> Matrix:
    """B^T [n, n] by Cook and Toom from POINTS and infinity; nothing changes where there is one point."""
    if n == 1:
        return np.ones((1, 1))
    points = _finite(n)
    rows = [np.append(np.poly([q for q in points if q != p])[::-1], 0.0) for p in points]
    return np.array([*rows, np.poly(points)[::-1]])


def kernel_matrix(taps: int, n: int) -> Matrix:
    """G [n, taps], as `whole_matrix` of kernels that `weigh_kernels` has weighed: what makes it exact is in A^T."""
    return np.ones((1, 1)) if n == 1 else whole_matrix(taps, n) * _smallest(n) ** np.arange(taps)


def output_matrix(outputs: int, n: int) -> Matrix:
    """A^T [outputs, n]."""
    if n == 1:
        return np.ones((1, 1))
    points = _finite(n)
    scale = [np.prod([p - q for q in points if q != p]) for p in points] + [_smallest(n) ** (n - outputs)]
    matrix: Matrix = _powers(points, outputs).T / np.array(scale)
    return matrix


def _powers(points: Sequence[float], columns: int) -> Matrix:
    """The powers of each point, a point a row, and of infinity."""
    finite = np.array([[p**j for j in range(columns)] for p in points])
    return np.vstack([finite, np.eye(columns)[-1]])


def whole_matrix(taps: int, n: int) -> Matrix:
    """G [n, taps] for kernels that `weigh_kernels` has weighed: powers of the points, counted in the smallest. Small
    integers for 4 and 6 points.
    """
    return _powers([p / _smallest(n) for p in _finite(n)], taps)


def _smallest(n: int) -> float:
    return min(p for p in _finite(n) if p > 0)


def weigh_kernels(weights: Array, n: int) -> Array:
    """Kernels [out, in, R, S] as `whole_matrix` takes them: row and column j times the smallest point to the j-th."""
    rows, columns = (_smallest(n) ** np.arange(taps) for taps in weights.shape[2:])
    weighed: Array = (weights * np.outer(rows, columns)).astype(np.float32)
    return weighed


def transform_kernels(form: Form, taps: Array, points: Array) -> None:
    """G w G^T, computed in float64. `taps` [height * breadth, kernels], `points` [form.points, kernels], float32."""
    both = np.kron(kernel_matrix(form.height, form.rows), kernel_matrix(form.breadth, form.columns))
    for at in range(0, taps.shape[1], AT_A_TIME):
        points[:, at : at + AT_A_TIME] = both @ taps[:, at : at + AT_A_TIME].astype(np.float64)
