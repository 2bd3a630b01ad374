"""Seeded BatchNormalization statistics: those that a small random input shows while the network is being built.

A network whose layers are normalised by what they really compute keeps its activations in range at any depth, as a
trained one does. The sample is small (128 pixels square at most) and does not depend on the sizes that the network is
built for, so that one name and seed give the same weights for every image size.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import numpy as np
import numpy.typing as npt

from convc.dims import Size
from convc.errors import ModelError
from convc.frontends.weights import uniform
from convc.ir.graph import Node
from convc.ops import OPS
from convc.types import Shape, product

Array64 = npt.NDArray[np.float64]


class Sample:
    """The value of every node for one small random input, in float64, computed as far as asked for.

    `side` is the height and width of input images. Where a value depends on its declared size (images reshaped across
    channels and pixels, resizing), fresh random numbers take its place.
    """

    def __init__(self, seed: int, side: int) -> None:
        self._seed = seed
        self._side = side
        self._batch = min(8, max(1, 4096 // side**2))
        self._values: dict[str, npt.NDArray[np.generic]] = {}
        self._done = 0

    def statistics(self, name: str, nodes: Mapping[str, Node]) -> tuple[Array64, Array64]:
        """Mean and variance of each channel of node `name`.

        `nodes` is in topological order and only ever grows. Variances are increased by 8 / pixels of the mean variance
        of all channels: other images differ from the few pixels of this one. Of fewer than eight pixels, only the mean
        square of all channels counts.
        """
        for node in islice(nodes.values(), self._done, None):
            if node.op != "constant":
                self._values[node.name] = self._evaluate(node, nodes)
        self._done = len(nodes)
        value = np.moveaxis(self._value(nodes[name]), 1, 0).astype(np.float64)
        value = value.reshape(value.shape[0], -1)
        mean, var, count = value.mean(1), value.var(1), value.shape[1]
        if count < 8:
            return np.zeros_like(mean), np.full_like(var, np.square(value).mean())
        return mean, var + 8 / count * var.mean()

    def _evaluate(self, node: Node, nodes: Mapping[str, Node]) -> npt.NDArray[np.generic]:
        if node.op == "input":
            return self._input(node)
        values = [self._value(nodes[i]) if i is not None else None for i in node.inputs]
        attrs = dict(node.attrs)
        if node.op == "reshape":
            shape = _reshaped(values[0].shape, nodes[node.operands[0]].type.shape, node.type.shape)  # type: ignore[union-attr]
            if shape is None:
                return self._fresh(node)
            attrs["shape"] = shape
        elif node.op in {"resize", "expand"} or (node.op == "slice" and not isinstance(attrs["stop"], int)):
            return self._fresh(node)
        try:
            result: npt.NDArray[np.generic] = OPS[node.op].evaluate(values, attrs)
        except (ModelError, ValueError, IndexError):  # the sample is too small for a window, or broadcasting is gone
            return self._fresh(node)
        return result

    def _value(self, node: Node) -> npt.NDArray[np.generic]:
        if node.op == "constant":
            return node.array.astype(np.float64) if node.type.dtype.is_float else node.array
        return self._values[node.name]

    def _input(self, node: Node) -> npt.NDArray[np.generic]:
        shape = node.type.shape
        if len(shape) != 4:
            return self._fresh(node)
        image = (1 if d == 1 else self._side for d in shape[2:])
        return self._random(node, (self._batch, _length(shape[1]), *image))

    def _fresh(self, node: Node) -> npt.NDArray[np.generic]:
        return self._random(node, (self._batch, *map(_length, node.type.shape[1:]))[: node.type.rank])

    def _random(self, node: Node, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
        values = uniform(self._seed, f"sample:{node.name}", shape, -(3**0.5), 3**0.5)
        return values.astype(np.float64 if node.type.dtype.is_float else node.type.dtype.numpy)


def _length(size: Size) -> int:
    return size if isinstance(size, int) else 8


def _reshaped(lengths: tuple[int, ...], old: Shape, new: Shape) -> tuple[int, ...] | None:
    """Shape of the sample where `old` becomes `new`; None where that depends on sizes that the sample has not."""
    shape: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        i0, j0 = i, j
        before, after = product(old[i : i + 1]), product(new[j : j + 1])
        i, j = i + 1, j + 1
        while before != after:
            if not isinstance(before, int) or not isinstance(after, int):
                return None
            if before < after and i < len(old):
                before, i = before * _length(old[i]), i + 1
            elif after < before and j < len(new):
                after, j = after * _length(new[j]), j + 1
            else:
                return None
        if j - j0 == i - i0 == 1:
            shape.append(lengths[i0])
        elif lengths[i0:i] == old[i0:i]:
            shape += map(_length, new[j0:j])
        else:
            return None
    return tuple(shape)
