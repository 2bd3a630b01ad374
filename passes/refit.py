"""What a convolution computes on calibration inputs, and chains fitted to that instead of to its weights.

    min over w_n, b of sum over examples |w_n z + b - y|^2 + ridge |w_n - w_n0|^2        z = w_(n-1) * ... * w_1 * x

The last layer of a chain is fitted by least squares to y = w * x, given what the layers before it make of x, with a
shift b of the bias. Where there are too few examples, only b is. In float64.
Source: Zhang et al., arXiv:1505.06798, section 2; Jaderberg et al., arXiv:1405.3866, section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from convc.ops import OPS
from convc.passes.chain import Chain, Kernel, Layer, Moments
from convc.types import Array

SAMPLES = 10_000
"""Places of the output that are looked at."""
ENOUGH = 3
"""Places for each weight of an output channel, below which only the bias is fitted."""
WINDOW = 1500
"""Values that a response is made of, up to which second moments are taken."""
RIDGE = 1e-5
"""Relative to the mean square of z."""


@dataclass(frozen=True)
class Responses:
    """Input x [N, C, H, W] of a convolution, what its weights make of it, y [N, K, H', W'], without bias."""

    x: Array
    y: Array

    @staticmethod
    def of(kernel: Kernel, x: Array) -> Responses:
        attrs = {k: kernel.node.attrs[k] for k in ("stride", "padding", "dilation", "groups")}
        return Responses(x, _conv(x, kernel.stored, attrs))

    def moments(self, kernel: Kernel) -> Moments | None:
        """Second moments of windows and responses; None where windows are larger than `WINDOW`, or places too few."""
        groups, out, channels, rows, columns = kernel.shape
        size, places = channels * rows * columns, self.y.size // self.y.shape[1]
        if size > WINDOW or places < ENOUGH * max(size, out):
            return None
        attrs = kernel.node.attrs
        layer = Layer(kernel.stored, groups, attrs["stride"], attrs["padding"], attrs["dilation"])
        x, y, _ = _samples(self.x, self.y, layer)
        windows = (x.transpose(0, 2, 1) @ x / x.shape[1]).reshape(groups, channels, rows * columns, channels, -1)
        y = y - y.mean(1, keepdims=True)
        return Moments(y.transpose(0, 2, 1) @ y / y.shape[1], windows)


def _conv(x: Array, w: Array, attrs: dict[str, object]) -> Array:
    operator = OPS["conv2d"]
    return np.asarray(operator.evaluate([x, w.astype(x.dtype)], operator.complete(attrs)))


def refit(chain: Chain, responses: Responses, weights: Array | None = None) -> tuple[Chain, float]:
    """The chain with its last layer fitted, and the relative error of its responses in the Frobenius norm.

    `weights` [N] say how much each example counts, 1 on average.
    """
    z = responses.x
    for layer in chain.layers[:-1]:
        z = _conv(z, layer.w, layer.attrs)
    last = chain.layers[-1]
    columns, targets, examples = _samples(z, responses.y, last)
    groups, places, fan_in = columns.shape
    share = (np.ones(places) if weights is None else weights[examples])[:, None] / places
    w0 = last.w.astype(np.float64).reshape(groups, -1, fan_in)
    mean, level = ((a * share).sum(1, keepdims=True) / share.sum() for a in (columns, targets))
    centred, wanted = columns - mean, targets - level
    w = w0
    if columns.shape[1] >= ENOUGH * fan_in:
        counted = (centred * share).transpose(0, 2, 1)
        gram = counted @ centred
        ridge = RIDGE * np.trace(gram, axis1=1, axis2=2) / fan_in + 1e-30
        gram += ridge[:, None, None] * np.eye(fan_in)
        missing = wanted - centred @ w0.transpose(0, 2, 1)
        w = w0 + np.linalg.solve(gram, counted @ missing).transpose(0, 2, 1)
    shift = (level - mean @ w.transpose(0, 2, 1)).reshape(-1)
    left = wanted - centred @ w.transpose(0, 2, 1)
    error = float(np.linalg.norm(left) / max(float(np.linalg.norm(targets)), 1e-30))
    layers = (*chain.layers[:-1], replace(last, w=w.reshape(last.w.shape)))
    return Chain(layers, chain.note, shift), error


def _samples(z: Array, y: Array, layer: Layer) -> tuple[Array, Array, Array]:
    """At seeded places: windows of z [groups, places, fan-in], values of y [groups, places, K/g], and the example."""
    top, left, bottom, right = layer.padding
    padded = np.pad(z, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (sh, sw), (dh, dw) = layer.stride, layer.dilation
    rows, columns = layer.w.shape[2:]
    examples, _, height, width = y.shape
    places = np.random.default_rng(0).permutation(examples * height * width)[:SAMPLES]
    n, i, j = np.unravel_index(places, (examples, height, width))
    taps = [padded[n, :, i * sh + r * dh, j * sw + s * dw] for r in range(rows) for s in range(columns)]
    windows = np.stack(taps, 2).astype(np.float64)
    by_group = windows.reshape(len(places), layer.groups, -1).transpose(1, 0, 2)
    targets = y[n, :, i, j].astype(np.float64).reshape(len(places), layer.groups, -1).transpose(1, 0, 2)
    return by_group, targets, n
