"""avg_pool2d(conv2d(x, w, b)) = conv2d(avg_pool2d(x), w, b) for a 1x1 convolution of stride 1: means are linear.

Either way around, whichever is predicted to be faster: DenseNet's transitions convolve four times the pixels that
their pools keep, and an Inception branch pools all channels ahead of a convolution that keeps few.
Numerics: reassociates. Rejects: an epilogue or prologue in between, another reader, a mean that counts padding where
there is a bias, no predicted gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convc.ir.graph import Graph, Node, make_node
from convc.ir.patch import Draft, Patch
from convc.ops.conv import has_prologue
from convc.passes.base import Numerics, PassResult, Reject
from convc.passes.context import Context
from convc.passes.driver import Rule, rewrite_to_fixed_point
from convc.passes.fuse_epilogue import EPILOGUES
from convc.passes.pattern import not_exclusive, operand, required


@dataclass(frozen=True)
class Commuted:
    """What comes first, and what comes last under the old last one's name."""

    first: Node
    last: Node


@dataclass(frozen=True)
class _Rules:
    context: Context

    def pool_of_conv(self, draft: Draft, pool: Node) -> Commuted | Reject | None:
        """avg_pool2d of a 1x1 convolution."""
        conv = required(draft, pool, "x")
        if not _is_pointwise(conv):
            return None
        if conv.attrs["activation"] is not None:
            return Reject(pool.name, f"%{conv.name} applies {conv.attrs['activation']} in between")
        reason = _why_not(draft, conv, pool) or not_exclusive(draft, conv, pool)
        if reason:
            return Reject(pool.name, reason)
        x, *constants = _operands(draft, conv)
        name = draft.fresh_name(pool.name)
        first = make_node("avg_pool2d", name, [x], pool.attrs, source=pool.source)
        last = make_node("conv2d", pool.name, [first, *constants], conv.attrs, source=conv.source)
        return self._faster(draft, (conv, pool), Commuted(first, last))

    def conv_of_pool(self, draft: Draft, conv: Node) -> Commuted | Reject | None:
        """A 1x1 convolution of avg_pool2d; an activation that follows is then no epilogue."""
        pool = required(draft, conv, "x")
        if pool.op != "avg_pool2d" or not _is_pointwise(conv):
            return None
        if conv.attrs["activation"] is not None:
            return Reject(conv.name, f"it applies {conv.attrs['activation']} to the means")
        reason = _why_not(draft, conv, pool) or not_exclusive(draft, pool, conv)
        if reason:
            return Reject(conv.name, reason)
        if pool.attrs["stride"] != (1, 1):
            return Reject(conv.name, f"%{pool.name} of stride {list(pool.attrs['stride'])} leaves it fewer pixels")
        _, *constants = _operands(draft, conv)
        x = required(draft, pool, "x")
        first = make_node("conv2d", draft.fresh_name(conv.name), [x, *constants], conv.attrs, source=conv.source)
        last = make_node("avg_pool2d", conv.name, [first], pool.attrs, source=pool.source)
        user = draft.only_user(conv.name)
        unfused = (user,) if user is not None and user.op in EPILOGUES else ()
        return self._faster(draft, (pool, conv), Commuted(first, last), unfused)

    def _faster(
        self, draft: Draft, old: tuple[Node, Node], new: Commuted, unfused: tuple[Node, ...] = ()
    ) -> Commuted | Reject:
        """`new`, where it is predicted to be faster with the nodes that can no longer be fused."""
        before = self.context.seconds(draft, old, draft.nominal)
        after = self.context.seconds(draft, (new.first, new.last, *unfused), draft.nominal)
        if after < before:
            return new
        order = f"{new.first.op} ahead of {new.last.op}"
        return Reject(old[1].name, f"{order} takes {after * 1e6:.1f} us, now {before * 1e6:.1f} us")


def _is_pointwise(node: Node) -> bool:
    return node.op == "conv2d" and node.attrs["stride"] == (1, 1) and not any(node.attrs["padding"])


def _why_not(draft: Draft, conv: Node, pool: Node) -> str:
    w = required(draft, conv, "w").type
    if w.shape[2:] != (1, 1):
        return f"the kernel of %{conv.name} is {w.shape[2]}x{w.shape[3]}"
    if operand(draft, conv, "residual") is not None:
        return f"%{conv.name} adds %{conv.input('residual')}"
    if has_prologue(conv.inputs, conv.attrs):
        return f"%{conv.name} has a prologue"
    if operand(draft, conv, "b") is not None and pool.attrs["count_include_pad"] and any(pool.attrs["padding"]):
        return f"the mean of %{pool.name} counts padding, which has no bias"
    return ""


def _operands(draft: Draft, conv: Node) -> tuple[Node, Node, Node | None]:
    return required(draft, conv, "x"), required(draft, conv, "w"), operand(draft, conv, "b")


@dataclass(frozen=True)
class CommutePooling:
    """Swaps average pools and 1x1 convolutions."""

    name: str = "commute_pooling"
    numerics: Numerics = Numerics.REASSOCIATES
    doc: str = "swaps an average pool and a 1x1 convolution where that is faster"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        rules = _Rules(context)
        return rewrite_to_fixed_point(
            graph,
            (
                Rule("pool_ahead", frozenset({"avg_pool2d"}), rules.pool_of_conv, _rewrite, _note),
                Rule("pool_behind", frozenset({"conv2d"}), rules.conv_of_pool, _rewrite, _note),
            ),
        )


def _rewrite(draft: Draft, match: Commuted) -> Patch:
    return Patch(nodes=(match.first, match.last))


def _note(match: Commuted) -> str:
    return f"{match.first.op} ahead of {match.last.op}"


COMMUTE_POOLING = CommutePooling()
