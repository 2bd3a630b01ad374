"""f(x) = x: operators that change nothing, alone or together with the one before.

identity, dropout, cast to the same dtype, clip without bounds; transpose, reshape, expand, slice, pad, concat,
channel_shuffle and block moves that keep the order; a maximum over 1x1 windows; x * 1, x / 1, x - 0, max(x, -inf) and
the like; transpose of transpose, reshape of reshape.
Numerics: exact, in zero's sign too: -0.0 + 0.0 is 0.0, so only x + -0.0 goes.
Rejects: x + 0.0, a mean over 1x1 windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from convc.ir.graph import Node, make_node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import SOURCES, is_known, replace_by, required, sources


def _always(x: Node, node: Node) -> bool:
    return True


def _all_of_axis(x: Node, node: Node) -> bool:
    a = node.attrs
    return bool(a["start"] == 0 and a["step"] == 1 and a["stop"] == x.type.shape[a["axis"]])


def _pointwise_window(x: Node, node: Node) -> bool:
    a = node.attrs
    return a["kernel"] == a["stride"] == (1, 1) and not any(a["padding"])


CHANGES_NOTHING: dict[str, Callable[[Node, Node], bool]] = {
    "identity": _always,
    "dropout": _always,
    "cast": lambda x, node: node.attrs["to"] is x.type.dtype,
    "clip": lambda x, node: node.attrs["min"] == -math.inf and node.attrs["max"] == math.inf,
    "transpose": lambda x, node: node.attrs["perm"] == tuple(range(x.type.rank)),
    "reshape": lambda x, node: node.type == x.type,
    "expand": lambda x, node: node.type == x.type,
    "concat": lambda x, node: len(node.inputs) == 1,
    "slice": _all_of_axis,
    "pad": lambda x, node: not any(node.attrs["before"]) and not any(node.attrs["after"]),
    "max_pool2d": _pointwise_window,
    "channel_shuffle": lambda x, node: node.attrs["groups"] in {1, x.type.shape[1]},
    "depth_to_space": lambda x, node: node.attrs["block"] == 1,
    "space_to_depth": lambda x, node: node.attrs["block"] == 1,
}


@dataclass(frozen=True)
class Same:
    """A node that has the value of another."""

    node: Node
    value: Node


def match_identity(draft: Draft, node: Node) -> Same | Reject | None:
    """An operator of CHANGES_NOTHING that does."""
    x = draft[node.operands[0]]
    if node.op == "avg_pool2d":
        return Reject(node.name, "a mean over 1x1 windows turns -0.0 into 0.0") if _pointwise_window(x, node) else None
    if not CHANGES_NOTHING[node.op](x, node):
        return None
    if node.op == "identity" and x.op in SOURCES and draft.is_output(node.name):
        return None
    return Same(node, x)


def _same(draft: Draft, match: Same) -> Patch:
    return replace_by(draft, match.node, match.value)


NEUTRAL: dict[str, tuple[float, bool]] = {
    "add": (-0.0, True), "sub": (0.0, False), "mul": (1.0, True), "div": (1.0, False),
    "max": (-math.inf, True), "min": (math.inf, True),
}  # fmt: skip
"""Operator to its neutral constant, and whether that may stand on the left, too."""


def match_neutral(draft: Draft, node: Node) -> Same | Reject | None:
    """X op c with c neutral in every element, where x is not broadcast."""
    neutral, commutes = NEUTRAL[node.op]
    a, b = (draft[name] for name in node.operands[:2]) if len(node.operands) == 2 else (None, None)
    for x, c in ((a, b), (b, a)) if commutes else ((a, b),):
        if x is None or c is None or not is_known(c) or x.type != node.type:
            continue
        values = c.array
        exact = np.array(neutral).astype(values.dtype) if node.type.dtype.is_float or math.isfinite(neutral) else None
        if exact is not None and values.tobytes() == np.full(values.shape, exact).tobytes():
            return Same(node, x)
        if node.op in {"add", "sub"} and values.size and not np.any(values):
            return Reject(node.name, f"%{c.name} has zeros of the sign that turns -0.0 into 0.0")
    return None


@dataclass(frozen=True)
class Chain:
    """Two moves in a row that one can do: transposes by the combined perm, or the outer one of two reshapes."""

    node: Node
    inner: Node
    x: Node


def match_chain(draft: Draft, node: Node) -> Chain | None:
    """Transpose of transpose, reshape of a view."""
    inner = required(draft, node, "x")
    fits = inner.op == "transpose" if node.op == "transpose" else inner.op == "reshape"
    return Chain(node, inner, required(draft, inner, "x")) if fits else None


def _chain(draft: Draft, match: Chain) -> Patch:
    attrs = dict(match.node.attrs)
    if match.node.op == "transpose":
        attrs["perm"] = tuple(match.inner.attrs["perm"][axis] for axis in match.node.attrs["perm"])
    joined = sources(match.node, match.inner)
    return Patch(nodes=(make_node(match.node.op, match.node.name, [match.x], attrs, source=joined),))


ELIMINATE_IDENTITY = RewritePass(
    "eliminate_identity",
    Numerics.EXACT,
    "drops operators that change nothing, and joins moves in a row",
    (
        Rule("drop_identity", frozenset(CHANGES_NOTHING) | {"avg_pool2d"}, match_identity, _same,
             lambda m: f"{m.node.op} gives %{m.value.name}"),
        Rule("drop_neutral_constant", frozenset(NEUTRAL), match_neutral, _same,
             lambda m: f"{m.node.op} with a neutral constant gives %{m.value.name}"),
        Rule("join_moves", frozenset({"transpose", "reshape"}), match_chain, _chain,
             lambda m: f"reads %{m.x.name} past %{m.inner.name}"),
    ),
)  # fmt: skip
