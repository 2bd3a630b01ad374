"""Build a network by hand: a method an operator, layers that make their own weights, names that stay.

b = Builder("tiny", seed=0)
x = b.input("x", ("N", 3, "H", "W"), nominal={"H": 224, "W": 224})
with b.scope("stem"):
    y = b.relu(b.batch_norm(b.conv(x, 64, kernel=7, stride=2)))
y = b.linear(b.flatten(b.global_avg_pool(y)), 10, name="fc")
graph = b.finish({"logits": y})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from convc.dims import Size, parse_size
from convc.errors import ModelError
from convc.frontends.sample import Sample
from convc.frontends.value import Operand, Value
from convc.frontends.weights import he_bound, round_bits, uniform, without_data
from convc.frontends.windows import pair, windows
from convc.ir.graph import Graph, Node, Output, constant, graph_input, make_node
from convc.ops import OPS
from convc.types import Array, DType, product

DTYPES = {kind.value: kind for kind in DType}
WEIGHT_NAMES = {
    "w": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var",
    "slope": "weight",
}  # fmt: skip
"""Names of constants by slot, as PyTorch's state dictionaries have them."""


class Builder:
    """Collects nodes; `finish` makes the Graph.

    Every operator of the table is a method: `b.hard_swish(x)`, `b.resize(x, size=..., ...)`. Inputs that are not values
    become constants. `kernel`, `stride`, `dilation` and `output_padding` may be one number for both directions.
    `padding` may be a number, a pair (rows, columns), four numbers (top, left, bottom, right), or "same": the kernel's
    extent less one in all, an odd pixel after, which gives ceil(size / stride).

    Layers (`conv`, `conv_transpose`, `linear`, `batch_norm`) make their weights from `seed` and the weights' names, or
    take them from `weights` by name. Seeded BatchNormalization statistics are those that a random image of side
    `sample` shows, so activations keep their range at any depth. With `seed=None` constants have types and no data:
    enough to infer shapes and to count.

    Raises ModelError, naming the node, for anything that does not fit.
    """

    def __init__(
        self, name: str = "net", *, seed: int | None = 0, weights: Mapping[str, Array] | None = None, sample: int = 128
    ) -> None:
        self.name = name
        self.seed = seed
        self._weights = weights
        self._nodes: dict[str, Node] = {}
        self._nominal: dict[str, int] = {}
        self._scopes: list[str] = []
        self._sample = Sample(seed or 0, sample)

    def __getattr__(self, op: str) -> Callable[..., Value]:
        if op not in OPS:
            raise AttributeError(f"Builder has no method {op}, and the operator table no such entry")

        def apply(*inputs: Operand, name: str | None = None, **attrs: Any) -> Value:
            return self.op(op, inputs, name=name, **attrs)

        return apply

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *OPS]

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes made inside are named `name.…`."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def input(
        self,
        name: str,
        shape: Sequence[Size | str],
        dtype: DType | str = DType.F32,
        *,
        nominal: Mapping[str, int] | None = None,
    ) -> Value:
        """A graph input. Names in `shape` are symbolic sizes; `nominal` says what to count and tune with."""
        self._nominal.update(nominal or {})
        full = self._fresh(name)
        if str(dtype) not in DTYPES:
            raise ModelError(f"input %{full}: dtype {dtype!r} is not supported", hint=f"use one of {', '.join(DTYPES)}")
        sizes = [parse_size(d) if isinstance(d, str) else d for d in shape]
        return self._add(graph_input(full, DTYPES[str(dtype)], sizes))

    def constant(self, value: Array | float | Sequence[Any], name: str = "constant") -> Value:
        """A constant. Arrays keep their dtype."""
        return self._add(constant(self._free(self._path(name)), np.asarray(value)))

    def op(self, op: str, inputs: Sequence[Operand] = (), *, name: str | None = None, **attrs: Any) -> Value:
        """Apply operator `op` of the table. `None` leaves an optional input out."""
        full = self._free(self._path(op)) if name is None else self._fresh(name)
        return self._apply(op, full, inputs, attrs)

    def finish(self, outputs: Value | Sequence[Value] | Mapping[str, Value]) -> Graph:
        """The graph. Outputs are named by the mapping's keys, or by their nodes."""
        if isinstance(outputs, Value):
            outputs = [outputs]
        if not isinstance(outputs, Mapping):
            outputs = {v.name: v for v in outputs}
        named = [Output(name, self._own(value, f"output {name}").name) for name, value in outputs.items()]
        return Graph.build(self.name, self._nodes.values(), named, self._nominal)

    # Layers that make their weights.

    def conv(
        self,
        x: Value,
        channels: int,
        *,
        kernel: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = "same",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        name: str | None = None,
    ) -> Value:
        """conv2d to `channels` channels with weights of variance 2 / fan-in (He), and a small bias."""
        full = self._fresh(name) if name is not None else self._free(self._path("conv"))
        per_group = self._per_group(x, groups, full)
        shape = (channels, per_group, *_sizes(full, channels, pair(kernel)))
        w = self._seeded(f"{full}.weight", shape, he_bound(math.prod(shape[1:])))
        b = self._seeded(f"{full}.bias", (channels,), 0.1) if bias else None
        window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return self._apply("conv2d", full, [x, w, b], window)

    def conv_transpose(
        self,
        x: Value,
        channels: int,
        *,
        kernel: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        name: str | None = None,
    ) -> Value:
        """conv_transpose2d to `channels` channels; each output sees kernel / stride of the input in each direction."""
        full = self._fresh(name) if name is not None else self._free(self._path("conv_transpose"))
        per_group = self._per_group(x, groups, full)
        if channels % groups:
            raise ModelError(
                f"conv_transpose2d %{full}: groups={groups} must divide {channels} channels", hint="change one"
            )
        kernel, stride = _sizes(full, channels, pair(kernel)), _sizes(full, channels, pair(stride))
        fan_in = max(1.0, per_group * math.prod(kernel) / math.prod(stride))
        w = self._seeded(f"{full}.weight", (per_group * groups, channels // groups, *kernel), he_bound(fan_in))
        b = self._seeded(f"{full}.bias", (channels,), 0.1) if bias else None
        window = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        return self._apply("conv_transpose2d", full, [x, w, b], {**window, "groups": groups})

    def linear(
        self, x: Value, features: int | Operand, b: Operand = None, *, bias: bool = True, name: str | None = None
    ) -> Value:
        """Linear to `features` features with seeded weights; or `linear(x, w, b)` with given ones."""
        if not isinstance(features, int):
            return self.op("linear", [x, features, b], name=name)
        full = self._fresh(name) if name is not None else self._free(self._path("linear"))
        inputs = x.shape[-1] if x.shape else None
        if not isinstance(inputs, int):
            raise ModelError(
                f"linear %{full}: the last size of input {x!r} is symbolic", hint="pool or reshape it to a fixed size"
            )
        w = self._seeded(f"{full}.weight", (features, inputs), he_bound(inputs))
        seeded = self._seeded(f"{full}.bias", (features,), 0.1) if bias else None
        return self._apply("linear", full, [x, w, seeded], {})

    def batch_norm(
        self,
        x: Value,
        gamma: Operand = None,
        beta: Operand = None,
        mean: Operand = None,
        var: Operand = None,
        *,
        epsilon: float = 1e-5,
        scale: float = 1.0,
        name: str | None = None,
    ) -> Value:
        """batch_norm; parameters not given are made.

        gamma is in 0.6 to 1.4 times `scale`, beta in -0.3 to 0.3; mean and var are those of a sample, up to a fifth of
        a standard deviation and a factor of 0.7 to 1.4 away.
        """
        full = self._fresh(name) if name is not None else self._free(self._path("batch_norm"))
        count = x.shape[1] if x.type.rank > 1 else None
        if not isinstance(count, int):
            raise ModelError(
                f"batch_norm %{full}: input {x!r} has no fixed channel axis 1", hint="reshape it to [N, C, ...]"
            )
        names = [f"{full}.{WEIGHT_NAMES[slot]}" for slot in ("gamma", "beta", "mean", "var")]

        @cache
        def statistics() -> tuple[Array, Array]:
            return self._sample.statistics(x.name, self._nodes)

        def draw(index: int, low: float, high: float) -> Array:
            return uniform(self.seed or 0, names[index], (count,), low, high)

        makers: list[Callable[[], Array]] = [
            lambda: draw(0, 0.6 * scale, 1.4 * scale),
            lambda: draw(1, -0.3, 0.3),
            lambda: round_bits(statistics()[0] + draw(2, -0.2, 0.2) * np.sqrt(statistics()[1])),
            lambda: round_bits(np.maximum(statistics()[1], 1e-6) * draw(3, 0.7, 1.4)),
        ]
        given = [gamma, beta, mean, var]
        made = [
            value if value is not None else self._parameter(label, (count,), make)
            for value, label, make in zip(given, names, makers, strict=True)
        ]
        return self._apply("batch_norm", full, [x, *made], {"epsilon": epsilon})

    # Shapes.

    def reshape(self, x: Value, shape: Sequence[Size | str], *, name: str | None = None) -> Value:
        """`x` in another shape; one size may be -1, names are symbolic sizes."""
        sizes = [parse_size(d) if isinstance(d, str) else d for d in shape]
        if -1 in sizes:
            known = product([d for d in sizes if d != -1])
            sizes[sizes.index(-1)] = x.type.elements // known
        return self.op("reshape", [x], name=name, shape=tuple(sizes))

    def flatten(self, x: Value, *, name: str | None = None) -> Value:
        """[N, ...] to [N, the rest]."""
        return self.reshape(x, (x.shape[0], product(x.shape[1:])), name=name or self._unused("flatten"))

    def concat(self, values: Sequence[Operand], *, axis: int = 1, name: str | None = None) -> Value:
        """The values side by side along `axis`."""
        return self.op("concat", values, name=name, axis=axis)

    def relu6(self, x: Value, *, name: str | None = None) -> Value:
        """Clip to 0 to 6."""
        return self.op("clip", [x], name=name or self._unused("relu6"), min=0.0, max=6.0)

    # Names, and what they stand for.

    def _path(self, name: str) -> str:
        return ".".join([*self._scopes, name])

    def _free(self, full: str) -> str:
        if full not in self._nodes:
            return full
        return next(f"{full}_{i}" for i in range(1, len(self._nodes) + 2) if f"{full}_{i}" not in self._nodes)

    def _unused(self, name: str) -> str:
        return self._free(self._path(name))[len(self._path("")) :]

    def _fresh(self, name: str) -> str:
        full = self._path(name)
        if full in self._nodes:
            raise ModelError(f"two nodes are named %{full}", hint="give each node its own name, or use b.scope(...)")
        return full

    def _add(self, node: Node) -> Value:
        self._nodes[node.name] = node
        return Value(self, node)

    def _own(self, value: Value, user: str) -> Node:
        if self._nodes.get(value.name) is not value.node:
            raise ModelError(
                f"%{user} reads %{value.name} of another Builder", hint="build one network with one Builder"
            )
        return value.node

    def _apply(self, op: str, full: str, inputs: Sequence[Operand], attrs: Mapping[str, Any]) -> Value:
        operator = OPS.get(op)
        if operator is None:
            raise ModelError(f"unknown operator {op} for %{full}", hint="see convc.ops.OPS for the operators there are")
        dtypes = [v.type.dtype for v in inputs if isinstance(v, Value) and v.type.dtype is not DType.BOOL]
        nodes: list[Node | None] = []
        for index, given in enumerate(inputs):
            if given is None or isinstance(given, Value):
                nodes.append(self._own(given, full) if given is not None else None)
                continue
            array = np.asarray(given)
            if dtypes and array.ndim == 0 and "elementwise" in operator.traits:
                array = array.astype(dtypes[0].numpy)
            slot = operator.slot(index) if operator.slots else "x"
            label = WEIGHT_NAMES.get(slot, slot) if operator.slots[:1] == ("x",) else slot
            nodes.append(self._add(constant(self._free(f"{full}.{label}"), array)).node)
        return self._add(make_node(op, full, nodes, windows(full, op, nodes, attrs), source=(full,)))

    def _per_group(self, x: Value, groups: int, full: str) -> int:
        if not isinstance(x, Value):
            raise ModelError(f"convolution %{full}: {x!r} is no value of the network", hint="use what input() gave")
        count = x.shape[1] if x.type.rank == 4 else None
        if not isinstance(count, int):
            raise ModelError(
                f"convolution %{full}: input {x!r} is not [N, C, H, W] with a fixed C", hint="reshape the input"
            )
        if groups < 1 or count % groups:
            divisors = ", ".join(str(g) for g in range(1, count + 1) if count % g == 0)
            raise ModelError(
                f"convolution %{full}: groups={groups} must divide in_channels={count} (input {x!r})",
                hint=f"use one of {divisors}, or change the producer",
            )
        return count // groups

    def _seeded(self, full: str, shape: Sequence[int], bound: float) -> Value:
        return self._parameter(full, shape, lambda: uniform(self.seed or 0, full, shape, -bound, bound))

    def _parameter(self, full: str, shape: Sequence[int], make: Callable[[], Array]) -> Value:
        if self._weights is None:
            return self._add(constant(full, make() if self.seed is not None else without_data(full, shape)))
        if full not in self._weights:
            raise ModelError(f"weights= has no array for %{full} of shape {list(shape)}", hint="check the file's names")
        array = np.asarray(self._weights[full])
        if array.shape != tuple(shape):
            raise ModelError(
                f"weights= has shape {list(array.shape)} for %{full}, expected {list(shape)}",
                hint="check the network's options",
            )
        return self._add(constant(full, array))


def _sizes(full: str, channels: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes, two of them and, as the channels, above 0. Raises ModelError."""
    numbers = (channels, *sizes)
    if len(sizes) != 2 or not all(isinstance(number, (int, np.integer)) and number > 0 for number in numbers):
        listed = " x ".join(map(repr, sizes))
        raise ModelError(
            f"convolution %{full}: {channels!r} channels of {listed}", hint="give channels and sizes above 0"
        )
    return sizes


__all__ = ["Builder", "Value"]
