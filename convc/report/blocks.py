"""Blocks of a network by the scopes in its nodes' names: `layer1.0.conv1` lies in `layer1.0`, that in `layer1`.

A drawing collapses a block to one box, so what leaves a block must not lead back into it: nodes without a scope of
their own join the block that surrounds them, and blocks that still form a circle are dissolved. A long run of nodes
without scopes is cut into blocks where a single value passes from one part to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from convc.passes.stages import Outline

FLAT = 40
"""Members from which a block without blocks in it is cut into parts, and how many nodes a part has at least."""
PART = 10


@dataclass
class Block:
    """A scope: its key (the prefix of its nodes' names), label, and members: positions of nodes, or blocks."""

    key: str
    label: str
    members: list[int | Block] = field(default_factory=list)

    def positions(self) -> Iterator[int]:
        """Positions of all nodes inside, at any depth."""
        for member in self.members:
            if isinstance(member, Block):
                yield from member.positions()
            else:
                yield member

    def first(self) -> int:
        """The earliest position inside."""
        return min(self.positions())


def find_blocks(nodes: Sequence[Outline]) -> Block:
    """The tree of blocks over `nodes`, which are in topological order. Members are in topological order, too."""
    reads = read_positions(nodes)
    scopes = _adopted([scope_of(node.name) if node.op not in {"input", "output"} else () for node in nodes], reads)
    root = _tree(scopes)
    _simplify(root, nodes, reads)
    return root


def read_positions(nodes: Sequence[Outline]) -> list[tuple[int, ...]]:
    """Positions of the nodes that each node reads; what is not among `nodes` is left out."""
    place = {node.name: at for at, node in enumerate(nodes) if node.op != "output"}
    return [tuple(dict.fromkeys(place[i] for i in node.inputs if i in place)) for node in nodes]


def scope_of(name: str) -> tuple[str, ...]:
    """The scopes of a name, outermost first, each as the prefix that its nodes share.

    Parts are divided by slashes where there are any, by dots otherwise.
    """
    mark = "/" if "/" in name.strip("/") else "."
    found: list[str] = []
    at = name.find(mark, 1)
    while at > 0:
        if name[at + 1 :].strip(mark):
            found.append(name[:at])
        at = name.find(mark, at + 1)
    return tuple(found)


def _adopted(scopes: list[tuple[str, ...]], reads: Sequence[Sequence[int]]) -> list[tuple[str, ...]]:
    """Nodes go into the innermost scope that all their neighbours share, where it lies inside their own."""
    users: list[list[int]] = [[] for _ in scopes]
    for at, read in enumerate(reads):
        for producer in read:
            users[producer].append(at)
    found = list(scopes)
    for _ in range(2):
        for at, scope in enumerate(found):
            around = [found[n] for n in (*reads[at], *users[at])]
            if not reads[at] or not users[at]:
                continue
            common = around[0]
            for other in around[1:]:
                shared = 0
                while shared < min(len(common), len(other)) and common[shared] == other[shared]:
                    shared += 1
                common = common[:shared]
            if len(common) > len(scope) and common[: len(scope)] == scope:
                found[at] = common
    return found


def _tree(scopes: Sequence[tuple[str, ...]]) -> Block:
    root = Block("", "")
    known: dict[tuple[str, ...], Block] = {(): root}
    for at, scope in enumerate(scopes):
        for depth in range(1, len(scope) + 1):
            if scope[:depth] not in known:
                outer = known[scope[: depth - 1]]
                label = scope[depth - 1][len(outer.key) :].strip("./") or scope[depth - 1]
                known[scope[:depth]] = Block(scope[depth - 1], label)
                outer.members.append(known[scope[:depth]])
        known[scope].members.append(at)
    return root


def _simplify(block: Block, nodes: Sequence[Outline], reads: Sequence[Sequence[int]]) -> None:
    """Inline blocks of one member, dissolve circles, sort topologically, cut long runs; from the inside out."""
    members: list[int | Block] = []
    for member in block.members:
        if isinstance(member, Block):
            _simplify(member, nodes, reads)
            only = member.members[0]
            if len(member.members) == 1:
                if isinstance(only, Block):
                    only.label = f"{member.label}.{only.label}"
                members.append(only)
                continue
        members.append(member)
    block.members = _sorted(members, reads)
    if len(block.members) > FLAT and not any(isinstance(member, Block) for member in block.members):
        block.members = _cut(block, nodes, reads)


def member_edges(members: Sequence[int | Block], reads: Sequence[Sequence[int]]) -> dict[int, set[int]]:
    """Which members each member reads, by index."""
    inside = owners(members)
    found: dict[int, set[int]] = {index: set() for index in range(len(members))}
    for position, index in inside.items():
        found[index].update(inside[p] for p in reads[position] if inside.get(p, index) != index)
    return found


def owners(members: Sequence[int | Block]) -> dict[int, int]:
    """The member that each position belongs to."""
    return {
        position: index
        for index, member in enumerate(members)
        for position in (member.positions() if isinstance(member, Block) else (member,))
    }


def _sorted(members: list[int | Block], reads: Sequence[Sequence[int]]) -> list[int | Block]:
    while True:
        members = sorted(members, key=lambda m: m.first() if isinstance(m, Block) else m)
        order, circle = _topological(member_edges(members, reads))
        if not circle:
            return [members[index] for index in order]
        stuck = [members[index] for index in circle]
        members = [m for m in members if m not in stuck or not isinstance(m, Block)]
        members += [inner for m in stuck if isinstance(m, Block) for inner in m.members]


def _topological(edges: Mapping[int, set[int]]) -> tuple[list[int], list[int]]:
    """Indices in order, earliest first where free; and those on or between circles, which have no order."""
    order, left = _peel(edges)
    if not left:
        return order, []
    turned: dict[int, set[int]] = {index: set() for index in left}
    for index in left:
        for other in edges[index]:
            if other in turned:
                turned[other].add(index)
    return order, _peel(turned)[1]


def _peel(edges: Mapping[int, set[int]]) -> tuple[list[int], list[int]]:
    waiting = {index: len(found) for index, found in edges.items()}
    users: dict[int, list[int]] = {index: [] for index in edges}
    for index, found in edges.items():
        for other in found:
            users[other].append(index)
    order: list[int] = []
    ready = [index for index, count in waiting.items() if count == 0]
    while ready:
        index = min(ready)
        ready.remove(index)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    return order, [index for index in edges if waiting[index] > 0]


def _cut(block: Block, nodes: Sequence[Outline], reads: Sequence[Sequence[int]]) -> list[int | Block]:
    """Parts of a long run of nodes, cut where one value is alive. Ends of the graph stay outside."""
    members = [m for m in block.members if isinstance(m, int)]
    positions = [m for m in members if nodes[m].op not in {"input", "output"}]
    place = {position: index for index, position in enumerate(positions)}
    last = list(range(len(positions)))
    for index, position in enumerate(positions):
        for producer in reads[position]:
            if producer in place:
                last[place[producer]] = max(last[place[producer]], index)
    alive = [0] * (len(positions) + 1)
    for index, end in enumerate(last):
        for at in range(index + 1, end + 1):
            alive[at] += 1
    parts: list[list[int]] = [[]]
    for index, position in enumerate(positions):
        if alive[index] == 1 and len(parts[-1]) >= PART:
            parts.append([])
        parts[-1].append(position)
    if len(parts) < 3:
        return list(block.members)
    blocks = [Block(f"{block.key}#{nodes[part[0]].name}", "", list(part)) for part in parts]
    inputs, outputs = ([m for m in members if nodes[m].op == op] for op in ("input", "output"))
    return [*inputs, *blocks, *outputs]
