"""conv(s x + t, w) + b: w'[k,c,r,t] = w[k,c,r,t] s[c]; b'[k] = b[k] + sum over c, r, t of w[k,c,r,t] t[c].

Shapes: w [K, C/g, R, S] of conv2d, [O, I] of linear; s, t [C]. Computed in float64. Numerics: reassociates.
Rejects: padding, where t is not zero: the border would have to be padded by t, not by 0; another user of the value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convc.ir.graph import Node
from convc.ir.patch import Draft, Patch
from convc.ops.conv import has_prologue
from convc.passes.affine import AFFINE, Affine, affine_input, constants_of, read_affine, why_infinite
from convc.passes.base import Reject
from convc.passes.driver import Rule
from convc.passes.pattern import array, new_constants, not_exclusive, operand, remade, unknown_slots
from convc.types import Array


@dataclass(frozen=True)
class Ahead:
    """An affine map that the convolution after it takes over, with that convolution's new constants by slot."""

    affine: Affine
    conv: Node
    values: dict[str, Array]


def match_ahead(draft: Draft, node: Node) -> Ahead | Reject | None:
    """An affine map whose value one conv2d or linear reads as x."""
    if affine_input(draft, node) is None:
        return None
    users = draft.users(node.name)
    conv = next((user for user in users if user.op in {"conv2d", "linear"} and user.inputs[0] == node.name), None)
    if conv is None:
        if node.op != "batch_norm":
            return None
        seen = ", ".join(f"{user.op} %{user.name}" for user in users[:3]) or "nothing but an output"
        return Reject(node.name, f"its value feeds {seen}, not a convolution")
    reason = not_exclusive(draft, node, conv) or unknown_slots(draft, conv, ("w", "b"))
    if not reason and node.name in conv.inputs[1:]:
        reason = f"%{conv.name} reads it in two slots"
    if not reason and conv.op == "conv2d" and has_prologue(conv.inputs, conv.attrs):
        reason = f"%{conv.name} has a prologue"
    if reason:
        return Reject(node.name, reason)
    affine = read_affine(draft, node, conv.type.rank - 1 if conv.op == "linear" else 1)
    if isinstance(affine, Reject):
        return affine
    if affine.shifts and conv.op == "conv2d" and any(conv.attrs["padding"]):
        padding = conv.attrs["padding"]
        return Reject(node.name, f"%{conv.name} pads by {list(padding)} with zeros, not with the shift of %{node.name}")
    values = _values(draft, conv, affine)
    reason = why_infinite(affine, values)
    return Reject(node.name, reason) if reason else Ahead(affine, conv, values)


def _values(draft: Draft, conv: Node, affine: Affine) -> dict[str, Array]:
    """w', and b' where the map shifts."""
    stored = array(draft, conv, "w")
    w = stored.astype(np.float64)
    groups = conv.attrs["groups"] if conv.op == "conv2d" else 1
    by_group = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)
    scale, shift = (v.reshape(groups, 1, w.shape[1], 1) for v in (affine.scale, affine.shift))
    with np.errstate(all="ignore"):
        values = {"w": (by_group * scale).reshape(w.shape).astype(stored.dtype)}
        if affine.shifts:
            bias = array(draft, conv, "b").astype(np.float64) if operand(draft, conv, "b") is not None else 0.0
            values["b"] = ((by_group * shift).sum((2, 3)).reshape(-1) + bias).astype(stored.dtype)
    return values


def _rewrite(draft: Draft, match: Ahead) -> Patch:
    made = new_constants(draft, match.conv, match.values, match.affine.node)
    slots = {"x": match.affine.x, **made}
    return Patch(nodes=(*made.values(), remade(draft, match.conv, slots=slots, absorbed=[match.affine.node])))


FUSE_BATCHNORM_AHEAD: Rule[Ahead] = Rule(
    "fuse_batchnorm_ahead", AFFINE, match_ahead, _rewrite,
    lambda m: f"{constants_of(m.affine.node)} ahead of {m.conv.op} %{m.conv.name}",
)  # fmt: skip
