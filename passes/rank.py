"""Ranks of matrices: a quick proof that one is high, and factors of those that are low."""

from __future__ import annotations

import numpy as np

from convc.passes.chain import TOLERANCE
from convc.types import Array

CERTAIN = 3e-3
"""Residuals below it may be rounding of the float32 Gram matrix, and prove nothing."""


def off_rank(matrix: Array, rank: int) -> float:
    """How far some row is off the span of `rank` others, as a share of its length: above 0, the rank is higher.

    0 where this quick look, at rank + 1 rows and half as many columns again, is not certain. Takes milliseconds
    where singular values take seconds: one Cholesky factor, in float32.
    """
    if min(matrix.shape) <= rank:
        return 0.0
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    random = np.random.default_rng(0)
    rows = random.permutation(matrix.shape[0])[: rank + 1]
    columns = random.permutation(matrix.shape[1])[: rank + rank // 2 + 16]
    part = matrix[rows[:, None], columns].astype(np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", part, part))
    if not length.all():
        return 0.0
    part /= length[:, None]
    try:
        residual = float(np.linalg.cholesky(part @ part.T).diagonal().min())
    except np.linalg.LinAlgError:
        return 0.0
    return residual if residual > CERTAIN else 0.0


def exact_rank(values: Array, largest: float, shape: tuple[int, ...]) -> int:
    """How many singular values of a matrix stand out of the rounding of its elements."""
    return int((values > TOLERANCE * largest * np.sqrt(max(shape))).sum())


def factors(matrices: Array) -> tuple[Array, Array, Array]:
    """Singular value decompositions of [..., m, n], thin: U [..., m, k], values [..., k], V [..., k, n].

    Matrices above 300 lines go by the eigenvectors of their smaller Gram matrix, four times as fast; values below
    1e-8 of the largest are then noise.
    """
    m, n = matrices.shape[-2:]
    if min(m, n) <= 300:
        u, values, v = np.linalg.svd(matrices, full_matrices=False)
        return u, values, v
    if m > n:
        v, values, u = factors(np.swapaxes(matrices, -1, -2))
        return np.swapaxes(u, -1, -2), values, np.swapaxes(v, -1, -2)
    squares, u = np.linalg.eigh(matrices @ np.swapaxes(matrices, -1, -2))
    u = u[..., ::-1]
    values = np.sqrt(np.maximum(squares[..., ::-1], 0))
    v = (np.swapaxes(u, -1, -2) @ matrices) / np.maximum(values, 1e-300)[..., None]
    return u, values, v


def roots(moments: Array) -> tuple[Array, Array]:
    """Symmetric square roots of second moments [..., n, n], and their inverses; eigenvalues are at least 1e-6."""
    squares, axes = np.linalg.eigh(moments)
    values = np.sqrt(np.maximum(squares, 1e-6 * squares.max(-1, keepdims=True) + 1e-30))
    turned = np.swapaxes(axes, -1, -2)
    return (axes * values[..., None, :]) @ turned, (axes / values[..., None, :]) @ turned


def off_by(values: Array, rank: int) -> float:
    """The relative Frobenius error of the best approximation of that rank, given all singular values."""
    total = float(np.sum(values**2))
    return float(np.sqrt(np.sum(values[..., rank:] ** 2) / total)) if total else 0.0


def ranks_between(low: int, high: int, count: int) -> list[int]:
    """At most `count` ranks from `low` to `high`, in even ratios, whole multiples of 8 where above 16."""
    if high < low:
        return []
    found = np.geomspace(low, high, count)
    return sorted({min(high, int(r) if r <= 16 else int(r) // 8 * 8) for r in found} - {0})
