"""What mean and variance to expect in each channel of each value, were the inputs standard normal.

    conv: mean_k = sum_c mean_c sum_rs w[k,c,r,s] + b_k;  var_k = sum_c var_c sum_rs w[k,c,r,s]^2

Elements are taken as independent and normal, which a sum of many randomly weighted terms is nearly. A network whose
BatchNormalization statistics are these keeps its activations in range at any depth, as a trained one does, at the cost
of a few sums over the weights instead of an inference. Everything is float64. Arrays have the rank of the value, and
length 1 along axes on which nothing is known to differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import NormalDist
from typing import Any

import numpy as np

from convc.dims import Size, concrete, symbols
from convc.ir.graph import Node
from convc.ops import OPS, activation_attrs
from convc.types import Activation, Array, Shape, product

POINTS = 61
_quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / POINTS) for i in range(POINTS)])
_quantiles /= _quantiles.std()
# Row i visits the quantiles in steps of the i-th number, prime to POINTS: a lattice that pairs operands evenly.
LATTICE = np.stack([_quantiles[np.arange(POINTS) * step % POINTS] for step in (1, 23, 14)])


@dataclass(frozen=True)
class Moments:
    """Mean and variance, each broadcastable to the value."""

    mean: Array
    var: Array

    def each(self, change: Callable[[Array], Array]) -> Moments:
        return Moments(change(self.mean), change(self.var))

    def along(self, axis: int, size: int) -> Moments:
        """Spelled out along one axis."""
        return self.each(lambda a: np.repeat(a, size, axis) if a.shape[axis] == 1 else a)


class Expectation:
    """Moments of a growing list of nodes, found when they are asked for."""

    def __init__(self) -> None:
        self._known: dict[str, Moments] = {}

    def of(self, name: str, nodes: Mapping[str, Node], nominal: Mapping[str, int]) -> Moments:
        """The moments of node `name`. `nodes` is in topological order and holds everything that `name` depends on."""
        if name not in self._known:
            for node in islice(nodes.values(), len(self._known), None):
                self._known[node.name] = self._find(node, nodes, nominal)
                if node.name == name:
                    break
        return self._known[name]

    def _find(self, node: Node, nodes: Mapping[str, Node], nominal: Mapping[str, int]) -> Moments:
        unknown = Moments(np.zeros((1,) * node.type.rank), np.ones((1,) * node.type.rank))
        if node.op == "constant":
            return Moments(node.array, np.zeros((1,) * node.type.rank)) if node.type.dtype.is_float else unknown
        inputs = [nodes[i] if i is not None else None for i in node.inputs]
        if "elementwise" in OPS[node.op].traits and node.type.dtype.is_float:
            return _elementwise(node.op, node.attrs, [self._known[i] for i in node.operands], node.type.rank)
        rule = RULES.get(node.op)
        if rule is None:
            return unknown
        moments = [self._known[i] if i is not None else unknown for i in node.inputs]
        return rule(At(node, inputs, moments, nominal)) or unknown


@dataclass(frozen=True)
class At:
    """A node, the nodes it reads, and what is known of their values."""

    node: Node
    inputs: Sequence[Node | None]
    moments: Sequence[Moments]
    nominal: Mapping[str, int]


Rule = Callable[[At], Moments | None]


def _elementwise(op: str, attrs: Mapping[str, Any], operands: list[Moments], rank: int) -> Moments:
    """Quadrature: the operator itself, evaluated on quantiles of each operand."""

    def aligned(array: Array) -> Array:
        return np.asarray(array, np.float64).reshape((1,) * (rank - array.ndim) + array.shape + (1,))

    points = [aligned(m.mean) + np.sqrt(aligned(m.var)) * LATTICE[i % 3] for i, m in enumerate(operands)]
    with np.errstate(all="ignore"):
        values = OPS[op].evaluate(points, attrs)
    return Moments(values.mean(-1), values.var(-1))


def _channels(moments: Moments, count: int) -> tuple[Array, Array]:
    whole = moments.along(1, count)
    return whole.mean.reshape(count), whole.var.reshape(count)


def _convolution(at: At) -> Moments | None:
    x, w = at.inputs[0], at.inputs[1]
    if x is None or w is None or w.op != "constant" or not isinstance(x.type.shape[1], int):
        return None
    groups, channels = at.node.attrs["groups"], x.type.shape[1]
    weight = w.array.reshape(*w.array.shape[:2], -1)
    sums = weight.sum(-1, dtype=np.float64), np.square(weight, dtype=np.float64).sum(-1)
    if at.node.op == "conv_transpose2d":
        taps = float(np.prod(at.node.attrs["stride"]))
        blocks = [s.reshape(groups, channels // groups, -1).transpose(0, 2, 1) / taps for s in sums]
    else:
        blocks = [s.reshape(groups, -1, channels // groups) for s in sums]
    mean, var = (
        (s @ m.reshape(groups, channels // groups, 1)).reshape(1, -1, 1, 1)
        for s, m in zip(blocks, _channels(at.moments[0], channels), strict=True)
    )
    return _epilogue(at, Moments(mean, var), (1, -1, 1, 1))


def _linear(at: At) -> Moments | None:
    w = at.inputs[1]
    if w is None or w.op != "constant":
        return None
    weight, x = w.array.astype(np.float64), at.moments[0].along(-1, w.array.shape[1])
    return _epilogue(at, Moments(x.mean @ weight.T, x.var @ np.square(weight).T), (-1,))


def _epilogue(at: At, y: Moments, bias_shape: tuple[int, ...]) -> Moments:
    if len(at.node.inputs) > 2 and at.node.inputs[2] is not None:
        y = Moments(y.mean + at.moments[2].mean.reshape(bias_shape), y.var)
    if len(at.node.inputs) > 3 and at.node.inputs[3] is not None:
        y = Moments(y.mean + at.moments[3].mean, y.var + at.moments[3].var)
    activation: Activation | None = at.node.attrs["activation"]
    if activation is None:
        return y
    return _elementwise(activation.name, activation_attrs(activation), [y], y.mean.ndim)


def _batch_norm(at: At) -> Moments:
    shape = (1, -1) + (1,) * (at.node.type.rank - 2)
    gamma, beta, mean, var = (m.mean.astype(np.float64).reshape(shape) for m in at.moments[1:5])
    scale = gamma / np.sqrt(var + at.node.attrs["epsilon"])
    return Moments((at.moments[0].mean - mean) * scale + beta, at.moments[0].var * scale**2)


def _max_pool(at: At) -> Moments:
    """The largest of n normal values has quantile p where one of them has quantile p ** (1 / n)."""
    count = at.node.attrs["kernel"][0] * at.node.attrs["kernel"][1]
    largest = np.array([NormalDist().inv_cdf(((i + 0.5) / POINTS) ** (1 / count)) for i in range(POINTS)])
    x = at.moments[0]
    return Moments(x.mean + np.sqrt(x.var) * largest.mean(), x.var * largest.var())


def _mean(at: At) -> Moments | None:
    x = at.inputs[0]
    if x is None or (at.node.op == "reduce_mean" and (not at.node.attrs["keepdims"] or 1 in at.node.attrs["axes"])):
        return None
    if at.node.op == "avg_pool2d":
        count: Size = at.node.attrs["kernel"][0] * at.node.attrs["kernel"][1]
    else:
        axes = at.node.attrs["axes"] if at.node.op == "reduce_mean" else range(2, x.type.rank)
        count = product([x.type.shape[a] for a in axes])
    return Moments(
        at.moments[0].mean, at.moments[0].var / concrete(count, {s: 1 for s in symbols(count)} | dict(at.nominal))
    )


def _concat(at: At) -> Moments | None:
    axis = at.node.attrs["axis"] % at.node.type.rank
    sizes = [n.type.shape[axis] for n in at.inputs if n is not None]
    known = [s for s in sizes if isinstance(s, int)]
    if len(known) < len(sizes):
        return None
    whole = [m.along(axis, s) for m, s in zip(at.moments, known, strict=True)]
    arrays = [array for m in whole for array in (m.mean, m.var)]
    shape = np.broadcast_shapes(*((*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in arrays))

    def joined(parts: list[Array]) -> Array:
        return np.concatenate(
            [np.broadcast_to(p, (*shape[:axis], p.shape[axis], *shape[axis + 1 :])) for p in parts], axis
        )

    return Moments(joined([m.mean for m in whole]), joined([m.var for m in whole]))


def _slice(at: At) -> Moments | None:
    a = at.node.attrs
    axis = a["axis"] % at.node.type.rank
    if not isinstance(a["stop"], int) or a["step"] < 0:
        return at.moments[0].each(lambda m: m.mean(axis, keepdims=True))
    index = (slice(None),) * axis + (slice(a["start"], a["stop"], a["step"]),)
    return at.moments[0].each(lambda m: m[index] if m.shape[axis] > 1 else m)


def _transpose(at: At) -> Moments:
    return at.moments[0].each(lambda m: m.transpose(at.node.attrs["perm"]))


def _reshape(at: At) -> Moments | None:
    x = at.inputs[0]
    return at.moments[0].each(lambda m: _reshaped(m, x.type.shape, at.node.type.shape)) if x is not None else None


def _reshaped(m: Array, old: Shape, new: Shape) -> Array:
    """`m` for the new shape, run of axes by run of axes; averaged where a run is cut across."""
    flat = np.full((1,) * len(new), m.mean())
    shape: list[int] = []
    i = j = 0
    while j < len(new):
        i0, j0 = i, j
        before, after = product(old[i : i + 1]), new[j]
        i, j = i + 1, j + 1
        while before != after:
            if isinstance(before, int) and isinstance(after, int) and before < after and i < len(old):
                before, i = before * old[i], i + 1
            elif isinstance(before, int) and isinstance(after, int) and after < before and j < len(new):
                after, j = after * new[j], j + 1
            else:
                return flat
        lengths = m.shape[i0:i]
        if set(lengths) <= {1}:
            shape += [1] * (j - j0)
        elif lengths == old[i0:i]:
            shape += [concrete(d, {}) for d in new[j0:j]]
        else:
            return flat
    return m.reshape(shape) if set(m.shape[i:]) <= {1} else flat


def _same(at: At) -> Moments:
    return at.moments[0]


def _shuffle(at: At) -> Moments:
    groups = at.node.attrs["groups"]

    def shuffled(m: Array) -> Array:
        return m.reshape(1, groups, -1, 1, 1).swapaxes(1, 2).reshape(1, -1, 1, 1) if m.shape[1] > 1 else m

    return at.moments[0].each(shuffled)


RULES: dict[str, Rule] = {
    "conv2d": _convolution, "conv_transpose2d": _convolution, "linear": _linear, "batch_norm": _batch_norm,
    "max_pool2d": _max_pool, "avg_pool2d": _mean, "global_avg_pool": _mean, "reduce_mean": _mean,
    "concat": _concat, "slice": _slice, "transpose": _transpose, "reshape": _reshape, "channel_shuffle": _shuffle,
    "identity": _same, "dropout": _same, "pad": _same, "resize": _same, "expand": _same,
}  # fmt: skip
