"""A layered drawing of a directed acyclic graph: layers by longest path, order by barycentres, straight chains.

Edges that cross layers run through points; all long edges of one node share its points, like the branches of a stem.
Source: Sugiyama, Tagawa, Toda 1981; coordinates after Brandes and Köpf 2002.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from convc.report.straight import straighten

SWEEPS = 12
POINT_WIDTH = 10.0


@dataclass(frozen=True)
class Layered:
    """Layer and centre of every node, the stem of each node with long edges (a centre a layer), and the width."""

    layers: tuple[int, ...]
    centres: tuple[float, ...]
    stems: dict[int, tuple[float, ...]]
    width: float


def arrange(widths: Sequence[float], edges: Sequence[tuple[int, int]], last: int | None = None) -> Layered:
    """Place nodes 0 to len(widths)-1, given in topological order. Node `last` gets a layer of its own at the end."""
    layers = layer_nodes(len(widths), edges, last)
    drawing = _Drawing(widths, edges, layers)
    order = drawing.ordered()
    centres = straighten(order, drawing.upper, drawing.lower, drawing.widths, len(widths))
    left = min((c - w / 2 for c, w in zip(centres, drawing.widths, strict=True)), default=0.0)
    right = max((c + w / 2 for c, w in zip(centres, drawing.widths, strict=True)), default=0.0)
    stems = {node: tuple(centres[point] - left for point in points) for node, points in drawing.stems.items()}
    shifted = tuple(centre - left for centre in centres[: len(widths)])
    return Layered(tuple(layers), shifted, stems, right - left)


def layer_nodes(count: int, edges: Sequence[tuple[int, int]], last: int | None = None) -> list[int]:
    """The longest path to each node; nodes that nothing leads to move down to the one that reads them first."""
    layers = [0] * count
    lower: list[list[int]] = [[] for _ in range(count)]
    has_upper = [False] * count
    for a, b in sorted(edges):
        layers[b] = max(layers[b], layers[a] + 1)
        lower[a].append(b)
        has_upper[b] = True
    for node in range(count):
        if not has_upper[node] and lower[node] and node:
            layers[node] = max(0, min(layers[b] for b in lower[node]) - 1)
    if last is not None:
        layers[last] = max([layers[last], *(layer + 1 for i, layer in enumerate(layers) if i != last)])
    return layers


class _Drawing:
    """Nodes and the points of long edges as items, with their neighbours in the layers above and below."""

    def __init__(self, widths: Sequence[float], edges: Sequence[tuple[int, int]], layers: Sequence[int]) -> None:
        self.widths = list(widths)
        self.layer = list(layers)
        self.key = [(float(i), 0) for i in range(len(widths))]
        self.stems: dict[int, list[int]] = {}
        self.upper: list[list[int]] = [[] for _ in widths]
        self.lower: list[list[int]] = [[] for _ in widths]
        farthest: dict[int, int] = {}
        for a, b in edges:
            farthest[a] = max(farthest.get(a, 0), layers[b])
        for a, end in farthest.items():
            above = a
            for layer in range(layers[a] + 1, end):
                point = len(self.widths)
                self.widths.append(POINT_WIDTH)
                self.layer.append(layer)
                self.key.append((a + 0.5, 1))
                self.upper.append([])
                self.lower.append([])
                self.stems.setdefault(a, []).append(point)
                self._join(above, point)
                above = point
        for a, b in edges:
            span = layers[b] - layers[a] - 1
            self._join(self.stems[a][span - 1] if span else a, b)

    def _join(self, above: int, below: int) -> None:
        self.lower[above].append(below)
        self.upper[below].append(above)

    def ordered(self) -> list[list[int]]:
        """Items of each layer from left to right, with few crossings."""
        rows: list[list[int]] = [[] for _ in range(max(self.layer, default=-1) + 1)]
        for item in sorted(range(len(self.widths)), key=self.key.__getitem__):
            rows[self.layer[item]].append(item)
        best, fewest = rows, self._crossings(rows)
        for sweep in range(SWEEPS):
            if fewest == 0:
                break
            rows = self._swept(rows, down=sweep % 2 == 0)
            crossings = self._crossings(rows)
            if crossings < fewest:
                best, fewest = rows, crossings
        return best

    def _swept(self, rows: list[list[int]], *, down: bool) -> list[list[int]]:
        neighbours = self.upper if down else self.lower
        place = {item: float(at) for row in rows for at, item in enumerate(row)}
        found = list(rows)
        for index in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            weight = {
                item: sum(place[n] for n in neighbours[item]) / len(neighbours[item])
                if neighbours[item]
                else place[item]
                for item in rows[index]
            }
            found[index] = sorted(rows[index], key=weight.__getitem__)
            place.update((item, float(at)) for at, item in enumerate(found[index]))
        return found

    def _crossings(self, rows: list[list[int]]) -> int:
        total = 0
        for above, below in itertools.pairwise(rows):
            place = {item: at for at, item in enumerate(below)}
            ends: list[int] = []
            for item in above:
                found = [place[n] for n in self.lower[item]]
                total += sum(len(ends) - bisect_left(ends, end + 1) for end in found)
                for end in found:
                    insort(ends, end)
        return total


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
