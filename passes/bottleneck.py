"""w[o,c,r,s] = sum over p, q of u[o,p] h[p,q,r,s] v[q,c]: k x k becomes 1x1, k x k, 1x1 (Tucker-2).

The matrices [o, (c, r, s)] and [c, (o, r, s)] of w, for each group, have the ranks P and Q; where one is full, its 1x1
is left out. A 1x1 convolution becomes two, with P channels between.
Borders: v has no bias, so padding stays with h, as do stride and dilation; of a 1x1, they go to the first.
Shapes: w [K, C/g, R, S], v [Q, C/g, 1, 1], h [P, Q/g, R, S], u [K, P/g, 1, 1]. By singular values in float64 (HOSVD);
under a budget refined by orthogonal iteration (HOOI). Numerics: reassociates where exact.
Rejects: ranks at which the chain takes no fewer weights, or no less predicted time.
Source: Tucker 1966; Kim et al., arXiv:1511.06530.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from convc.passes.chain import Chain, ChainPass, Kernel, Layer, Moments
from convc.passes.rank import exact_rank, factors, off_by, off_rank, roots
from convc.passes.separate_kernels import SEPARATE_KERNELS
from convc.types import Array

SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.55)
"""Relative weight errors at which a budget is offered ranks."""
PRINCIPAL = (0.003, 0.006, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
"""Relative errors of the responses, likewise."""
EVERY = 16
"""Channels, up to which each rank above a half is offered."""
SWEEPS = 1


def find(kernel: Kernel) -> Sequence[Chain] | str | None:
    """Low ranks among the output channels, the input channels, or both."""
    _, out, channels, rows, columns = kernel.shape
    if out == 1 or channels == 1:
        return None
    taps = rows * columns
    most = (
        (out * channels * taps - 1) // (channels * taps + out),
        (out * channels * taps - 1) // (channels + out * taps),
    )
    modes = ("output", "input")[: 1 if taps == 1 else 2]
    first = kernel.by_group()[0].reshape(out, 1, channels, taps)
    views = (first, first.transpose(2, 1, 0, 3))
    off = [off_rank(views[i], most[i]) for i in range(len(modes))]
    if all(off):
        limits = " and ".join(f"{most[i]} of its {mode} channels by {off[i]:.2g}" for i, mode in enumerate(modes))
        return f"no low rank: a row is off the span of {limits}"
    w = kernel.wide()
    ranks = {"output": out, "input": channels}
    errors: list[str] = []
    for i, mode in enumerate(modes):
        matrices = _unfolded(w, mode)
        values = factors(matrices)[1]
        found = max(exact_rank(v, kernel.largest, matrices.shape[1:]) for v in values)
        if found <= most[i]:
            ranks[mode] = found
        else:
            errors.append(f"its {mode} channels have rank {found}, off {most[i]} by {off_by(values, most[i]):.2g}")
    if ranks == {"output": out, "input": channels}:
        return "; ".join(errors)
    options = {(ranks["output"], ranks["input"]), (ranks["output"], channels), (out, ranks["input"])}
    if taps == 1:
        options = {(ranks["output"], channels)}
    return [tucker(kernel, *option) for option in sorted(options - {(out, channels)})]


def _unfolded(w: Array, mode: str) -> Array:
    """[groups, o, (c, r, s)], or [groups, c, (o, r, s)]."""
    groups, out, channels = w.shape[:3]
    if mode == "output":
        return w.reshape(groups, out, -1)
    unfolded: Array = w.transpose(0, 2, 1, 3, 4).reshape(groups, channels, -1)
    return unfolded


def tucker(kernel: Kernel, p: int, q: int, sweeps: int = 0) -> Chain:
    """The chain with p channels a group after the k x k and q ahead of it; full ones need no 1x1."""
    groups, out, channels, rows, columns = kernel.shape
    w, attrs = kernel.wide(), kernel.node.attrs
    window = {"stride": attrs["stride"], "padding": attrs["padding"], "dilation": attrs["dilation"]}
    if rows * columns == 1:
        u, values, v = factors(w[..., 0, 0])
        root = np.sqrt(values[:, :p])
        first = (root[:, :, None] * v[:, :p]).reshape(groups * p, channels, 1, 1)
        last = (u[:, :, :p] * root[:, None]).reshape(groups * out, p, 1, 1)
        return Chain(
            (Layer(first, groups, **window), Layer(last, groups)), f"1x1, 1x1 with {groups * p} channels between"
        )
    u, v = _bases(w, p, q, sweeps)
    core = _shrunk(w, u, 1) if p < out else w
    core = _shrunk(core, v, 2) if q < channels else core
    layers: list[Layer] = []
    if q < channels:
        layers.append(Layer(v.transpose(0, 2, 1).reshape(groups * q, channels, 1, 1), groups))
    layers.append(Layer(core.reshape(groups * p, q, rows, columns), groups, **window))
    if p < out:
        layers.append(Layer(u.reshape(groups * out, p, 1, 1), groups))
    sizes = ", ".join(["1x1"] * (q < channels) + [kernel.size] + ["1x1"] * (p < out))
    return Chain(tuple(layers), f"{sizes} with {groups * q} and {groups * p} channels between")


def _bases(w: Array, p: int, q: int, sweeps: int) -> tuple[Array, Array]:
    """Orthonormal columns [groups, o, p] and [groups, c, q]: those of the unfoldings, then each given the other."""
    u = _leading(_unfolded(w, "output"), p)
    v = _leading(_unfolded(w, "input"), q)
    for _ in range(sweeps if p < w.shape[1] and q < w.shape[2] else 0):
        u = _leading(_unfolded(_shrunk(w, v, 2), "output"), p)
        v = _leading(_unfolded(_shrunk(w, u, 1), "input"), q)
    return u, v


def _leading(matrices: Array, count: int) -> Array:
    """The first left singular vectors, by the Gram matrix: good to 1e-8 of the largest singular value."""
    if matrices.shape[-1] < matrices.shape[-2] or count * 4 <= matrices.shape[-2]:
        u = factors(matrices)[0]
        if u.shape[-1] >= count:
            return u[..., :count]
    vectors: Array = np.linalg.eigh(matrices @ np.swapaxes(matrices, -1, -2))[1]
    return vectors[..., ::-1][..., :count]


def _shrunk(w: Array, basis: Array, axis: int) -> Array:
    """`w` with its axis of channels multiplied by the basis's columns."""
    moved = np.moveaxis(w, axis, -1)
    shape = moved.shape
    product = np.matmul(moved.reshape(shape[0], -1, shape[-1]), basis)
    return np.moveaxis(product.reshape(*shape[:-1], basis.shape[-1]), -1, axis)


def near(kernel: Kernel, moments: Moments | None = None) -> Iterable[Chain]:
    """Ranks at a few levels of weight error; of what inputs and responses show, too, where that is known."""
    _, out, channels, rows, columns = kernel.shape
    if out == 1 or channels == 1:
        return
    w = kernel.wide()
    ahead = factors(_unfolded(w, "input"))[1]
    behind = factors(_unfolded(w, "output"))[1]
    seen: set[tuple[int, int]] = set()
    for share in SHARES:
        q, p = _rank_at(ahead, share / np.sqrt(2)), _rank_at(behind, share / np.sqrt(2))
        if rows * columns == 1:
            q, p = channels, _rank_at(behind, share)
        for option in ((p, q), (p, channels), (out, q)):
            if option not in seen and (option != (out, channels)) and (rows * columns > 1 or option[1] == channels):
                seen.add(option)
                yield tucker(kernel, *option, sweeps=SWEEPS)
    if moments is not None:
        yield from _principal(kernel, moments)


def _principal(kernel: Kernel, moments: Moments) -> Iterable[Chain]:
    """Responses projected on their principal directions; input channels on those that matter most to w x.

    With S = E[x x^T], w' = w S^(1/2) q q^T S^(-1/2), for the first eigenvectors q of S^(1/2) w^T w S^(1/2).
    """
    groups, out, channels, rows, columns = kernel.shape
    attrs = kernel.node.attrs
    window = {"stride": attrs["stride"], "padding": attrs["padding"], "dilation": attrs["dilation"]}
    w = kernel.wide()
    squares, u = np.linalg.eigh(moments.responses)
    u = u[:, :, ::-1]
    for p in _ranks(squares, out):
        core = _shrunk(w, u[:, :, :p], 1).reshape(groups * p, channels, rows, columns)
        layers = (Layer(core, groups, **window), Layer(u[:, :, :p].reshape(groups * out, p, 1, 1), groups))
        yield Chain(layers, f"{kernel.size}, 1x1 with {groups * p} principal channels between")
    if rows * columns == 1:
        return
    half, back = roots(np.einsum("gctdt->gcd", moments.windows))
    weighted = _shrunk(w, half, 2)
    unfolded = _unfolded(weighted, "input")
    squares, q = np.linalg.eigh(unfolded @ unfolded.transpose(0, 2, 1))
    q = q[:, :, ::-1]
    for count in _ranks(squares, channels):
        first = (q[:, :, :count].transpose(0, 2, 1) @ back).reshape(groups * count, channels, 1, 1)
        core = _shrunk(weighted, q[:, :, :count], 2).reshape(groups * out, count, rows, columns)
        layers = (Layer(first, groups), Layer(core, groups, **window))
        yield Chain(layers, f"1x1, {kernel.size} with {groups * count} principal channels between")


def _ranks(squares: Array, full: int) -> list[int]:
    """Ranks for the errors offered, below the full one, from eigenvalues in ascending order."""
    values = np.sqrt(np.maximum(squares[:, ::-1], 0))
    every = range(full // 2, full) if full <= EVERY else ()
    return sorted({_rank_at(values, share) for share in PRINCIPAL}.union(every) - {full, 0})


def _rank_at(values: Array, share: float) -> int:
    """The least rank with no more than that relative error, in whole multiples of 4 where above 32."""
    tails = np.sqrt(np.cumsum(np.sum(values**2, 0)[::-1])[::-1] / np.sum(values**2))
    rank = max(1, int((tails > share).sum()))
    return min(int(values.shape[-1]), rank if rank <= 32 else -(-rank // 4) * 4)


BOTTLENECK = ChainPass(
    "bottleneck",
    "splits a convolution into 1x1, k x k, 1x1 where its channels span little",
    find,
    near,
    rivals=(SEPARATE_KERNELS,),
)
