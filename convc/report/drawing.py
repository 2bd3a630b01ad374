"""The drawing of one graph as plain JSON: blocks, and in each its members placed in layers.

Centres are those of closed blocks; the page moves members apart where a block between them is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convc.passes.stages import Outline
from convc.report.blocks import Block, find_blocks, member_edges, owners, read_positions
from convc.report.layering import arrange

NODE_WIDTH = 184.0
PORT_WIDTH = 10.0


def draw(nodes: Sequence[Outline], ids: Sequence[int]) -> list[dict[str, Any]]:
    """Blocks of a graph, the whole of it first. `nodes` are in topological order; `ids` name them in the result.

    Members are ids of nodes, or -i for block number i. Edges join members by index; the value -1 is the block's
    entry and -2 its exit. `stems` holds, for a member or the entry, the centres that its long edges run through,
    a layer each.
    """
    reads = read_positions(nodes)
    users: list[list[int]] = [[] for _ in nodes]
    for position, found in enumerate(reads):
        for producer in found:
            users[producer].append(position)
    blocks: list[Block] = []
    waiting = [find_blocks(nodes)]
    while waiting:
        block = waiting.pop(0)
        blocks.append(block)
        waiting.extend(m for m in block.members if isinstance(m, Block))
    number = {id(block): index for index, block in enumerate(blocks)}
    return [_draw_block(block, nodes, ids, reads, users, number) for block in blocks]


def _draw_block(
    block: Block,
    nodes: Sequence[Outline],
    ids: Sequence[int],
    reads: Sequence[Sequence[int]],
    users: Sequence[Sequence[int]],
    number: dict[int, int],
) -> dict[str, Any]:
    members = block.members
    inside = owners(members)
    entered = sorted({index for p, index in inside.items() if any(r not in inside for r in reads[p])})
    left = sorted({index for p, index in inside.items() if any(u not in inside for u in users[p])})
    start = 1 if entered else 0
    count = start + len(members) + (1 if left else 0)
    widths = [PORT_WIDTH] * start + [NODE_WIDTH] * len(members) + [PORT_WIDTH] * (1 if left else 0)
    pairs = [(a, b) for b, found in member_edges(members, reads).items() for a in sorted(found)]
    edges = [(a + start, b + start) for a, b in pairs]
    edges += [(0, b + start) for b in entered] + [(a + start, count - 1) for a in left]
    placed = arrange(widths, edges, count - 1 if left else None)

    def name(node: int) -> int:
        return -1 if start and node == 0 else -2 if left and node == count - 1 else node - start

    return {
        "key": block.key,
        "label": block.label,
        "size": sum(1 for _ in block.positions()),
        "members": [-number[id(m)] if isinstance(m, Block) else ids[m] for m in members],
        "layers": list(placed.layers[start : start + len(members)]),
        "centres": [round(c, 1) for c in placed.centres[start : start + len(members)]],
        "entry": round(placed.centres[0], 1) if entered else None,
        "exit": [placed.layers[-1], round(placed.centres[-1], 1)] if left else None,
        "edges": [[name(a), name(b)] for a, b in edges],
        "stems": {str(name(node)): [round(c, 1) for c in points] for node, points in placed.stems.items()},
        "width": round(placed.width, 1),
    }
