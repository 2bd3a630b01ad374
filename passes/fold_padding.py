"""conv2d(pad(x, p), padding=q) = conv2d(x, padding=p + q), for padding by zeros; pools likewise.

avg_pool2d counts what the pad node added, so it needs count_include_pad or no padding of its own.
max_pool2d pads by -inf. Numerics: exact. The pad node stays where others read it.
Rejects: another mode, another value, a padded batch or channel axis, a crop, a convolution with a prologue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from convc.errors import ModelError
from convc.ir.graph import Node
from convc.ir.patch import Draft, Patch
from convc.ops.conv import has_prologue
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import remade, required


@dataclass(frozen=True)
class Padded:
    """A window operator, the pad node that it reads, and the operator with the sum of both paddings."""

    pad: Node
    fused: Node


def match_padding(draft: Draft, node: Node) -> Padded | Reject | None:
    """conv2d, avg_pool2d or max_pool2d of a pad node."""
    pad = required(draft, node, "x")
    if pad.op != "pad":
        return None
    reason = why_not_window(pad) or _why_not_value(pad, node)
    if not reason and node.op == "conv2d" and has_prologue(node.inputs, node.attrs):
        reason = f"%{node.name} maps what %{pad.name} pads"
    return Reject(node.name, reason) if reason else with_padding(draft, pad, node)


def with_padding(draft: Draft, pad: Node, node: Node) -> Padded | Reject:
    """`node` reading what `pad` reads, with the sum of their paddings, or why it cannot."""
    before, after = pad.attrs["before"], pad.attrs["after"]
    added = (before[2], before[3], after[2], after[3])
    attrs: dict[str, Any] = {"padding": tuple(a + b for a, b in zip(node.attrs["padding"], added, strict=True))}
    if node.op == "avg_pool2d":
        attrs["count_include_pad"] = True
    try:
        fused = remade(draft, node, slots={"x": required(draft, pad, "x")}, attrs=attrs, absorbed=[pad])
    except ModelError as error:
        return Reject(node.name, f"%{node.name} cannot take the padding of %{pad.name}: {error.message}")
    if fused.type != node.type:
        return Reject(node.name, f"the output would be {fused.type} instead of {node.type}")
    return Padded(pad, fused)


def why_not_window(pad: Node) -> str:
    """Why the padding is not that of a window; '' where it is."""
    before, after = pad.attrs["before"], pad.attrs["after"]
    if pad.attrs["mode"] != "constant":
        return f"%{pad.name} pads in {pad.attrs['mode']} mode"
    if any((*before[:2], *after[:2])):
        return f"%{pad.name} pads the batch or channel axis"
    return f"%{pad.name} crops" if min(*before, *after) < 0 else ""


def _why_not_value(pad: Node, node: Node) -> str:
    value = pad.attrs["value"]
    if node.op == "max_pool2d":
        if not node.type.dtype.is_float:
            return f"%{pad.name} pads {node.type.dtype}, which has no -inf"
        return "" if value == -math.inf else f"%{pad.name} pads by {value}, and max_pool2d pads by -inf"
    if value != 0:
        return f"%{pad.name} pads by {value}, and {node.op} pads by 0.0"
    if node.op == "avg_pool2d" and any(node.attrs["padding"]) and not node.attrs["count_include_pad"]:
        return f"%{node.name} counts the padding of %{pad.name} and not its own"
    return ""


FOLD_PADDING = RewritePass(
    "fold_padding",
    Numerics.EXACT,
    "lets convolutions and pools pad, in place of a pad before them",
    (
        Rule("fold_padding", frozenset({"conv2d", "avg_pool2d", "max_pool2d"}), match_padding,
             lambda draft, match: Patch(nodes=(match.fused,)), lambda match: f"%{match.pad.name} into {match.fused}"),
    ),
)  # fmt: skip
