"""s conv(x, w, b) + t = conv(x, s w, s b + t): a convolution's constants times an affine map of its output channels.

Shapes: w [K, C/g, R, S] of conv2d, [C, K/g, R, S] of conv_transpose2d, [O, I] of linear; s, t, b [K]. In float64.
"""

from __future__ import annotations

import numpy as np

from convc.ir.graph import Node
from convc.ir.patch import Draft
from convc.parallel import each
from convc.passes.affine import Affine
from convc.passes.pattern import array, operand
from convc.types import Array

SHARE = 1 << 18
"""Elements that a thread scales at a time."""


def scaled_weights(draft: Draft, conv: Node, affine: Affine) -> dict[str, Array]:
    """The new b, and the new w where the map scales, in the dtype of w."""
    w = array(draft, conv, "w")
    bias = array(draft, conv, "b").astype(np.float64) if operand(draft, conv, "b") is not None else 0.0
    with np.errstate(all="ignore"):
        values = {"b": (affine.scale * bias + affine.shift).astype(w.dtype)}
        if np.any(affine.scale != 1):
            values["w"] = _scaled(conv, w, affine.scale)
    return values


def _scaled(conv: Node, w: Array, scale: Array) -> Array:
    """Each output channel's weights times its scale, in float64, rounded once."""
    if conv.op == "conv_transpose2d":
        groups = conv.attrs["groups"]
        split = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        factors = scale.reshape(groups, 1, w.shape[1], 1, 1)
    else:
        split, factors = w, scale.reshape(-1, *(1,) * (w.ndim - 1))
    scaled = np.empty_like(split)

    def multiply(lines: slice) -> None:
        some = factors[lines] if len(factors) > 1 else factors
        np.multiply(split[lines], some, out=scaled[lines], dtype=np.float64, casting="same_kind")

    step = max(1, SHARE * len(split) // max(split.size, 1))
    each(multiply, [slice(first, first + step) for first in range(0, len(split), step)])
    return scaled.reshape(w.shape)
