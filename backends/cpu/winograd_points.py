"""The matrices of Winograd's convolution, and kernels transformed by them; NumPy only, for packing needs no Numba."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from convc.parallel import each
from convc.types import Array

Matrix = npt.NDArray[np.float64]

POINTS: dict[int, tuple[float, ...]] = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}
"""Interpolation points by output tile size. Their powers are exact in float32. The rounding error is 1.6 and 4.6 times
that of the direct sum (root mean square, 256 channels); the usual points of F(4, 3), 0, 1, -1, 2, -2, make it 10 times.
"""

AT_A_TIME = 8192
"""Kernels that are transformed together: what they take in float64 stays in a cache."""


def matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """A^T [m, n], G [n, 3] and B^T [n, n] of F(m, 3), n = m + 2, by Cook and Toom from POINTS and infinity.

    Factors that make it exact are in A^T, so that G is `whole_matrix` of kernels that `weigh_kernels` has weighed.
    """
    points = POINTS[m]
    scale = [np.prod([p - q for q in points if q != p]) for p in points] + [_smallest(m) ** 2]
    rows = [np.append(np.poly([q for q in points if q != p])[::-1], 0.0) for p in points] + [np.poly(points)[::-1]]
    return _powers(points, m).T / np.array(scale), whole_matrix(m) * _smallest(m) ** np.arange(3), np.array(rows)


def _powers(points: Sequence[float], columns: int) -> Matrix:
    """The powers of each point, a point a row, and of infinity."""
    finite = np.array([[p**j for j in range(columns)] for p in points])
    return np.vstack([finite, np.eye(columns)[-1]])


def whole_matrix(m: int) -> Matrix:
    """G for kernels that `weigh_kernels` has weighed: powers of the points, counted in the smallest: small integers."""
    return _powers([p / _smallest(m) for p in POINTS[m]], 3)


def _smallest(m: int) -> float:
    return min(p for p in POINTS[m] if p > 0)


def weigh_kernels(weights: Array, m: int) -> Array:
    """Kernels [out, in, 3, 3] as `whole_matrix` takes them: row and column j times the smallest point to the j-th."""
    powers = _smallest(m) ** np.arange(3)
    weighed: Array = (weights * np.outer(powers, powers)).astype(np.float32)
    return weighed


def transform_kernels(weights: Array, m: int) -> Array:
    """G w G^T of kernels [out, in, 3, 3], computed in float64: float32 [points, out, in]."""
    g = matrices(m)[1]
    both, kernels = np.kron(g, g), weights.reshape(-1, 9)
    points: Array = np.empty((len(both), len(kernels)), np.float32)

    def transform(at: int) -> None:
        points[:, at : at + AT_A_TIME] = both @ kernels[at : at + AT_A_TIME].T.astype(np.float64)

    each(transform, range(0, len(kernels), AT_A_TIME))
    return points.reshape(-1, *weights.shape[:2])
