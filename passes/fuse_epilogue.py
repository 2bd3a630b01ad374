"""activation(conv(x, w) + b + residual) in one operator: its epilogue works on sums that are still in registers.

    activation(conv(...))  ->  conv(...) {activation}            conv(...) + r  ->  conv(..., residual=r)

For conv2d, conv_transpose2d and linear. Numerics: reassociates (f16 rounds once, not after each step; sums associate
otherwise). Rejects: the convolution has another user or is an output, an activation comes before the sum, the residual
slot is taken, shapes differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from convc.ir.graph import Node
from convc.ir.patch import Draft, Patch
from convc.ops import activation_of
from convc.ops.unary import ACTIVATIONS
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import CONVOLUTIONS, not_exclusive, operand, remade, required

EPILOGUES = frozenset({
    "relu", "leaky_relu", "clip", "sigmoid", "hard_sigmoid", "hard_swish", "silu", "tanh", "elu", "selu", "celu",
    "softplus", "softsign", "mish", "gelu",
})  # fmt: skip
"""Activations that kernels apply to their sums."""


@dataclass(frozen=True)
class Fused:
    """A convolution with an epilogue, and the node whose value it now computes."""

    conv: Node
    absorbed: Node


def match_activation(draft: Draft, node: Node) -> Fused | Reject | None:
    """A unary operator of a convolution."""
    conv = required(draft, node, "x")
    if conv.op not in CONVOLUTIONS:
        return None
    if node.op not in EPILOGUES:
        return Reject(node.name, f"{node.op} is no epilogue; these are: {', '.join(sorted(EPILOGUES))}")
    if conv.attrs["activation"] is not None:
        return Reject(node.name, f"%{conv.name} applies {conv.attrs['activation']} already")
    reason = not_exclusive(draft, conv, node)
    if reason:
        return Reject(node.name, reason)
    attrs = {"activation": activation_of(node.op, node.attrs)}
    return Fused(remade(draft, conv, attrs=attrs, absorbed=[node]), node)


def match_residual(draft: Draft, node: Node) -> Fused | Reject | None:
    """Add with a convolution on a side, the one that comes last where both are. It runs when the other is known."""
    a, b = required(draft, node, "a"), required(draft, node, "b")
    pairs = [(conv, other) for conv, other in ((a, b), (b, a)) if conv.op in CONVOLUTIONS]
    pairs.sort(key=lambda pair: draft.position(pair[0].name), reverse=True)
    reasons: list[str] = []
    for conv, other in pairs:
        reason = _why_not(draft, node, conv, other)
        if not reason:
            return Fused(remade(draft, conv, slots={"residual": other}, absorbed=[node]), node)
        if reason not in reasons:
            reasons.append(reason)
    return Reject(node.name, "; ".join(reasons)) if reasons else None


def _why_not(draft: Draft, node: Node, conv: Node, other: Node) -> str:
    if conv is other:
        return f"it adds %{conv.name} to itself"
    if conv.attrs["activation"] is not None:
        return f"%{conv.name} applies {conv.attrs['activation']} before the sum"
    if operand(draft, conv, "residual") is not None:
        return f"%{conv.name} adds %{conv.input('residual')} already"
    if conv.type != other.type or conv.type != node.type:
        return f"%{conv.name}: {conv.type} and %{other.name}: {other.type} broadcast"
    # A convolution that only the sum reads cannot be what the other operand depends on.
    return not_exclusive(draft, conv, node)


def _fuse(draft: Draft, match: Fused) -> Patch:
    return Patch(nodes=(match.conv,), redirect={match.absorbed.name: match.conv.name})


def _note(match: Fused) -> str:
    return f"{match.absorbed.op} into {match.conv}"


FUSE_EPILOGUE = RewritePass(
    "fuse_epilogue",
    Numerics.REASSOCIATES,
    "lets a convolution apply the residual addition and the activation that follow it",
    (
        Rule("fuse_residual", frozenset({"add"}), match_residual, _fuse, _note),
        Rule("fuse_activation", frozenset(op.name for op in ACTIVATIONS), match_activation, _fuse, _note),
    ),
)
