"""One spatial axis as two: [N, C, W] with a height of 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from convc.errors import ModelError
from convc.frontends.torch.context import Call, Importer, Result
from convc.ir.graph import Node


def lifted(call: Call, x: Node) -> Node:
    """[A, B, W] as [A, B, 1, W]; rank 4 as it is."""
    if x.type.rank == 4:
        return x
    if x.type.rank != 3:
        raise ModelError(f"%{x.name} is {x.type}, expected rank 3 or 4", hint="give inputs a batch axis")
    return call.reshape(x, (*x.type.shape[:2], 1, x.type.shape[2]))


def lowered(call: Call, y: Node, rank: int) -> Node:
    """[A, B, 1, W] as [A, B, W] where the rank was 3."""
    return y if rank == 4 else call.reshape(y, (y.type.shape[0], y.type.shape[1], y.type.shape[3]))


def both(values: Sequence[int], neutral: int) -> tuple[int, ...]:
    """A value for each axis of a plane; `neutral` for a height that is not there."""
    return (neutral, *values) if len(values) == 1 else tuple(values)


def on_planes(spatial: int, convert: Callable[[Call, Node], Node]) -> Callable[[Call], Any]:
    """An importer whose first argument has `spatial` spatial axes behind batch and channels."""

    def importer(call: Call) -> Node:
        x = batched(call, spatial)
        return lowered(call, convert(call, lifted(call, x)), x.type.rank)

    return importer


def or_alone(spatial: int | None, importer: Importer) -> Importer:
    """An importer of one item too, which has no batch axis ahead of channels and `spatial` axes, None for as many as
    the weights have.
    """

    def convert(call: Call) -> Result:
        x, axes = call.x, call.node("weight").type.rank - 2 if spatial is None else spatial
        if x.type.rank != axes + 1:
            return importer(call)
        call.arguments[next(iter(call.arguments))] = call.reshape(x, (1, *x.type.shape))
        result = importer(call)
        if isinstance(result, Node):
            return call.reshape(result, result.type.shape[1:])
        assert isinstance(result, list)
        return [call.reshape(one, one.type.shape[1:]) if isinstance(one, Node) else one for one in result]

    return convert


def batched(call: Call, spatial: int) -> Node:
    """The first argument, which has `spatial` axes behind batch and channels. Raises ModelError."""
    x = call.x
    if x.type.rank != spatial + 2:
        raise ModelError(f"%{x.name} is {x.type}, expected rank {spatial + 2}", hint="give inputs a batch axis")
    return x
