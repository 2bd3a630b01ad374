"""w = b * a: conv5x5(x, w) = conv3x3(conv3x3(x, a), b); a k x k is a stack of (k - 1)/2 kernels 3x3.

w[o,c,i,j] = sum over m, r, s of b[o,m,r,s] a[m,c,i-r,j-s].
Borders: what surrounds x is zeros, and b reads what a makes of them. So a gets all the padding, p of a 5x5, and gives
two rows and columns more than w does; b pads nothing. Stride goes to the last, dilation to all, bias to the last.
Depthwise: separable kernels always factor, others where they are products (`convc.passes.planes`). Dense, with M
channels between: `convc.passes.compositions`. Under a budget: alternating least squares from several starts.
Shapes: w [K, C/g, k, k], a [M, C/g, 3, 3], b [K, M/g, 3, 3]. In float64. Numerics: reassociates where exact.
Rejects: kernels that are no composition, not square or even; no less predicted time.
Source: Simonyan & Zisserman 2015, section 2.3, for the count: 18 M^2 in the place of 25 M^2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from convc.passes.bottleneck import BOTTLENECK
from convc.passes.chain import Chain, ChainPass, Kernel, Layer, Moments
from convc.passes.compositions import Composition, channels_between, find_composition, from_start
from convc.passes.planes import divide, factor_planes
from convc.passes.rank import ranks_between
from convc.passes.separate_kernels import SEPARATE_KERNELS
from convc.types import Array

GROUPS = 16
"""Groups that are not depthwise, searched one by one."""
NEAR_WEIGHTS = 1 << 17
"""The largest kernel that a budget is offered stacks for: a second for each number of channels between."""
NEAR_STARTS = 2
NEAR_STEPS = 6


def find(kernel: Kernel) -> Sequence[Chain] | str | None:
    """A stack of 3x3 that makes up the kernel."""
    groups, out, channels, rows, columns = kernel.shape
    if max(rows, columns) < 5:
        return None
    if rows != columns or rows % 2 == 0:
        return f"{kernel.size} is no odd square"
    if channels == 1:
        planes = factor_planes(kernel.stored[:, 0].astype(np.float64))
        if isinstance(planes, str):
            return planes
        return [_stack(kernel, [plane[:, None] for plane in planes], [groups, *[groups * out] * (len(planes) - 1)])]
    if groups > GROUPS:
        return f"{groups} groups of {channels} channels are not searched"
    parts: list[list[Array]] = []
    for w in kernel.wide():
        found = compositions(w)
        if isinstance(found, str):
            return found
        if parts and [p.shape for p in found] != [p.shape for p in parts[0]]:
            return "its groups have different numbers of channels between"
        parts.append(found)
    layers = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return [_stack(kernel, layers, [groups] * len(layers))]


def compositions(w: Array) -> list[Array] | str:
    """Dense kernels 3x3, first to last, whose composition is w."""
    out, channels, k, _ = w.shape
    if k == 3:
        return [w]
    between = channels_between(w)
    limit = ((k * k * out * channels) - 1) // (9 * (out + channels)) if k == 5 else max(out, channels)
    if between > limit:
        return f"{between} channels between, the rank of a corner, save nothing"
    reasons: list[str] = []
    for size in dict.fromkeys((3, k - 2)):
        found = find_composition(w, between, size)
        if isinstance(found, str):
            reasons.append(found)
            continue
        rest = compositions(found.second if size == 3 else found.first)
        if not isinstance(rest, str):
            return [found.first, *rest] if size == 3 else [*rest, found.second]
        reasons.append(rest)
    return reasons[0]


def _stack(kernel: Kernel, weights: Sequence[Array], groups: Sequence[int]) -> Chain:
    """All padding on the first, stride on the last, dilation on all."""
    attrs = kernel.node.attrs
    last = len(weights) - 1
    layers = tuple(
        Layer(
            w,
            groups[i],
            attrs["stride"] if i == last else (1, 1),
            attrs["padding"] if i == 0 else (0, 0, 0, 0),
            attrs["dilation"],
        )
        for i, w in enumerate(weights)
    )
    between = ", ".join(str(len(w)) for w in weights[:-1])
    sizes = " after ".join(f"{w.shape[2]}x{w.shape[3]}" for w in reversed(weights))
    return Chain(layers, f"{sizes}, {between} channels between")


def near(kernel: Kernel, moments: Moments | None = None) -> Iterable[Chain]:
    """Two kernels for one, 3x3 and the rest, with a few numbers of channels between."""
    groups, out, channels, rows, columns = kernel.shape
    if rows != columns or rows % 2 == 0 or rows < 5:
        return
    if channels == 1:
        first, last, _ = divide(kernel.stored[:, 0].astype(np.float64), 3)
        yield _stack(kernel, [first[:, None], last[:, None]], [groups, groups * out])
        return
    if groups > 1 or kernel.stored.size > NEAR_WEIGHTS:
        return
    w = kernel.wide()[0]
    most = (w.size - 1) // (9 * channels + (rows - 2) ** 2 * out)
    for between in ranks_between(max(1, most // 8), most, 7):
        found = [from_start(w, between, 3, seed, NEAR_STEPS) for seed in range(NEAR_STARTS)]
        best: Composition = min(found, key=lambda one: one.residual)
        yield _stack(kernel, [best.first, best.second], [1, 1])


STACK_CONV5X5 = ChainPass(
    "stack_conv5x5",
    "turns a 5x5 convolution into a 3x3 after a 3x3, and larger ones into more, where the kernel is a composition",
    find,
    near,
    rivals=(BOTTLENECK, SEPARATE_KERNELS),
)
