"""Horizontal coordinates for a layered drawing: chains become straight, nothing overlaps, what fans out is centred.

Items that prefer each other stand one above the other; four such alignments (from above, from below, from the left,
from the right) are packed, and each item takes the mean of its two middle places. A node prefers nodes to the points
that long edges run through, and where lines part, it prefers the longest one: so the main line stays straight, and
what is shorter or skips it runs beside.
Source: Brandes, Köpf 2002, Fast and Simple Horizontal Coordinate Assignment; packing as in dagre.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

GAP = 26.0
POINT_GAP = 12.0

Rows = Sequence[Sequence[int]]
Neighbours = Sequence[Sequence[int]]


def straighten(rows: Rows, upper: Neighbours, lower: Neighbours, widths: Sequence[float], nodes: int) -> list[float]:
    """The centre of every item. Items from number `nodes` on are points of long edges."""
    if not widths:
        return []
    long_lower = _longest(rows, lower, nodes)
    short_upper = [_nodes_first(found, nodes) for found in upper]
    layouts: list[list[float]] = []
    for up in (True, False):
        for left in (True, False):
            turned = rows if up else rows[::-1]
            turned = turned if left else [row[::-1] for row in turned]
            above, below = (short_upper, long_lower) if up else (long_lower, short_upper)
            root = _align(turned, above, below, upper if up else lower, nodes)
            centres = _pack(turned, root, widths, nodes)
            layouts.append(centres if left else [-c for c in centres])
    extents = [_extent(layout, widths) for layout in layouts]
    low, high = min(extents, key=lambda e: e[1] - e[0])
    shifts = [low - e[0] if index % 2 == 0 else high - e[1] for index, e in enumerate(extents)]
    found = []
    for item in range(len(widths)):
        places = sorted(layout[item] + shift for layout, shift in zip(layouts, shifts, strict=True))
        found.append((places[1] + places[2]) / 2)
    return found


def _extent(layout: Sequence[float], widths: Sequence[float]) -> tuple[float, float]:
    pairs = list(zip(layout, widths, strict=True))
    return min(c - w / 2 for c, w in pairs), max(c + w / 2 for c, w in pairs)


def _nodes_first(neighbours: Sequence[int], nodes: int) -> list[int]:
    real = [n for n in neighbours if n < nodes]
    return real or list(neighbours)


def _longest(rows: Rows, lower: Neighbours, nodes: int) -> list[list[int]]:
    """For each item those below that the longest lines lead through."""
    length = [0] * len(lower)
    for row in reversed(rows):
        for item in row:
            length[item] = (item < nodes) + max((length[n] for n in lower[item]), default=0)
    found = []
    for neighbours in lower:
        wanted = _nodes_first(neighbours, nodes)
        most = max((length[n] for n in wanted), default=0)
        found.append([n for n in wanted if length[n] == most])
    return found


def _align(rows: Rows, above: Neighbours, below: Neighbours, joined: Neighbours, nodes: int) -> list[int]:
    """The topmost item of the column that each item belongs to. `above` and `below` are those that each prefers."""
    place = {item: at for row in rows for at, item in enumerate(row)}
    wanted_above = [sorted(found, key=place.__getitem__) for found in above]
    wanted_below = [set(found) for found in below]
    root = list(range(len(above)))
    for upper_row, row in itertools.pairwise(rows):
        stems = _stem_places(upper_row, row, joined, place, nodes)
        taken = -1
        for item in row:
            found = wanted_above[item]
            for at in sorted({(len(found) - 1) // 2, len(found) // 2}) if found else ():
                over = found[at]
                if root[item] != item or place[over] <= taken or item not in wanted_below[over]:
                    continue
                if _cuts_a_stem(place[over], place[item], stems, stem=item >= nodes and over >= nodes):
                    continue
                root[item] = root[over]
                taken = place[over]
    return root


def _stem_places(
    upper_row: Sequence[int], row: Sequence[int], above: Neighbours, place: dict[int, int], nodes: int
) -> list[tuple[int, int]]:
    return [(place[a], place[i]) for i in row if i >= nodes for a in above[i] if a >= nodes]


def _cuts_a_stem(upper: int, lower: int, stems: Sequence[tuple[int, int]], *, stem: bool) -> bool:
    return not stem and any((a - upper) * (b - lower) < 0 for a, b in stems)


def _pack(rows: Rows, root: Sequence[int], widths: Sequence[float], nodes: int) -> list[float]:
    """Columns as far left as they go, then each as far right as those on its right let it."""
    after: dict[int, list[tuple[int, float]]] = {r: [] for r in root}
    before: dict[int, int] = {r: 0 for r in root}
    for row in rows:
        for a, b in itertools.pairwise(row):
            gap = GAP if a < nodes and b < nodes else POINT_GAP
            after[root[a]].append((root[b], (widths[a] + widths[b]) / 2 + gap))
            before[root[b]] += 1
    ready = [r for r, count in before.items() if count == 0]
    order: list[int] = []
    centre = {r: 0.0 for r in after}
    while ready:
        one = ready.pop()
        order.append(one)
        for other, distance in after[one]:
            centre[other] = max(centre[other], centre[one] + distance)
            before[other] -= 1
            if before[other] == 0:
                ready.append(other)
    for one in reversed(order):
        if after[one]:
            centre[one] = max(centre[one], min(centre[other] - distance for other, distance in after[one]))
    return [centre[r] for r in root]
