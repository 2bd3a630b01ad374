"""Per-channel affine maps y = scale x + shift, read from BatchNormalization and from arithmetic with constants.

batch_norm: scale = gamma / sqrt(var + epsilon), shift = beta - scale mean. x * c: c, 0. x / c: 1/c, 0. x + c: 1, c.
x - c: 1, -c. c - x: -1, c. Everything in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from convc.ir.graph import Node
from convc.ir.patch import Draft
from convc.passes.base import Reject
from convc.passes.pattern import array, is_known, required, unknown_slots
from convc.types import Array

ARITHMETIC = frozenset({"mul", "div", "add", "sub"})
AFFINE = ARITHMETIC | {"batch_norm"}


@dataclass(frozen=True)
class Affine:
    """`node` maps `x` channel by channel. scale, shift: [C], float64."""

    node: Node
    x: Node
    scale: Array
    shift: Array

    @property
    def shifts(self) -> bool:
        """Whether any channel is shifted; NaN counts as a shift."""
        return bool(np.any(self.shift != 0))


def constants_of(node: Node) -> str:
    """What the node's constants are called in a reason."""
    return "BatchNormalization" if node.op == "batch_norm" else f"{node.op} with a constant"


def affine_input(draft: Draft, node: Node) -> Node | None:
    """The value that an affine node maps; None where the node has no constant operand, or nothing else."""
    if node.op == "batch_norm":
        return required(draft, node, "x")
    a, b = required(draft, node, "a"), required(draft, node, "b")
    if (a.op == "constant") == (b.op == "constant") or (node.op == "div" and a.op == "constant"):
        return None
    return b if a.op == "constant" else a


def read_affine(draft: Draft, node: Node, axis: int) -> Affine | Reject:
    """The affine map over the channels at `axis` that the node is, or why it is none. See `affine_input` first."""
    x = affine_input(draft, node)
    assert x is not None
    channels = node.type.shape[axis]
    if node.op == "batch_norm":
        if axis != 1:
            return Reject(node.name, f"it normalises axis 1 and the channels of %{x.name} are axis {axis}")
        missing = unknown_slots(draft, node, ("gamma", "beta", "mean", "var"))
        if missing:
            return Reject(node.name, missing)
        gamma, beta, mean, var = (array(draft, node, s).astype(np.float64) for s in ("gamma", "beta", "mean", "var"))
        with np.errstate(all="ignore"):
            scale = gamma / np.sqrt(var + node.attrs["epsilon"])
            return Affine(node, x, scale, beta - scale * mean)
    c = required(draft, node, "b" if required(draft, node, "a") is x else "a")
    if not is_known(c):
        return Reject(node.name, f"constant %{c.name} has no data")
    if x.type != node.type:
        return Reject(node.name, f"%{c.name}: {c.type} makes %{x.name}: {x.type} larger")
    vector = _per_channel(c.array, axis, x.type.rank, channels if isinstance(channels, int) else 0)
    if vector is None:
        return Reject(node.name, f"%{c.name}: {c.type} is not one value a channel of %{x.name}: {x.type}")
    return _arithmetic(node, x, vector, constant_left=required(draft, node, "a") is c)


def _per_channel(values: Array, axis: int, rank: int, channels: int) -> Array | None:
    shape = [1] * (rank - values.ndim) + [int(size) for size in values.shape]
    if max(shape[:axis] + shape[axis + 1 :], default=1) != 1:
        return None
    return np.broadcast_to(values.reshape(-1).astype(np.float64), (channels,))


def _arithmetic(node: Node, x: Node, c: Array, constant_left: bool) -> Affine:
    ones, zeros = np.ones_like(c), np.zeros_like(c)
    if node.op == "mul":
        return Affine(node, x, c, zeros)
    if node.op == "div":
        with np.errstate(all="ignore"):
            return Affine(node, x, 1 / c, zeros)
    if node.op == "add":
        return Affine(node, x, ones, c)
    return Affine(node, x, -ones, c) if constant_left else Affine(node, x, ones, -c)


def why_infinite(affine: Affine, values: Mapping[str, Array]) -> str:
    """Which of the map's figures, or of the constants `values` made with them, are infinite; '' where none is.

    An infinite weight gives NaN on a zero, where the map gave a number or infinity. NaN is carried through.
    """
    channels = np.flatnonzero(np.isinf(affine.scale) | np.isinf(affine.shift))
    if channels.size:
        return f"the scale or shift of channel {channels[0]} is infinite"
    slots = [slot for slot, value in values.items() if np.isinf(value).any()]
    return f"{' and '.join(slots)} would be infinite in {affine.node.type.dtype}" if slots else ""
