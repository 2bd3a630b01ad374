"""The Graph: an immutable, topologically ordered list of nodes with one output each.

A node's name is unique and stable under passes. Inputs are nodes of operator `input`, weights nodes of `constant`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from convc.dims import Dim, Size, bind, concrete
from convc.errors import ModelError
from convc.ops import OPS
from convc.types import Activation, Array, DType, Tensor, TensorType


class FrozenAttrs(Mapping[str, Any]):
    """Attributes of a node: read-only, ordered, hashable."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Any:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrozenAttrs) and self._items == other._items

    def __repr__(self) -> str:
        return repr(self._items)

    def __getstate__(self) -> dict[str, Any]:
        return self._items

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._items = state


@dataclass(frozen=True, slots=True)
class Node:
    """One operator application. `inputs` holds node names, None for an optional slot left out.

    `source` names the nodes of the user's description that this node came from.
    """

    name: str
    op: str
    inputs: tuple[str | None, ...]
    attrs: FrozenAttrs
    type: TensorType
    source: tuple[str, ...] = field(default=(), compare=False)

    @property
    def operands(self) -> tuple[str, ...]:
        """Inputs without the ones left out."""
        return tuple(name for name in self.inputs if name is not None)

    @property
    def value(self) -> Tensor:
        """A constant's tensor."""
        if self.op != "constant":
            raise ModelError(f"{self.op} %{self.name} is not a constant", hint="check node.op first")
        tensor: Tensor = self.attrs["value"]
        return tensor

    @property
    def array(self) -> Array:
        """A constant's elements."""
        return self.value.array

    def input(self, slot: str) -> str | None:
        """Name of the node in the slot of that name, None where it was left out."""
        index = OPS[self.op].slot_index(slot)
        return self.inputs[index] if index < len(self.inputs) else None

    def __str__(self) -> str:
        return f"{self.op} %{self.name}"


def make_node(
    op: str,
    name: str,
    inputs: Sequence[Node | None] = (),
    attrs: Mapping[str, Any] | None = None,
    *,
    source: Iterable[str] = (),
) -> Node:
    """A node with its type inferred from its inputs. Raises ModelError that names the node and its producers."""
    operator = OPS.get(op)
    if operator is None:
        raise ModelError(f"unknown operator {op} for %{name}", hint="see convc.ops.OPS for the operators there are")
    kept = list(inputs)
    while kept and kept[-1] is None and not operator.variadic:
        kept.pop()
    try:
        operator.check_arity(len(kept))
        complete = operator.complete(attrs or {})
        for index, node in enumerate(kept):
            if node is None and not operator.slots[min(index, len(operator.slots) - 1)].endswith("?"):
                raise ModelError(f"input {operator.slot(index)} is missing", hint="only slots with ? may be left out")
        type = operator.infer([n.type if n is not None else None for n in kept], complete)
    except ModelError as error:
        producers = ", ".join(f"%{n.name}: {n.type}" for n in kept if n is not None)
        message = f"{op} %{name}: {error.message}" + (f" (inputs {producers})" if producers else "")
        raise ModelError(message, hint=error.hint) from error
    return Node(name, op, tuple(n.name if n else None for n in kept), FrozenAttrs(complete), type, tuple(source))


def constant(name: str, value: Array | Tensor, *, source: Iterable[str] = ()) -> Node:
    """A constant node."""
    tensor = value if isinstance(value, Tensor) else Tensor(value)
    return Node(name, "constant", (), FrozenAttrs({"value": tensor}), tensor.type, tuple(source))


def graph_input(name: str, dtype: DType, shape: Sequence[Size]) -> Node:
    """An input node."""
    return make_node("input", name, (), {"dtype": dtype, "shape": tuple(shape)}, source=(name,))


@dataclass(frozen=True)
class Output:
    """A graph output: the name that callers see, and the node that computes it."""

    name: str
    node: str


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, named outputs, and a nominal value for each symbolic size.

    Nominal sizes serve where a number is needed before the real one is known: counts, selection, tuning.
    Raises ModelError from `Graph.build` for duplicate names, unknown inputs and cycles.
    """

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    dims: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def build(
        name: str, nodes: Iterable[Node], outputs: Iterable[Output | str], dims: Mapping[str, int] | None = None
    ) -> Graph:
        """A graph from nodes in any order, sorted topologically (keeping the given order where free) and checked."""
        from convc.ir.dag import ordered

        named = tuple(o if isinstance(o, Output) else Output(o, o) for o in outputs)
        graph = Graph(name, ordered(tuple(nodes)), named, ())
        used = sorted({s for n in graph.nodes for d in n.type.shape if isinstance(d, Dim) for s in d.symbols})
        known = dict(dims or {})
        graph = replace(graph, dims=tuple((s, known.get(s, 1)) for s in used))
        for output in named:
            if output.node not in graph:
                raise ModelError(f"output {output.name} names %{output.node}, which is no node", hint="check outputs")
        return graph

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _users(self) -> dict[str, tuple[str, ...]]:
        users: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.operands):
                users[name].append(node.name)
        return {name: tuple(found) for name, found in users.items()}

    def __getitem__(self, name: str) -> Node:
        try:
            return self._by_name[name]
        except KeyError:
            raise ModelError(f"graph {self.name} has no node %{name}", hint="see graph.nodes for the names") from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __len__(self) -> int:
        return len(self.nodes)

    def users(self, name: str) -> tuple[Node, ...]:
        """Nodes that read `name`, in order, each once."""
        return tuple(self._by_name[u] for u in self._users[name])

    def is_output(self, name: str) -> bool:
        return any(o.node == name for o in self.outputs)

    @property
    def inputs(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if n.op == "input")

    @property
    def constants(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if n.op == "constant")

    @property
    def operators(self) -> tuple[Node, ...]:
        """Nodes that compute: neither inputs nor constants."""
        return tuple(n for n in self.nodes if n.op not in {"input", "constant"})

    def operands(self, node: Node) -> tuple[Node | None, ...]:
        """The nodes in a node's slots."""
        return tuple(self._by_name[i] if i is not None else None for i in node.inputs)

    @property
    def nominal(self) -> dict[str, int]:
        return dict(self.dims)

    def node_macs(self, node: Node) -> Size:
        """Multiply-adds of one node, symbolic where sizes are."""
        types = [n.type if n is not None else None for n in self.operands(node)]
        return OPS[node.op].macs(types, node.type, node.attrs)

    def macs(self, **sizes: int) -> int:
        """Multiply-adds with weights of one inference, at nominal sizes unless others are given."""
        known = {**self.nominal, **sizes}
        return sum(concrete(self.node_macs(node), known) for node in self.operators)

    def parameters(self) -> int:
        """Elements of learnable constants, each constant counted once; BatchNormalization statistics are not learnt."""
        found: dict[str, int] = {}
        for node in self.operators:
            operator = OPS[node.op]
            for index, name in enumerate(node.inputs):
                if name is not None and operator.slot(index) in operator.weights:
                    source = self._by_name[name]
                    if source.op == "constant":
                        found[name] = concrete(source.type.elements, {})
        return sum(found.values())

    def weights(self) -> dict[str, Array]:
        """Constants by node name, as read-only arrays."""
        return {n.name: n.array for n in self.constants}

    def bind(self, **sizes: Size) -> Graph:
        """The graph with symbolic sizes replaced; types are inferred again."""
        made: dict[str, Node] = {}
        for node in self.nodes:
            attrs = {k: _bind_attr(v, sizes) for k, v in node.attrs.items()}
            inputs = [made[i] if i is not None else None for i in node.inputs]
            made[node.name] = (
                node if node.op == "constant" else make_node(node.op, node.name, inputs, attrs, source=node.source)
            )
        return Graph.build(self.name, made.values(), self.outputs, self.nominal)

    def __str__(self) -> str:
        from convc.ir.printer import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"Graph({self.name!r}, {len(self.operators)} operators, {len(self.constants)} constants)"


def _bind_attr(value: Any, sizes: Mapping[str, Size]) -> Any:
    if isinstance(value, tuple):
        return tuple(_bind_attr(v, sizes) for v in value)
    return bind(value, sizes) if isinstance(value, Dim) else value


__all__ = ["Activation", "FrozenAttrs", "Graph", "Node", "Output", "constant", "graph_input", "make_node"]
