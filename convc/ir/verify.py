"""Checks that a graph is what every later stage takes for granted."""

from __future__ import annotations

from convc.dims import Dim, concrete
from convc.errors import LimitError, ModelError
from convc.ir.graph import Graph, Node
from convc.limits import Limits
from convc.ops import OPS
from convc.types import Tensor


def verify(graph: Graph, limits: Limits | None = None, *, known: Graph | None = None) -> None:
    """Raise ModelError, naming the node, where the graph is not well formed.

    Names are unique, operands come before their users, attributes are complete and of their kind, types are those
    that inference gives, outputs exist and have different names, symbolic sizes have nominal values.
    With `limits`, also LimitError for too many nodes, too large tensors or too many multiply-adds at nominal sizes.
    `known` is a verified graph: nodes shared with it, on operands of the same type, are not inferred again.
    """
    seen: dict[str, Node] = {}
    nominal = graph.nominal
    sized: set[str] = {name for name, value in graph.dims if value >= 0}
    for node in graph.nodes:
        if node.name in seen:
            raise ModelError(f"two nodes are named %{node.name}", hint="give each node its own name")
        for name in node.operands:
            if name not in seen:
                where = "comes after it" if name in graph else "is no node"
                raise ModelError(f"{node} reads %{name}, which {where}", hint="use Graph.build, which sorts nodes")
        if known is None or not _shared(node, seen, known):
            _check_node(node, seen)
        for size in node.type.shape:
            if isinstance(size, Dim) and not size.symbols <= sized:
                missing = ", ".join(sorted(size.symbols - sized))
                raise ModelError(f"{node}: {node.type} needs a nominal size for {missing}", hint="use Graph.build")
        seen[node.name] = node
        if limits is not None:
            limits.check_tensor(str(node), node.type, nominal)
    names: set[str] = set()
    for output in graph.outputs:
        if output.node not in seen:
            raise ModelError(f"output {output.name} names %{output.node}, which is no node", hint="check outputs")
        if output.name in names:
            raise ModelError(f"two outputs are named {output.name}", hint="give each output its own name")
        names.add(output.name)
    if limits is not None:
        _check_totals(graph, limits)


def _shared(node: Node, seen: dict[str, Node], known: Graph) -> bool:
    if node.name not in known or known[node.name] is not node:
        return False
    return all(seen[name].type == known[name].type for name in node.operands)


def _check_node(node: Node, seen: dict[str, Node]) -> None:
    operator = OPS.get(node.op)
    if operator is None:
        raise ModelError(f"unknown operator {node.op} for %{node.name}", hint="see convc.ops.OPS")
    try:
        operator.check_arity(len(node.inputs))
        complete = operator.complete(node.attrs)
        for index, name in enumerate(node.inputs):
            if name is None and not operator.slots[min(index, len(operator.slots) - 1)].endswith("?"):
                raise ModelError(f"input {operator.slot(index)} is missing", hint="only slots with ? may be left out")
        if set(complete) != set(node.attrs):
            missing = ", ".join(sorted(set(complete) - set(node.attrs)))
            raise ModelError(f"attributes {missing} are not filled in", hint="use make_node")
        if node.op == "constant":
            value: Tensor = node.attrs["value"]
            expected = value.type
        else:
            expected = operator.infer([seen[i].type if i is not None else None for i in node.inputs], complete)
    except ModelError as error:
        raise ModelError(f"{node}: {error.message}", hint=error.hint or "use make_node") from error
    if expected != node.type:
        raise ModelError(f"{node} has type {node.type}, inference gives {expected}", hint="use make_node")


def _check_totals(graph: Graph, limits: Limits) -> None:
    if len(graph) > limits.nodes:
        raise LimitError(f"{len(graph)} nodes, more than limits.nodes={limits.nodes}", hint="raise limits.nodes")
    total = sum(node.type.dtype.bytes * concrete(node.type.elements, {}) for node in graph.constants)
    if total > limits.model_bytes:
        raise LimitError(
            f"constants take {total} bytes, more than limits.model_bytes={limits.model_bytes}",
            hint="raise convc.Limits(model_bytes=...)",
        )
    macs = graph.macs()
    if macs > limits.macs:
        raise LimitError(f"{macs} multiply-adds, more than limits.macs={limits.macs}", hint="raise limits.macs")
