"""w[o,c,r,s] = sum over j of p[o,(c,j)] d[(c,j),r,s]: conv(x, w) = conv1x1(depthwise(x, d), p).

The slice w[:,c,:,:] of each input channel, as a matrix [o, (r, s)], has rank J; with J = 1 this is the depthwise
separable convolution. It takes 1/O + 1/k^2 of the multiply-adds (O output channels, kernels k x k, J = 1).
Borders: padding, stride and dilation are the depthwise convolution's. Shapes: w [K, C/g, R, S], d [C J, 1, R, S],
p [K, C/g J, 1, 1]. By singular values in float64. Numerics: reassociates where exact; best J under a budget.
Rejects: a rank at which the two take no fewer weights, or no less predicted time.
Source: Sifre 2014; Guo et al., Network decoupling, arXiv:1808.05517.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from convc.passes.bottleneck import BOTTLENECK
from convc.passes.chain import Chain, ChainPass, Kernel, Layer, Moments
from convc.passes.rank import exact_rank, off_by, roots
from convc.passes.separate_kernels import SEPARATE_KERNELS
from convc.passes.stack_conv5x5 import STACK_CONV5X5
from convc.types import Array


def find(kernel: Kernel) -> Sequence[Chain] | str | None:
    """Slices of low rank, all of them."""
    most = _most(kernel)
    if most is None:
        return None
    if not most:
        return f"{kernel.shape[1]} output channels a group are too few for a depthwise and a pointwise convolution"
    largest = int(np.argmax(np.abs(kernel.stored[0]).max((1, 2))))
    for slices in (_slices(kernel.by_group()[:1, :, largest : largest + 1].astype(np.float64)), None):
        if slices is None:
            slices = _slices(kernel.wide())
        values = _values(slices)
        ranks = [exact_rank(v, kernel.largest, slices.shape[1:]) for v in values]
        if max(ranks) > most:
            worst = int(np.argmax(ranks))
            channel, off = (largest if len(ranks) == 1 else worst), off_by(values[worst], most)
            return f"the slice of input channel {channel} has rank {ranks[worst]}, off rank {most} by {off:.2g}"
    return split_slices(kernel, [max(ranks)])


def _most(kernel: Kernel) -> int | None:
    """The largest J that takes fewer weights; None for kernels that are depthwise or pointwise already."""
    _, out, channels, rows, columns = kernel.shape
    taps = rows * columns
    if taps == 1 or (channels == 1 and out == 1):
        return None
    return (out * taps - 1) // (taps + out)


def _slices(by_group: Array) -> Array:
    """[(g, c), o, (r, s)]."""
    groups, out, channels, rows, columns = by_group.shape
    slices: Array = by_group.transpose(0, 2, 1, 3, 4).reshape(groups * channels, out, rows * columns)
    return slices


def _values(slices: Array) -> Array:
    values: Array = np.linalg.svd(slices, compute_uv=False)
    return values


def split_slices(kernel: Kernel, ranks: Iterable[int], moments: Moments | None = None) -> list[Chain]:
    """The best filters for each input channel, so many of them; best for what inputs show, where that is known."""
    groups, out, channels, rows, columns = kernel.shape
    slices = _slices(kernel.wide())
    if moments is None:
        u, values, v = np.linalg.svd(slices, full_matrices=False)
    else:
        half, back = roots(np.einsum("gctcs->gcts", moments.windows).reshape(groups * channels, rows * columns, -1))
        u, values, v = np.linalg.svd(slices @ half, full_matrices=False)
        v = v @ back
    attrs = kernel.node.attrs
    found: list[Chain] = []
    for rank in ranks:
        root = np.sqrt(values[:, :rank])
        depthwise = (root[:, :, None] * v[:, :rank]).reshape(-1, 1, rows, columns)
        pointwise = (u[:, :, :rank] * root[:, None]).reshape(groups, channels, out, rank).transpose(0, 2, 1, 3)
        layers = (
            Layer(depthwise, groups * channels, attrs["stride"], attrs["padding"], attrs["dilation"]),
            Layer(pointwise.reshape(groups * out, channels * rank, 1, 1), groups),
        )
        found.append(Chain(layers, f"1x1 after {rank} depthwise {kernel.size} a channel"))
    return found


def near(kernel: Kernel, moments: Moments | None = None) -> Iterable[Chain]:
    """Every number of filters a channel that saves weights."""
    most = _most(kernel)
    return split_slices(kernel, range(1, most + 1), moments) if most else []


SEPARATE_DEPTHWISE = ChainPass(
    "separate_depthwise",
    "splits a dense convolution into a depthwise and a pointwise one where its slices are multiples of one filter",
    find,
    near,
    rivals=(STACK_CONV5X5, BOTTLENECK, SEPARATE_KERNELS),
)
