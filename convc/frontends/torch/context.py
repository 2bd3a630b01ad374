"""What an operator's importer sees: the graph that grows, and one ATen call with its arguments by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from convc.dims import Dim, Size
from convc.errors import LimitError, ModelError
from convc.frontends.onnx.known import check_size
from convc.frontends.scales import FIX_SIZES
from convc.ir.graph import Node, constant, make_node
from convc.limits import Limits
from convc.ops.base import normal_axis
from convc.types import Array, DType, TensorType

_DTYPES = {
    "float16": DType.F16, "float32": DType.F32, "float64": DType.F64, "int8": DType.I8, "int16": DType.I16,
    "int32": DType.I32, "int64": DType.I64, "uint8": DType.U8, "uint16": DType.U16, "uint32": DType.U32,
    "uint64": DType.U64, "bool": DType.BOOL,
}  # fmt: skip


def dtype_of(tensor: Any) -> DType:
    """The element type of a tensor, or a torch.dtype. Raises ModelError for one that convc does not carry."""
    name = str(getattr(tensor, "dtype", tensor)).removeprefix("torch.")
    if name not in _DTYPES:
        raise ModelError(f"element type {name} is not supported", hint=f"use one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


@dataclass(eq=False)
class Const:
    """A tensor that does not depend on the inputs: a parameter, a buffer, or what torch makes of such."""

    tensor: Any
    name: str

    @property
    def type(self) -> TensorType:
        return TensorType(dtype_of(self.tensor), tuple(int(s) for s in self.tensor.shape))


Operand = Node | Const
Result = Operand | Sequence[Operand | None]
Importer = Callable[["Call"], Result]


@dataclass
class Builder:
    """The graph under construction. Names are unique; helpers are called after the value that they serve."""

    limits: Limits
    nominal: dict[str, int]
    reserved: frozenset[str]
    """Names of modules and parameters, which nothing else takes."""
    nodes: dict[str, Node] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)
    shared: dict[tuple[Any, ...], Node] = field(default_factory=dict)

    def claim(self, wish: str, *, owner: bool = False) -> str:
        """A name made from `wish` that nothing else has; `owner` is the one that a reserved name waits for."""
        name, count = wish, 0
        while name in self.claimed or (name in self.reserved and not (owner and name == wish)):
            count += 1
            name = f"{wish}_{count}"
        self.claimed.add(name)
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
        return node

    def materialise(self, operand: Operand) -> Node:
        """The node of an operand. Constants share the tensor's memory where it is contiguous and on the CPU."""
        if isinstance(operand, Node):
            return operand
        tensor = operand.tensor.detach()
        place = tensor.data_ptr() if tensor.numel() else operand.name
        key = (str(tensor.device), place, tuple(tensor.shape), tensor.stride(), str(tensor.dtype))
        if key not in self.shared:
            dtype_of(tensor)
            name = self.claim(operand.name, owner=True)
            self.shared[key] = self.add(constant(name, tensor.cpu().resolve_conj().numpy(), source=(operand.name,)))
        return self.shared[key]


class Call:
    """One ATen call under import. Methods raise ModelError; the caller adds the call's name."""

    def __init__(
        self, builder: Builder, wish: str, *, owner: bool, arguments: Mapping[str, Any], value: Any
    ) -> None:
        self.builder = builder
        self.arguments = dict(arguments)
        self.fake = value
        self.made: dict[str, Node] = {}
        self._wish = wish
        self._owner = owner

    @cached_property
    def name(self) -> str:
        """The name of the call's result."""
        return self.builder.claim(self._wish, owner=self._owner)

    @property
    def dtype(self) -> DType:
        """The element type that torch gives the result, or the first of them."""
        return dtype_of(self.fake[0] if isinstance(self.fake, (tuple, list)) else self.fake)

    # Arguments

    def get(self, name: str) -> Any:
        """An argument as it is: Node, Const, size, number, text, None, or a list of such."""
        return self.arguments.get(name)

    @property
    def first(self) -> Any:
        """The first argument, which torch calls self or input."""
        return next(iter(self.arguments.values()))

    @property
    def x(self) -> Node:
        """The node of the first argument."""
        return self.materialise(self.first, next(iter(self.arguments)))

    def node(self, name: str) -> Node:
        """The node of an argument."""
        return self.materialise(self.get(name), name)

    def optional(self, name: str) -> Node | None:
        """The node of an argument that may be left out."""
        return self.node(name) if self.get(name) is not None else None

    def materialise(self, operand: Any, what: str = "an input") -> Node:
        """The node of an operand."""
        if not isinstance(operand, (Node, Const)):
            raise ModelError(f"{what} is {operand!r}, expected a tensor", hint=FIX_SIZES)
        return self.builder.materialise(operand)

    def sizes(self, name: str) -> tuple[Size, ...]:
        """An argument of several sizes."""
        value = self.get(name)
        return tuple(_size(v, name) for v in (value if isinstance(value, (list, tuple)) else [value]))

    def size(self, name: str) -> Size:
        return _size(self.get(name), name)

    def ints(self, name: str, count: int, default: Sequence[int] = ()) -> tuple[int, ...]:
        """An argument of `count` numbers; one stands for all, none for `default`."""
        value = self.get(name)
        listed = value if isinstance(value, (list, tuple)) else [value]
        values = tuple(_number(v, name) for v in listed if v is not None) or tuple(default)
        values = values * count if len(values) == 1 else values
        if len(values) != count:
            raise ModelError(f"{name}={list(values)} has {len(values)} values, expected {count}", hint="one an axis")
        return values

    def integer(self, name: str) -> int:
        return _number(self.get(name), name)

    def real(self, name: str, default: float | None = None) -> float:
        """A number that does not depend on sizes."""
        value = self.get(name)
        value = default if value is None else value
        if isinstance(value, Const) and value.tensor.numel() == 1:
            value = value.tensor.item()
        if not isinstance(value, (int, float)):
            raise ModelError(f"{name} is {value}, expected a number", hint=FIX_SIZES)
        return float(value)

    def flag(self, name: str) -> bool:
        return bool(self.get(name))

    def axis(self, name: str, rank: int) -> int:
        """An axis, counted from 0."""
        return normal_axis(self.integer(name), max(rank, 1))

    def axes(self, name: str, rank: int) -> tuple[int, ...]:
        """Axes, counted from 0; all of them where none are given."""
        value = self.get(name)
        given = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
        return tuple(normal_axis(_number(a, name), max(rank, 1)) for a in given) or tuple(range(rank))

    # Nodes

    def emit(self, op: str, *inputs: Node | None, **attrs: Any) -> Node:
        """A new node; the one that the importer returns gets the call's name."""
        name = self.builder.claim(f"{self.name}.{op}")
        node = self.builder.add(make_node(op, name, inputs, attrs, source=(self.name,)))
        self.made[name] = node
        return node

    def constant(self, array: Array, label: str = "constant") -> Node:
        """A new constant."""
        name = self.builder.claim(f"{self.name}.{label}")
        return self.builder.add(constant(name, array, source=(self.name,)))

    def scalar(self, number: float, dtype: DType) -> Node:
        """A new scalar constant."""
        return self.constant(np.array(number, dtype.numpy))

    def operand(self, value: Any, dtype: DType) -> Node:
        """A tensor or number as a node of an element type."""
        if isinstance(value, Dim):
            raise ModelError(f"size {value} is not fixed, and is needed as a number", hint=FIX_SIZES)
        if isinstance(value, (bool, int, float)):
            return self.scalar(value, dtype)
        if isinstance(value, Const) and value.type.dtype is not dtype and not value.tensor.dim():
            return self.scalar(value.tensor.item(), dtype)
        return self.cast(self.materialise(value), dtype)

    def cast(self, x: Node, dtype: DType) -> Node:
        return x if x.type.dtype is dtype else self.emit("cast", x, to=dtype)

    def reshape(self, x: Node, shape: Iterable[Size]) -> Node:
        """`x` in another shape; `x` itself where it has it."""
        sizes = tuple(shape)
        return x if x.type.shape == sizes else self.emit("reshape", x, shape=sizes)

    def transpose(self, x: Node, perm: Sequence[int]) -> Node:
        return x if list(perm) == list(range(len(perm))) else self.emit("transpose", x, perm=tuple(perm))

    def finish(self, result: Result) -> Operand | tuple[Operand | None, ...]:
        """The result with its nodes under the call's name, numbered where there are several."""
        if isinstance(result, (Node, Const)):
            return self._named(result)
        several = sum(r is not None for r in result) > 1
        return tuple(
            None if r is None else self._named(r, f".{i}" if several else "") for i, r in enumerate(result)
        )

    def _named(self, node: Operand, part: str = "") -> Operand:
        if isinstance(node, Const) or node.name not in self.made:
            return node
        if any(node.name in other.operands for other in self.made.values()):
            return node
        del self.builder.nodes[node.name], self.made[node.name]
        self.builder.claimed.discard(node.name)
        name = self.builder.claim(f"{self.name}{part}") if part else self.name
        return self.builder.add(replace(node, name=name))


def _size(value: Any, name: str) -> Size:
    if isinstance(value, bool) or not isinstance(value, (int, Dim)):
        raise ModelError(f"{name} holds {value!r}, expected a size", hint=FIX_SIZES)
    return value


def _number(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError(f"{name} is {value}, expected a number", hint=FIX_SIZES)
    return value
