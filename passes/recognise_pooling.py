"""Pools over whole planes, from means and maxima over axes 2 and 3, and from windows as large as the plane.

    reduce_mean(x, [2, 3]) = global_avg_pool(x)       avg_pool2d(x, kernel=[H, W]) = global_avg_pool(x), maxima likewise
    reduce(reduce(x, a), b) = reduce(x, a and b)       for means over axis after axis, and for maxima

x [N, C, H, W], floats; without keepdims a reshape follows. Numerics: reassociates.
Rejects: a window of the plane's size that pads.
"""

from __future__ import annotations

from dataclasses import dataclass

from convc.ir.graph import Node, make_node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import required, sources

POOLS = {
    "reduce_mean": "global_avg_pool", "avg_pool2d": "global_avg_pool",
    "reduce_max": "global_max_pool", "max_pool2d": "global_max_pool",
}  # fmt: skip


@dataclass(frozen=True)
class Twice:
    """A reduction of a reduction, and the axes of the inner one's input that both reduce."""

    node: Node
    inner: Node
    axes: tuple[int, ...]


def match_reduction(draft: Draft, node: Node) -> Node | None:
    """A mean or maximum over height and width."""
    x = required(draft, node, "x").type
    axes = sorted(axis % x.rank for axis in node.attrs["axes"])
    return node if x.rank == 4 and axes == [2, 3] and x.dtype.is_float else None


def match_window(draft: Draft, node: Node) -> Node | Reject | None:
    """A pool whose only window is the plane."""
    x = required(draft, node, "x").type
    if node.attrs["kernel"] != x.shape[2:] or not x.dtype.is_float or node.attrs["dilation"] != (1, 1):
        return None
    if any(node.attrs["padding"]):
        return Reject(node.name, f"its window is the plane, and it pads by {list(node.attrs['padding'])}")
    return node if node.type.shape[2:] == (1, 1) else None


def _pool(draft: Draft, node: Node) -> Patch:
    x = required(draft, node, "x")
    op = POOLS[node.op]
    if node.type.rank == 4:
        return Patch(nodes=(make_node(op, node.name, [x], source=node.source),))
    pool = make_node(op, draft.fresh_name(node.name), [x], source=node.source)
    return Patch(nodes=(pool, make_node("reshape", node.name, [pool], {"shape": node.type.shape}, source=node.source)))


def match_twice(draft: Draft, node: Node) -> Twice | None:
    """A reduction of the same reduction over other axes."""
    inner = required(draft, node, "x")
    keepdims = node.attrs["keepdims"]
    if inner.op != node.op or inner.attrs["keepdims"] != keepdims:
        return None
    rank = required(draft, inner, "x").type.rank
    first = {axis % rank for axis in inner.attrs["axes"]}
    kept = list(range(rank)) if keepdims else [axis for axis in range(rank) if axis not in first]
    second = {kept[axis % len(kept)] for axis in node.attrs["axes"]}
    if not first or not second or first & second:
        return None
    return Twice(node, inner, tuple(sorted(first | second)))


def _once(draft: Draft, match: Twice) -> Patch:
    attrs = {"axes": match.axes, "keepdims": match.node.attrs["keepdims"]}
    x, source = required(draft, match.inner, "x"), sources(match.inner, match.node)
    return Patch(nodes=(make_node(match.node.op, match.node.name, [x], attrs, source=source),))


RECOGNISE_POOLING = RewritePass(
    "recognise_pooling",
    Numerics.REASSOCIATES,
    "finds global pools in reductions, and in windows as large as the plane",
    (
        Rule("merge_reductions", frozenset({"reduce_mean", "reduce_max"}), match_twice, _once,
             lambda match: f"%{match.inner.name} and %{match.node.name} over axes {list(match.axes)}"),
        Rule("recognise_reduction", frozenset({"reduce_mean", "reduce_max"}), match_reduction, _pool,
             lambda node: f"{POOLS[node.op]} from {node.op}"),
        Rule("recognise_window", frozenset({"avg_pool2d", "max_pool2d"}), match_window, _pool,
             lambda node: f"{POOLS[node.op]} from {node.op} of {list(node.attrs['kernel'])}"),
    ),
)  # fmt: skip
