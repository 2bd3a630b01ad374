"""channel_shuffle(x){groups=G} = gather(x, p){axis=1} with p[j G + g] = g (C / G) + j, for g < G and j < C / G.

Shapes: x [N, C, ...] with C known, p [C]. Numerics: exact. Rejects: a symbolic number of channels.
Source: Zhang et al. 2017, ShuffleNet, arXiv:1707.01083.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convc.ir.graph import Node, constant, make_node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import required
from convc.types import Array


@dataclass(frozen=True)
class Shuffle:
    """A shuffle, and the input channel of each output channel."""

    node: Node
    order: Array


def match_shuffle(draft: Draft, node: Node) -> Shuffle | Reject:
    """Any shuffle of a known number of channels."""
    channels = node.type.shape[1]
    if not isinstance(channels, int):
        return Reject(node.name, f"its number of channels, {channels}, is not known")
    return Shuffle(node, np.arange(channels).reshape(node.attrs["groups"], -1).T.reshape(-1))


def _lower(draft: Draft, match: Shuffle) -> Patch:
    node = match.node
    order = constant(draft.fresh_name(f"{node.name}.indices"), match.order, source=node.source)
    gather = make_node("gather", node.name, [required(draft, node, "x"), order], {"axis": 1}, source=node.source)
    return Patch(nodes=(order, gather))


LOWER_CHANNEL_SHUFFLE = RewritePass(
    "lower_channel_shuffle",
    Numerics.EXACT,
    "turns a channel shuffle into an index permutation of channels",
    (
        Rule("lower_channel_shuffle", frozenset({"channel_shuffle"}), match_shuffle, _lower,
             lambda match: f"groups={match.node.attrs['groups']} over {len(match.order)} channels"),
    ),
)  # fmt: skip
