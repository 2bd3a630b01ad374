"""Ranks of matrices: a quick proof that one is high, and factors of those that are low."""

from __future__ import annotations

import numpy as np

from convc.passes.chain import TOLERANCE
from convc.types import Array

CERTAIN = 5.0
"""Squared residuals up to 25 units of rounding for each row may be rounding of the Gram matrix, and prove nothing."""

PROBES = (8, 32, 128)
"""Random combinations of columns that are tried in turn."""
ROUNDING = TOLERANCE / 4
"""What is left out of a matrix of low rank is below it, relative to its largest element times the root of its size."""


def off_rank(tensor: Array, rank: int) -> float:
    """How far some row is off the span of `rank` others, as a share of its length: above 0, the rank is higher.

    The matrix is [(a, b), (c, d)] of a tensor [a, b, c, d]. 0 where this quick look, at rank + 1 rows and half as many
    columns again, is not certain. Takes milliseconds where singular values take seconds: one Cholesky factor, in
    float32, of elements that are gathered for it alone.
    """
    a, b, c, d = tensor.shape
    if min(a * b, c * d) <= rank:
        return 0.0
    if a * b > c * d:
        tensor = tensor.transpose(2, 3, 0, 1)
        a, b, c, d = tensor.shape
    height, width = rank + 1, rank + rank // 2 + 16
    corner = tensor[: -(-height // b), :, : -(-width // d)]  # the first ones lie together in memory
    found = _residual(corner.reshape(corner.shape[0] * b, -1)[:height, :width])
    if not found:
        random = np.random.default_rng(0)
        rows, columns = random.permutation(a * b)[:height, None], random.permutation(c * d)[:width]
        found = _residual(tensor[rows // b, rows % b, columns // d, columns % d])
    return found


def _residual(part: Array) -> float:
    part = part.astype(np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", part, part))
    if not length.all():
        return 0.0
    part /= length[:, None]
    try:
        residual = float(np.linalg.cholesky(part @ part.T).diagonal().min())
    except np.linalg.LinAlgError:
        return 0.0
    return residual if residual > CERTAIN * np.sqrt(len(part) * np.finfo(np.float32).eps) else 0.0


def exact_rank(values: Array, largest: float, shape: tuple[int, ...]) -> int:
    """How many singular values of a matrix stand out of the rounding of its elements."""
    return int((values > TOLERANCE * largest * np.sqrt(max(shape))).sum())


def factors(matrices: Array) -> tuple[Array, Array, Array]:
    """Singular value decompositions of [..., m, n], thin: U [..., m, k], values [..., k], V [..., k, n].

    Large matrices of low rank go by a few random combinations of their columns, in milliseconds instead of a second;
    values that are rounding of float32 are then left out. Others above 300 lines go by the eigenvectors of their
    smaller Gram matrix, four times as fast; values below 1e-8 of the largest are then noise.
    Source: Halko, Martinsson, Tropp 2011, algorithm 4.1.
    """
    m, n = matrices.shape[-2:]
    if min(m, n) > PROBES[0] * 4:
        few = _few_factors(matrices)
        if few is not None:
            return few
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


def _few_factors(matrices: Array) -> tuple[Array, Array, Array] | None:
    """Factors of matrices whose rank is below a quarter of their lines, but for rounding; None for others."""
    m, n = matrices.shape[-2:]
    random = np.random.default_rng(0)
    limit = ROUNDING * np.abs(matrices).max((-2, -1)) * np.sqrt(max(m, n))
    for count in PROBES:
        if count * 4 > min(m, n):
            return None
        q = np.linalg.qr(matrices @ random.normal(size=(n, count)))[0]
        core = np.swapaxes(q, -1, -2) @ matrices
        if (_norm(matrices - q @ core, random) <= limit).all():
            u, values, v = np.linalg.svd(core, full_matrices=False)
            return q @ u, values, v
    return None


def _norm(matrices: Array, random: np.random.Generator) -> Array:
    """The largest singular value, a little from below: by a block of eight vectors and two steps of power iteration."""
    block = random.normal(size=(*matrices.shape[:-2], matrices.shape[-1], 8))
    for _ in range(2):
        block = np.linalg.qr(block)[0]
        block = np.swapaxes(matrices, -1, -2) @ (matrices @ block)
    largest: Array = np.sqrt(np.linalg.norm(block, axis=-2).max(-1))
    return largest


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
