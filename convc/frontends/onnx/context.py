"""What an operator's importer sees: the graph that grows, and one ONNX node with its inputs and attributes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import onnx

from convc.dims import Dim, Size
from convc.errors import LimitError, ModelError
from convc.frontends.onnx.known import Known, check_size
from convc.frontends.onnx.tensors import TensorReader
from convc.frontends.scales import FIX_SIZES
from convc.ir.graph import Node, constant, make_node
from convc.limits import Limits
from convc.ops.base import normal_axis
from convc.types import Array, DType, TensorType

Result = Node | Known | Sequence[Node | Known | None]
Importer = Callable[["Call"], Result]
Evaluator = Callable[["Call"], "Known | Sequence[Known] | Value"]
_V = TypeVar("_V", int, float, str)
_INFERENCE = "export in inference mode, without masks, indices or statistics as outputs"


@dataclass
class Value:
    """What an ONNX name stands for: a node, elements known at import, or both; neither where `origin` is left out."""

    name: str
    node: Node | None = None
    known: Known | None = None
    origin: str = ""


@dataclass
class Builder:
    """The graph under construction. Names are unique; helpers are called after the value that they serve: `y.1`."""

    limits: Limits
    opset: int
    reader: TensorReader
    nodes: dict[str, Node] = field(default_factory=dict)
    nominal: dict[str, int] = field(default_factory=dict)
    reserved: set[str] = field(default_factory=set)
    counters: dict[str, int] = field(default_factory=dict)
    varying: set[str] = field(default_factory=set)
    folded: int = 0
    reshaped: bool = False
    """Whether the caller overrode input shapes."""

    def fresh(self, base: str) -> str:
        """A name made from `base` that nothing has."""
        count = self.counters.get(base, 0)
        while True:
            count += 1
            name = f"{base}.{count}"
            if name not in self.reserved and name not in self.nodes:
                self.counters[base] = count
                return name

    def add(self, node: Node) -> Node:
        """Take up a node, checked against the limits. Raises LimitError."""
        if node.op != "constant":
            for size in node.type.shape:
                check_size(size)
            self.limits.check_tensor(node.name, node.type, self.nominal)
        if len(self.nodes) >= 10 * self.limits.nodes:
            raise LimitError(
                f"the model becomes more than {10 * self.limits.nodes} nodes", hint="raise convc.Limits(nodes=...)"
            )
        self.nodes[node.name] = node
        if node.op == "input" or any(name in self.varying for name in node.operands):
            self.varying.add(node.name)
        return node

    def is_constant(self, node: Node) -> bool:
        """Whether a node does not depend on the graph's inputs."""
        return node.name not in self.varying

    def charge(self, what: str, count: int, dtype: DType) -> None:
        """Account for an array that the importer is about to make up. Raises LimitError."""
        self.limits.check_tensor(what, TensorType(dtype, (count,)), {})
        self.folded += count * dtype.bytes
        if self.folded > self.limits.folded_bytes:
            raise LimitError(
                f"{what} brings computed constants to {self.folded} bytes, "
                f"more than limits.folded_bytes={self.limits.folded_bytes}",
                hint="use smaller sizes, or raise convc.Limits(folded_bytes=...)",
            )

    def materialise(self, value: Value) -> Node:
        """The node of a value; elements known at import become a constant. Raises ModelError for symbols."""
        if value.node is None:
            known = value.known
            if known is None:
                raise ModelError(f"{value.name} is {value.origin}, which is not computed", hint=_INFERENCE)
            if known.symbolic:
                raise ModelError(
                    f"value {value.name} = {known} depends on sizes that are not fixed, and is needed as a tensor",
                    hint=FIX_SIZES,
                )
            name = value.name if value.name not in self.nodes else self.fresh(value.name)
            value.node = self.add(constant(name, known.array, source=(value.name,)))
        return value.node


class Call:
    """One ONNX node under import. Methods raise ModelError; the caller adds the node's name."""

    def __init__(self, builder: Builder, proto: onnx.NodeProto, scope: Mapping[str, Value]) -> None:
        self.builder = builder
        self.proto = proto
        self.scope = scope
        self.op = proto.op_type
        self.attributes = {a.name: a for a in proto.attribute}
        self.output = next((o for o in proto.output if o), "") or builder.fresh(proto.op_type)
        self.source = (proto.name or self.output,)
        self.made: dict[str, Node] = {}

    @property
    def opset(self) -> int:
        return self.builder.opset

    # Inputs

    def has(self, index: int) -> bool:
        """Whether the input is there."""
        return index < len(self.proto.input) and bool(self.proto.input[index])

    @property
    def count(self) -> int:
        return len(self.proto.input)

    def value(self, index: int) -> Value:
        """The value of an input."""
        if not self.has(index):
            raise ModelError(f"input {index} is missing", hint="the operator needs it; check the exporter")
        name = self.proto.input[index]
        if name not in self.scope:
            near = difflib.get_close_matches(name, self.scope, 1)
            raise ModelError(
                f"input {index} is {name}, which nothing defines",
                hint=f"did you mean {near[0]}?" if near else "the weights or a node are missing from the file",
            )
        return self.scope[name]

    def node(self, index: int) -> Node:
        """The node of an input."""
        return self.builder.materialise(self.value(index))

    def optional(self, index: int) -> Node | None:
        """The node of an input that may be left out."""
        return self.node(index) if self.has(index) else None

    def nodes(self) -> list[Node]:
        """All inputs."""
        return [self.node(i) for i in range(self.count)]

    def type(self, index: int) -> TensorType:
        """The type of an input, which need not become a node."""
        value = self.value(index)
        if value.node is not None:
            return value.node.type
        if value.known is None:
            return self.builder.materialise(value).type
        return TensorType(value.known.dtype, tuple(value.known.array.shape))

    def known(self, index: int) -> Known | None:
        """The elements of an input where they are known."""
        value = self.value(index)
        if value.known is None and value.node is not None and value.node.op == "constant":
            value.known = Known.of(value.node.array)
        return value.known

    def sizes(self, index: int, what: str) -> tuple[Size, ...]:
        """The elements of an input that gives sizes. Raises ModelError where they are not known at import."""
        known = self.known(index)
        if known is None:
            raise ModelError(
                f"{what} ({self.proto.input[index]}) is computed at run time, expected a constant",
                hint="shapes may depend on input shapes, not on input values; " + FIX_SIZES,
            )
        return known.sizes()

    def ints(self, index: int, what: str) -> tuple[int, ...]:
        """The elements of an input that gives integers, none symbolic."""
        sizes = self.sizes(index, what)
        symbolic = [s for s in sizes if isinstance(s, Dim)]
        if symbolic:
            raise ModelError(f"{what} holds {symbolic[0]}, expected a number", hint=FIX_SIZES)
        return tuple(int(s) for s in sizes if not isinstance(s, Dim))

    def array(self, index: int, what: str) -> Array:
        """The elements of an input that must be constant."""
        known = self.known(index)
        if known is None or known.symbolic:
            raise ModelError(
                f"{what} ({self.proto.input[index]}) is not constant", hint="export with constant parameters"
            )
        return known.array

    def scalar(self, index: int, what: str) -> float:
        """The only element of an input that must be constant."""
        array = self.array(index, what)
        if array.size != 1:
            raise ModelError(f"{what} has shape {list(array.shape)}, expected one element", hint="check the exporter")
        return float(array.reshape(()))

    # Attributes

    def has_attr(self, name: str) -> bool:
        return name in self.attributes

    def _attr(self, name: str, field_name: str, default: _V | None) -> _V:
        if name in self.attributes:
            found: _V = getattr(self.attributes[name], field_name)
            return found
        if default is None:
            raise ModelError(f"attribute {name} is missing", hint="the operator needs it; check the exporter")
        return default

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer attribute."""
        return self._attr(name, "i", default)

    def flag(self, name: str, default: bool = False) -> bool:
        """An integer attribute that is a truth value."""
        return bool(self._attr(name, "i", int(default)))

    def real(self, name: str, default: float | None = None) -> float:
        """A float attribute, as the shortest decimal that rounds to it in f32."""
        return shortest(self._attr(name, "f", default))

    def text(self, name: str, default: str | None = None) -> str:
        """A string attribute."""
        if name not in self.attributes and default is not None:
            return default
        if name not in self.attributes:
            raise ModelError(f"attribute {name} is missing", hint="the operator needs it; check the exporter")
        raw: bytes = self.attributes[name].s
        return raw.decode("utf-8", "replace")

    def ints_attr(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """An attribute of several integers."""
        if name in self.attributes:
            return tuple(self.attributes[name].ints)
        return tuple(default) if default is not None else None

    def floats_attr(self, name: str) -> tuple[float, ...]:
        """An attribute of several floats."""
        if name not in self.attributes:
            raise ModelError(f"attribute {name} is missing", hint="the operator needs it; check the exporter")
        return tuple(shortest(v) for v in self.attributes[name].floats)

    def axes(self, index: int, rank: int) -> tuple[int, ...] | None:
        """Axes from attribute `axes` or, in newer opsets, from an input; counted from 0; None where not given."""
        if self.has_attr("axes"):
            given = self.ints_attr("axes") or ()
        elif self.has(index):
            given = self.ints(index, "axes")
        else:
            return None
        return tuple(normal_axis(a, rank) for a in given)

    def used(self, index: int) -> bool:
        """Whether the node has that output."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    # Nodes

    def emit(self, op: str, *inputs: Node | None, **attrs: Any) -> Node:
        """A new node; the one that the importer returns gets the output's name."""
        name = self.builder.fresh(self.output)
        node = self.builder.add(make_node(op, name, inputs, attrs, source=self.source))
        self.made[name] = node
        return node

    def constant(self, array: Array) -> Node:
        """A new constant."""
        name = self.builder.fresh(self.output)
        node = self.builder.add(constant(name, array, source=self.source))
        self.made[name] = node
        return node

    def scalar_like(self, node: Node, number: float) -> Node:
        """A new scalar constant in the element type of a node."""
        return self.constant(np.array(number, node.type.dtype.numpy))

    def finish(self, node: Node, output: str) -> Node:
        """The node under its output's name."""
        builder = self.builder
        name = output if output not in builder.nodes else builder.fresh(output)
        if node.name not in self.made or any(node.name in other.operands for other in self.made.values()):
            return builder.add(make_node("identity", name, [node], source=self.source))
        renamed = replace(node, name=name)
        del builder.nodes[node.name], self.made[node.name]
        builder.varying.discard(node.name)
        self._release(node.name)
        return builder.add(renamed)

    def _release(self, name: str) -> None:
        """Give back the last helper name, so that helpers are numbered without gaps."""
        base, _, number = name.rpartition(".")
        if self.builder.counters.get(base) == int(number):
            self.builder.counters[base] -= 1


def shortest(value: float) -> float:
    """The shortest decimal that rounds to the same f32, as ONNX keeps floats: 1e-05, not 9.999999747378752e-06."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def listed(items: Sequence[object]) -> str:
    """Sizes in brackets, for messages."""
    return f"[{', '.join(map(str, items))}]"


def array_of(elements: Sequence[int]) -> Array:
    """A vector of i64."""
    return np.array(elements, np.int64)
