"""reshape(transpose(reshape(x))) = channel_shuffle(x), where channels part into [G, C/G] and these two swap.

    [N, C, H, W] -> [N, G, C/G, H, W] -> [N, C/G, G, H, W] -> [N, C, H, W], or with H W as one axis, sizes known or not

The last reshape may go elsewhere: it is then one of the shuffled value. ShuffleNet v2's own export halves the channels
by the same means: [N, C, H, W] -> [N C/2, 2, H W] -> [2, N C/2, H W] -> [2, N, C/2, H, W], of which part i is taken;
that is x[:, i::2], a slice. Numerics: exact.
Rejects: an order of axes that moves pixels or images, too. Source: Zhang et al. 2017, arXiv:1707.01083.
"""

from __future__ import annotations

from dataclasses import dataclass

from convc.ir.graph import Node, make_node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import is_known, required, sources
from convc.types import product


@dataclass(frozen=True)
class Shuffle:
    """The last of three nodes, the first one's input, and the groups."""

    node: Node
    chain: tuple[Node, Node]
    x: Node
    groups: int


@dataclass(frozen=True)
class Part:
    """The channels of one remainder, as a slice; `node` may be a slice that keeps an axis of size 1 in front."""

    node: Node
    chain: tuple[Node, Node, Node]
    x: Node
    start: int
    step: int


def match_shuffle(draft: Draft, node: Node) -> Shuffle | Reject | None:
    """A reshape of a transpose of a reshape of a value of rank 4."""
    transpose = required(draft, node, "x")
    if transpose.op != "transpose":
        return None
    apart = required(draft, transpose, "x")
    if apart.op != "reshape":
        return None
    x = required(draft, apart, "x")
    split = apart.type.shape
    if x.type.rank != 4 or len(split) < 4 or split[0] != x.type.shape[0]:
        return None
    groups, per_group = split[1], split[2]
    channels = x.type.shape[1]
    if not isinstance(groups, int) or not isinstance(per_group, int) or groups * per_group != channels:
        return None
    if product(split[3:]) != product(x.type.shape[2:]):
        return None
    perm = transpose.attrs["perm"]
    if perm != (0, 2, 1, *range(3, len(split))):
        return Reject(node.name, f"perm={list(perm)} of %{transpose.name} is no swap of axes 1 and 2")
    return Shuffle(node, (transpose, apart), x, groups)


def _shuffle(draft: Draft, match: Shuffle) -> Patch:
    node, x = match.node, match.x
    source = sources(*match.chain, node)
    attrs = {"groups": match.groups}
    if node.type == x.type:
        return Patch(nodes=(make_node("channel_shuffle", node.name, [x], attrs, source=source),))
    shuffled = make_node("channel_shuffle", draft.fresh_name(node.name), [x], attrs, source=source)
    return Patch(nodes=(shuffled, make_node("reshape", node.name, [shuffled], node.attrs, source=node.source)))


def match_part(draft: Draft, node: Node) -> Part | None:
    """Part i of the first axis of [G, N, C/G, H, W], by gather with a number or by slice."""
    if node.attrs["axis"] != 0:
        return None
    apart = required(draft, node, "x")
    transpose = required(draft, apart, "x") if apart.op == "reshape" else None
    if transpose is None or transpose.op != "transpose" or transpose.attrs["perm"] != (1, 0, 2):
        return None
    first = required(draft, transpose, "x")
    x = required(draft, first, "x") if first.op == "reshape" else None
    if x is None or x.type.rank != 4:
        return None
    groups = apart.type.shape[0]
    n, c, h, w = x.type.shape
    if not isinstance(groups, int) or not isinstance(c, int) or c % groups:
        return None
    wanted = ((n * (c // groups), groups, h * w), (groups, n, c // groups, h, w))
    if (first.type.shape, apart.type.shape) != wanted:
        return None
    start = _index(draft, node, groups)
    return Part(node, (apart, transpose, first), x, start, groups) if start is not None else None


def _index(draft: Draft, node: Node, groups: int) -> int | None:
    if node.op == "slice":
        start: int = node.attrs["start"]
        return start if node.attrs["stop"] == start + 1 and node.attrs["step"] == 1 else None
    indices = required(draft, node, "indices")
    if not is_known(indices) or indices.type.rank:
        return None
    index = int(indices.array)
    return index % groups if -groups <= index < groups else None


def _part(draft: Draft, match: Part) -> Patch:
    node = match.node
    attrs = {"axis": 1, "start": match.start, "stop": match.x.type.shape[1], "step": match.step}
    source = sources(*match.chain, node)
    if node.op == "gather":
        return Patch(nodes=(make_node("slice", node.name, [match.x], attrs, source=source),))
    part = make_node("slice", draft.fresh_name(node.name), [match.x], attrs, source=source)
    return Patch(nodes=(part, make_node("reshape", node.name, [part], {"shape": node.type.shape}, source=node.source)))


RECOGNISE_SHUFFLE = RewritePass(
    "recognise_shuffle",
    Numerics.EXACT,
    "finds channel shuffles in reshapes and transposes",
    (
        Rule("recognise_shuffle", frozenset({"reshape"}), match_shuffle, _shuffle,
             lambda match: f"{match.groups} groups of the {match.x.type.shape[1]} channels of %{match.x.name}"),
        Rule("recognise_parted_shuffle", frozenset({"gather", "slice"}), match_part, _part,
             lambda match: f"channels {match.start}::{match.step} of %{match.x.name}"),
    ),
)  # fmt: skip
