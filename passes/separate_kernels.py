"""w[o,c,r,s] = sum over m of v[o,m,r] u[m,c,s]: conv(x, w) = conv(conv(x, u), v), a k x 1 after a 1 x k.

Dense, with M channels between: w as a matrix [(o, r), (c, s)], for each group, has rank M. Depthwise: each plane
w[o,0,:,:] by itself, with rank 1 (Sobel, Gaussian, box, binomial) or more.
Borders: rows of zeros give rows of zeros, u having no bias, so top and bottom are padded at v, left and right at u;
stride and dilation split by axis likewise. Shapes: w [K, C/g, R, S], u [M, C/g, 1, S], v [K, M/g, R, 1]. By singular
values in float64. Numerics: reassociates where exact; best rank M under a budget.
Rejects: a rank at which the two take no fewer weights, or no less predicted time.
Source: Rigamonti et al., Learning separable filters, 2013; Jaderberg et al., arXiv:1405.3866.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from convc.passes.chain import Chain, ChainPass, Kernel, Layer, Moments
from convc.passes.rank import exact_rank, factors, off_by, off_rank, ranks_between, roots
from convc.types import Array


def find(kernel: Kernel) -> Sequence[Chain] | str | None:
    """Planes of low rank, or a whole kernel of low rank."""
    _, out, channels, rows, columns = kernel.shape
    if rows == 1 or columns == 1:
        return None
    if channels > 1:
        return _whole(kernel)
    found = _planes(kernel)
    if isinstance(found, str) and out > 1:
        whole = _whole(kernel)
        return f"{found}; {whole}" if isinstance(whole, str) else whole
    return found


def _planes(kernel: Kernel) -> Sequence[Chain] | str:
    rows, columns = kernel.shape[3:]
    most = _fewer(rows * columns, rows + columns)
    planes = kernel.stored[:, 0].astype(np.float64)
    # The planes that look least like zero, first alone: of a kernel without structure, one is enough.
    order = np.argsort(-np.abs(planes).max((1, 2)))
    for some in (order[:1], order):
        values = np.linalg.svd(planes[some], compute_uv=False)
        ranks = [exact_rank(v, kernel.largest, (rows, columns)) for v in values]
        if max(ranks) > most:
            worst = int(np.argmax(ranks))
            text = (
                f"channel {some[worst]} has rank {ranks[worst]}, off rank {most} by {off_by(values[worst], most):.2g}"
            )
            return f"its {kernel.size} planes are not separable: {text}" if most else f"{kernel.size} is too small"
    return [split_planes(kernel, max(ranks))]


def split_planes(kernel: Kernel, rank: int) -> Chain:
    """Each plane of a depthwise kernel as the best sum of `rank` products."""
    groups, _, _, rows, columns = kernel.shape
    u, values, v = np.linalg.svd(kernel.stored[:, 0].astype(np.float64), full_matrices=False)
    root = np.sqrt(values[:, :rank])
    across = (root[:, :, None] * v[:, :rank]).reshape(-1, 1, 1, columns)
    down = (u[:, :, :rank] * root[:, None]).transpose(0, 2, 1).reshape(-1, rank, rows, 1)
    return _chain(kernel, across, down, groups, len(down), rank)


def _whole(kernel: Kernel) -> Sequence[Chain] | str:
    _, out, channels, rows, columns = kernel.shape
    most = _fewer(out * channels * rows * columns, channels * columns + out * rows)
    off = off_rank(kernel.by_group()[0].transpose(0, 2, 1, 3), most)
    if off:
        return f"its rank exceeds {most}, where {rows}x1 after 1x{columns} saves nothing: a row is {off:.2g} off"
    matrices = _matrices(kernel.wide())
    values = factors(matrices)[1]
    rank = max(exact_rank(v, kernel.largest, matrices.shape[1:]) for v in values)
    if rank > most:
        text = f"off rank {most} by {off_by(values, most):.2g}"
        return f"its rank is {rank}, {text}; {rows}x1 after 1x{columns} saves at ranks up to {most}"
    return split_whole(kernel, [rank])


def split_whole(kernel: Kernel, ranks: Sequence[int], moments: Moments | None = None) -> list[Chain]:
    """The best products of each rank, the same for all groups; best for what inputs show, where that is known."""
    groups, out, channels, rows, columns = kernel.shape
    if moments is None:
        u, values, v = factors(_matrices(kernel.wide()))
    else:
        windows = moments.windows.reshape(groups, channels, rows, columns, channels, rows, columns)
        half, back = roots(np.einsum("gcrsdrt->gcsdt", windows).reshape(groups, channels * columns, -1))
        u, values, v = factors(_matrices(kernel.wide()) @ half)
        v = v @ back
    found: list[Chain] = []
    for rank in ranks:
        root = np.sqrt(values[:, :rank])
        across = (root[:, :, None] * v[:, :rank]).reshape(groups * rank, channels, 1, columns)
        down = (u[:, :, :rank] * root[:, None]).reshape(groups, out, rows, rank).transpose(0, 1, 3, 2)
        found.append(_chain(kernel, across, down.reshape(groups * out, rank, rows, 1), groups, groups, rank))
    return found


def _matrices(by_group: Array) -> Array:
    """[groups, (o, r), (c, s)]."""
    groups, out, channels, rows, columns = by_group.shape
    matrices: Array = by_group.transpose(0, 1, 3, 2, 4).reshape(groups, out * rows, channels * columns)
    return matrices


def _fewer(weights: int, a_rank: int) -> int:
    """The largest rank that takes fewer weights."""
    return (weights - 1) // a_rank


def _chain(kernel: Kernel, across: Array, down: Array, first: int, second: int, rank: int) -> Chain:
    attrs = kernel.node.attrs
    (sh, sw), (dh, dw), (top, left, bottom, right) = attrs["stride"], attrs["dilation"], attrs["padding"]
    layers = (
        Layer(across, first, (1, sw), (0, left, 0, right), (1, dw)),
        Layer(down, second, (sh, 1), (top, 0, bottom, 0), (dh, 1)),
    )
    rows, columns = kernel.shape[3:]
    kind = f"depthwise, rank {rank}" if first != second or kernel.shape[2] == 1 else f"{len(across)} channels between"
    return Chain(layers, f"{rows}x1 after 1x{columns}, {kind}")


def near(kernel: Kernel, moments: Moments | None = None) -> Iterable[Chain]:
    """A few ranks, from a twentieth of the weights to all."""
    _, out, channels, rows, columns = kernel.shape
    if rows == 1 or columns == 1:
        return []
    if channels == 1:
        return [split_planes(kernel, rank) for rank in range(1, _fewer(rows * columns, rows + columns) + 1)]
    most = _fewer(out * channels * rows * columns, channels * columns + out * rows)
    return split_whole(kernel, ranks_between(max(1, most // 12), most, 10), moments)


SEPARATE_KERNELS = ChainPass(
    "separate_kernels",
    "splits a k x k convolution into a k x 1 after a 1 x k where its kernel is separable",
    find,
    near,
)
