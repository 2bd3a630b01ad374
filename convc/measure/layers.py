"""The table of layers: shapes, parameters, MACs, and how much of the input each output pixel sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from convc.dims import concrete
from convc.ops import OPS

if TYPE_CHECKING:
    from convc.ir.graph import Graph, Node

WHOLE = "whole"
"""The receptive field of what sees all pixels of the input."""


@dataclass(frozen=True)
class Layer:
    """A node; figures at nominal sizes. A constant counts where it is first used.

    `field` is the receptive field in input pixels, height and width; "whole" for all of them; None where the node has
    no pixels, or their order is lost.
    """

    name: str
    operator: str
    type: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    field: tuple[int, int] | str | None
    source: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def layers(graph: Graph) -> list[Layer]:
    """A layer for each operator, in order."""
    sights = _sights(graph)
    return [
        Layer(
            node.name, node.op, str(node.type), node.type.concrete(graph.nominal), _parameters(graph, node),
            concrete(graph.node_macs(node), graph.nominal), _told(sights[node.name]), node.source,
        )
        for node in graph.operators
    ]  # fmt: skip


def _parameters(graph: Graph, node: Node) -> int:
    operator = OPS[node.op]
    total = 0
    for index, name in enumerate(node.inputs):
        counts = name is not None and operator.slot(index) in operator.weights and graph[name].op == "constant"
        if name is not None and counts and graph.users(name)[0].name == node.name:
            total += concrete(graph[name].type.elements, {})
    return total


# ---- receptive fields ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """How many input pixels one output pixel sees along an axis, and how far the next one is shifted from it."""

    field: Fraction = Fraction(1)
    jump: Fraction = Fraction(1)

    def window(self, taps: int, step: Fraction | int = 1, spread: Fraction | int = 1) -> _Axis:
        """After a window of `taps` pixels, `spread` apart, that goes on by `step`."""
        return _Axis(self.field + (taps - 1) * self.jump * spread, self.jump * step)


_Sight = tuple[_Axis, _Axis] | str | None
_TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
_ALL_PIXELS = frozenset({"global_avg_pool", "global_max_pool", "instance_norm", "group_norm", "linear", "matmul"})


def _sights(graph: Graph) -> dict[str, _Sight]:
    found: dict[str, _Sight] = {}
    for node in graph.nodes:
        if node.op == "input":
            found[node.name] = (_Axis(), _Axis()) if node.type.rank == 4 else None
        elif node.op != "constant":
            operands = [graph[name] for name in node.operands if graph[name].op != "constant"]
            found[node.name] = _sight(graph, node, [found[operand.name] for operand in operands])
    return found


def _sight(graph: Graph, node: Node, before: Sequence[_Sight]) -> _Sight:
    if WHOLE in before or node.op in _ALL_PIXELS or _crosses_pixels(graph, node):
        return WHOLE
    pairs = [sight for sight in before if isinstance(sight, tuple)]
    if not pairs or len(pairs) < len(before) or _loses_pixels(graph, node):
        return None
    height, width = (max((pair[axis] for pair in pairs), key=lambda one: one.field) for axis in range(2))
    return _seen(graph, node, 0, height), _seen(graph, node, 1, width)


def _is_spatial(axis: int, rank: int) -> bool:
    """Whether an axis is height or width: the last two of [N, C, H, W], also where channels are split into groups."""
    return rank >= 4 and axis % rank >= rank - 2


def _crosses_pixels(graph: Graph, node: Node) -> bool:
    """Whether the node reduces or normalises along height or width."""
    rank = graph[node.operands[0]].type.rank if node.operands else 0
    if node.op == "layer_norm":
        return rank >= 4
    axes = node.attrs["axes"] if "axes" in node.attrs else (node.attrs["axis"],) if "axis" in node.attrs else ()
    crossing = node.op.startswith(("reduce_", "argmax", "softmax", "log_softmax"))
    return crossing and any(_is_spatial(axis, rank) for axis in axes or range(rank))


def _loses_pixels(graph: Graph, node: Node) -> bool:
    rank = node.type.rank
    if rank < 4:
        return True
    if node.op == "transpose":
        return bool(node.attrs["perm"][-2:] != (rank - 2, rank - 1))
    if node.op == "reshape":
        return graph[node.operands[0]].type.shape[-2:] != node.type.shape[-2:]
    return node.op == "gather" and _is_spatial(node.attrs["axis"], rank)


def _seen(graph: Graph, node: Node, axis: int, before: _Axis) -> _Axis:
    """What a pixel of `node` sees along height (0) or width (1)."""
    a = node.attrs
    if node.op in {"conv2d", "conv_transpose2d"}:
        taps = concrete(graph[node.operands[1]].type.shape[2 + axis], graph.nominal)
        if node.op == "conv2d":
            return before.window(taps, a["stride"][axis], a["dilation"][axis])
        reach = (taps - 1) * a["dilation"][axis] // a["stride"][axis] + 1
        return before.window(reach, Fraction(1, a["stride"][axis]))
    if node.op in {"max_pool2d", "avg_pool2d"}:
        return before.window(a["kernel"][axis], a["stride"][axis], a["dilation"][axis])
    if node.op == "space_to_depth":
        return before.window(a["block"], a["block"])
    if node.op == "depth_to_space":
        return before.window(1, Fraction(1, a["block"]))
    if node.op == "resize":
        scale = Fraction(a["scales"][2 + axis]).limit_denominator(1 << 16)
        return before.window(_TAPS[a["mode"]] if scale != 1 else 1, 1 / scale)
    if node.op == "slice" and a["axis"] % node.type.rank == node.type.rank - 2 + axis:
        return before.window(1, abs(a["step"]))
    return before


def _told(sight: _Sight) -> tuple[int, int] | str | None:
    return (math.ceil(sight[0].field), math.ceil(sight[1].field)) if isinstance(sight, tuple) else sight


__all__ = ["WHOLE", "Layer", "layers"]
