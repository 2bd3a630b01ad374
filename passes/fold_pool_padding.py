"""max_pool2d(pad(x, p, value)) = max_pool2d(x, padding=p) where x >= 0 >= value and each window sees part of x.

Padding then never decides. Keras and TensorFlow pad this way ahead of pools. Numerics: reassociates, though only in the
sign of zero: the larger of 0.0 and -0.0 may be either.
Rejects: x that may be negative, a positive value, dilated windows, and what `convc.passes.fold_padding` rejects.
"""

from __future__ import annotations

from convc.ir.graph import Node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.fold_padding import Padded, why_not_window, with_padding
from convc.passes.pattern import CONVOLUTIONS, required

NEVER_NEGATIVE = frozenset({"relu", "sigmoid", "hard_sigmoid", "softplus", "exp", "abs"})


def is_never_negative(node: Node) -> bool:
    """Whether every element is at least zero, or NaN, by the operator that makes it or the activation it ends with."""
    if node.op in CONVOLUTIONS and node.attrs["activation"] is not None:
        activation = node.attrs["activation"]
        return activation.name in NEVER_NEGATIVE or (activation.name == "clip" and activation.params[0] >= 0)
    return node.op in NEVER_NEGATIVE or (node.op == "clip" and node.attrs["min"] >= 0)


def match_padding(draft: Draft, node: Node) -> Padded | Reject | None:
    """max_pool2d of a pad of a value that is never negative."""
    pad = required(draft, node, "x")
    if pad.op != "pad" or not node.type.dtype.is_float:
        return None
    x, value = required(draft, pad, "x"), pad.attrs["value"]
    reason = why_not_window(pad)
    if not reason and not value <= 0:
        reason = f"%{pad.name} pads by {value}, which may win"
    if not reason and not is_never_negative(x):
        reason = f"%{x.name} may be negative, and %{pad.name} pads by {value}"
    if not reason and node.attrs["dilation"] != (1, 1):
        reason = f"%{node.name} is dilated: a window may see padding alone"
    return Reject(node.name, reason) if reason else with_padding(draft, pad, node)


FOLD_POOL_PADDING = RewritePass(
    "fold_pool_padding",
    Numerics.REASSOCIATES,
    "lets max_pool2d pad by -inf, in place of zeros around a value that is never negative",
    (
        Rule("fold_pool_padding", frozenset({"max_pool2d"}), match_padding,
             lambda draft, match: Patch(nodes=(match.fused,)), lambda match: f"%{match.pad.name} into {match.fused}"),
    ),
)  # fmt: skip
