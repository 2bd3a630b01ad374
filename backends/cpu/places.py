"""Where dense convolutions put their output channels, so that what reads them later finds them together.

A dense convolution writes its channels in any order at no cost. Two readers gain by the right one: grouped convolutions
that work lane by lane, and operators that work plane by plane on some of the channels only. Those do the whole of every
plane that they touch; channels that leave together should lie in the same planes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from convc.backends.cpu.channels import prefers_lanes, wanted_places
from convc.backends.program import Ints, dense_places
from convc.dims import concrete
from convc.ir.graph import Graph, Node
from convc.ops import OPS
from convc.types import Array

ELEMENTWISE = frozenset(name for name, op in OPS.items() if "elementwise" in op.traits)
KEEPS_PLACES = ELEMENTWISE | {"batch_norm", "max_pool2d", "avg_pool2d", "identity", "dropout"}
CELLS = 5
"""Kinds of channels of which every order is tried."""
BY_PLANE = KEEPS_PLACES | {"global_avg_pool", "global_max_pool", "resize"}


def output_places(graph: Graph, lanes: int) -> dict[str, Ints]:
    """Places of the output channels of dense convolutions, where others than in order serve better."""
    return {**_together(graph, lanes), **_lane_by_lane(graph, lanes)}


def _is_dense(node: Node) -> bool:
    return node.op == "conv2d" and node.attrs["groups"] == 1


def _lane_by_lane(graph: Graph, lanes: int) -> dict[str, Ints]:
    """Where grouped convolutions want channels to lie, by the dense convolution that can put them there."""
    wanted: dict[str, Ints] = {}
    for node in graph.operators:
        places = wanted_places(node, graph, lanes)
        if places is None:
            continue
        source = graph[str(node.inputs[0])]
        while source.op in KEEPS_PLACES and len(graph.users(source.name)) == 1:
            source = graph[str(source.inputs[0])]
        if _is_dense(source) and source.type.shape[1] == len(places) and len(graph.users(source.name)) == 1:
            wanted[source.name] = places
    return wanted


# ---- channels that leave together ----------------------------------------------------------------------------------


def _together(graph: Graph, lanes: int) -> dict[str, Ints]:
    """Channels in the order of who works on them plane by plane, where that touches fewer planes."""
    origins = _Origins(graph, lanes)
    found: dict[str, Ints] = {}
    for name, uses in origins.uses.items():
        channels = concrete(graph[name].type.shape[1], {})
        parts = [use for use in uses if 0 < len(use) < channels]
        if name in origins.pinned or not parts:
            continue
        member = np.stack([np.isin(np.arange(channels), part) for part in parts])
        groups = graph[name].attrs["groups"]
        per_group = channels // groups
        blocks = -(-per_group // lanes)
        places = np.empty((channels, 2), np.int64)
        gained = False
        for group in range(groups):
            inside = slice(group * per_group, (group + 1) * per_group)
            order = _ordered(member[:, inside], lanes)
            gained |= not np.array_equal(order, np.arange(per_group))
            places[inside][order] = dense_places(per_group, lanes) + np.array([group * blocks, 0])
        if gained:
            found[name] = places
    return found


def _ordered(member: Array, lanes: int) -> Ints:
    """Channels in the order in which parts [parts, channels] touch the fewest blocks; as they are where that does."""
    kinds, kind = np.unique(member, axis=1, return_inverse=True)
    kind = kind.reshape(-1)
    count = kinds.shape[1]
    given = np.arange(member.shape[1])
    ways = [given]
    if 1 < count <= CELLS:
        ways += [np.argsort(np.array(rank)[kind], kind="stable") for rank in permutations(range(count))]
    elif count > CELLS:
        ways.append(np.lexsort(~member[np.argsort(member.sum(1), kind="stable")]))
    return min(ways, key=lambda order: sum(len(np.unique(np.flatnonzero(part[order]) // lanes)) for part in member))


class _Origins:
    """For each value, the convolution and the channel of it that each of its channels lies with.

    `uses` lists, by convolution, the channels that an operator works on plane by plane, or that a group of a
    convolution adds to its own. `pinned` are those whose channels are combined with others in their order.
    """

    def __init__(self, graph: Graph, lanes: int) -> None:
        self.graph = graph
        self.lanes = lanes
        self.uses: dict[str, list[Ints]] = {}
        self.pinned: set[str] = set()
        self._names: list[str] = []
        self._found: dict[str, Ints] = {}
        for node in graph.operators:
            channels = node.type.shape[1] if node.type.rank in {2, 4} else None
            if isinstance(channels, int):
                self._visit(node, channels)

    def _visit(self, node: Node, channels: int) -> None:
        inside = [self._found[name] for name in node.operands if name in self._found]
        residual = self._found.get(node.input("residual") or "") if node.op == "conv2d" else None
        by_lane = self._by_lane(node)
        if by_lane or node.op in BY_PLANE:
            for origin in inside:
                self._use(origin)
            if len([origin for origin in inside if len(origin) == channels]) > 1:
                self._pin(inside)
        if residual is not None and not by_lane:
            for part in np.split(residual, node.attrs["groups"]):
                self._use(part)
            self._found[node.name] = residual
        elif node.op == "concat" and node.attrs["axis"] % node.type.rank == 1 and len(inside) == len(node.operands):
            self._found[node.name] = np.concatenate(inside)
        elif inside and (node.op in BY_PLANE or self._is_depthwise(node)) and len(inside[0]) == channels:
            self._found[node.name] = inside[0]
        elif inside and (picked := _picked(self.graph, node, len(inside[0]))) is not None:
            self._found[node.name] = inside[0][picked]
        else:
            origin = np.stack([np.full(channels, len(self._names)), np.arange(channels)], axis=1)
            self._found[node.name] = origin
            self._names.append(node.name if self._is_free(node) else "")

    def _is_free(self, node: Node) -> bool:
        """Whether a convolution chooses the order of its outputs, within each group."""
        if node.op != "conv2d" or node.input("residual") is not None:
            return False
        return not self._by_lane(node)

    def _is_depthwise(self, node: Node) -> bool:
        return self._by_lane(node) and node.attrs["groups"] == self.graph[str(node.inputs[0])].type.shape[1]

    def _by_lane(self, node: Node) -> bool:
        """Whether a convolution works plane by plane."""
        if node.op != "conv2d":
            return False
        channels, out = (concrete(t.shape[1], {}) for t in (self.graph[str(node.inputs[0])].type, node.type))
        return prefers_lanes(out, channels, node.attrs["groups"], self.lanes)

    def _by_name(self, origin: Ints) -> Mapping[str, Ints]:
        return {self._names[i]: origin[origin[:, 0] == i, 1] for i in np.unique(origin[:, 0]) if self._names[i]}

    def _use(self, origin: Ints) -> None:
        for name, channels in self._by_name(origin).items():
            self.uses.setdefault(name, []).append(np.unique(channels))

    def _pin(self, origins: Sequence[Ints]) -> None:
        for origin in origins:
            self.pinned.update(self._by_name(origin))


def _picked(graph: Graph, node: Node, channels: int) -> Ints | None:
    """The channels of its input that a node lists without moving them; None where it does more."""
    source = graph[str(node.inputs[0])].type
    if node.op == "reshape":
        return np.arange(channels) if source.shape[:2] == node.type.shape[:2] else None
    if node.op not in {"slice", "gather"} or node.attrs["axis"] % node.type.rank != 1 or source.rank != node.type.rank:
        return None
    if node.op == "slice":
        start, count = node.attrs["start"], node.type.shape[1]
        if not isinstance(start, int) or not isinstance(count, int):
            return None
        picked: Ints = start + node.attrs["step"] * np.arange(count)
        return picked
    indices = graph[node.operands[1]]
    return np.arange(channels)[indices.array] if indices.op == "constant" and indices.type.rank == 1 else None
