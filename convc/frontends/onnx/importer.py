"""From a loaded model to a Graph: structure checks, order, one importer call a node."""

from __future__ import annotations

import heapq
from collections import ChainMap, Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import onnx

from convc.errors import Error, LimitError, ModelError
from convc.frontends.onnx.context import Builder, Call, Value
from convc.frontends.onnx.inputs import declare_inputs, nominal_sizes
from convc.frontends.onnx.known import Known, UnknownError
from convc.frontends.onnx.load import Loaded, Source, load
from convc.frontends.onnx.table import EVALUATORS, IMPORTERS
from convc.frontends.onnx.tensors import TensorReader
from convc.ir.graph import Graph, Node, Output
from convc.limits import Limits
from convc.types import DType

ONNX_DOMAINS = {"", "ai.onnx"}
Scope = MutableMapping[str, Value]
InputShapes = Mapping[str, Sequence[int | str | None]]


def import_onnx(source: Source, *, input_shapes: InputShapes | None, limits: Limits) -> Graph:
    """The work of `convc.frontends.onnx.load_onnx`."""
    loaded = load(source, limits)
    proto = loaded.model.graph
    check_operators(proto.node, loaded)
    check_structure(proto, loaded.label)
    builder = Builder(limits, loaded.opset, TensorReader(limits, loaded.raw, loaded.folder))
    builder.reserved.update(o for n in _all_nodes(proto.node) for o in n.output)
    builder.reserved.update(v.name for v in (*proto.input, *proto.initializer, *proto.output))
    scope: Scope = {}
    order = _sorted(proto.node)
    declare_inputs(builder, proto, scope, input_shapes or {}, nominal_sizes(loaded.model))
    live = _live(order, [o.name for o in proto.output])
    _declare_weights(builder, proto, scope, live)
    for node in live:
        import_node(builder, node, scope)
    outputs = [Output(o.name, _output(builder, o.name, scope).name) for o in proto.output]
    graph = Graph.build(proto.name or "main", builder.nodes.values(), outputs, builder.nominal)
    macs = graph.macs()
    if macs > limits.macs:
        raise LimitError(
            f"{loaded.label} takes {macs} multiply-adds, more than limits.macs={limits.macs}",
            hint="use smaller sizes, or raise convc.Limits(macs=...)",
        )
    return graph


def check_operators(nodes: Sequence[onnx.NodeProto], loaded: Loaded) -> None:
    """Raise ModelError that lists every operator convc does not know, each with the first node that uses it."""
    unknown: dict[str, list[str]] = {}
    for node in nodes:
        known = node.domain in ONNX_DOMAINS and (node.op_type in IMPORTERS or node.op_type == "If")
        if not known:
            name = node.op_type if node.domain in ONNX_DOMAINS else f"{node.domain}::{node.op_type}"
            unknown.setdefault(name, []).append(_label(node))
    if unknown:
        texts = [
            f"{op} ({names[0]}{f' and {len(names) - 1} more' if names[1:] else ''})" for op, names in unknown.items()
        ]
        raise ModelError(
            f"{loaded.label} uses operators that are not supported: {', '.join(texts)}",
            hint="simplify the model before export (no control flow, no quantisation or training operators)",
        )


def check_structure(graph: onnx.GraphProto, label: str) -> None:
    """Raise ModelError where names clash, something is undefined in kind, or the graph computes nothing."""
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelError(f"{label}: weight {name} is a sparse tensor, which is not supported", hint="store it dense")
    if not graph.output:
        raise ModelError(f"{label} has no outputs", hint="check the exporter")
    weights = {t.name for t in graph.initializer}
    sources = [(t.name, "weight") for t in graph.initializer]
    sources += [(i.name, "input") for i in graph.input if i.name not in weights]
    sources += [(o, f"output of {_label(n)}") for n in graph.node for o in n.output if o]
    seen: dict[str, str] = {}
    for name, what in sources:
        if not name:
            raise ModelError(f"{label}: a {what} has no name", hint="check the exporter")
        if name in seen:
            raise ModelError(
                f"{label}: two values are named {name}: {seen[name]}, and {what}", hint="each value needs its own name"
            )
        seen[name] = what
    names = Counter(o.name for o in graph.output)
    for name, count in names.items():
        if name not in seen:
            raise ModelError(f"{label}: output {name} is computed by no node", hint="a part of the model is missing")
        if count > 1:
            raise ModelError(f"{label}: output {name} is listed twice", hint="list each output once")


def import_node(builder: Builder, proto: onnx.NodeProto, scope: Scope) -> None:
    """Put a node's outputs into `scope`. Errors are raised with the node's operator and name."""
    try:
        if proto.op_type == "If":
            _take_branch(builder, proto, scope)
            return
        _check_attributes(proto, builder.opset)
        call = Call(builder, proto, scope)
        evaluate = EVALUATORS.get(proto.op_type)
        if evaluate is not None:
            try:
                found = evaluate(call)
                if isinstance(found, Value):
                    scope[proto.output[0]] = found
                else:
                    values = [found] if isinstance(found, Known) else list(found)
                    if proto.op_type != "Constant":  # its elements are counted as weights
                        builder.charge(f"the value {call.output}", sum(v.array.size for v in values), DType.I64)
                    _bind(call, values, scope)
                return
            except UnknownError:
                pass
        result = IMPORTERS[proto.op_type](call)
        _bind(call, [result] if isinstance(result, (Node, Known)) else list(result), scope)
    except Error as error:
        where = f"{proto.op_type} {_label(proto)}: "
        if error.message.startswith(where):
            raise
        raise type(error)(where + error.message, hint=error.hint) from error
    except (ValueError, IndexError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"{proto.op_type} {_label(proto)}: its inputs or attributes do not fit together: {error}",
            hint="check the model with onnx.checker",
        ) from error


def _bind(call: Call, results: Sequence[Node | Known | None], scope: Scope) -> None:
    for index, name in enumerate(call.proto.output):
        if not name:
            continue
        result = results[index] if index < len(results) else None
        if result is None:
            scope[name] = Value(name, origin=f"output {index} of {call.op} {_label(call.proto)}")
        elif isinstance(result, Known):
            scope[name] = Value(name, known=result)
        else:
            scope[name] = Value(name, call.finish(result, name))


def _output(builder: Builder, name: str, scope: Scope) -> Node:
    try:
        return builder.materialise(scope[name])
    except Error as error:
        raise type(error)(f"output {name}: {error.message}", hint=error.hint) from error


def _check_attributes(proto: onnx.NodeProto, opset: int) -> None:
    """Raise ModelError for attributes that the operator does not have in this opset."""
    try:
        schema: Any = onnx.defs.get_schema(proto.op_type, opset, "")
    except Exception as error:  # onnx.defs.SchemaError is not exported by every version
        raise ModelError(f"the operator does not exist in opset {opset}", hint="export with another opset") from error
    seen: set[str] = set()
    for attribute in proto.attribute:
        name = attribute.name
        if name not in schema.attributes:
            raise ModelError(
                f"attribute {name} is not supported in opset {opset}",
                hint=f"it has: {', '.join(sorted(schema.attributes)) or 'none'}",
            )
        if name in seen:
            raise ModelError(f"attribute {name} is given twice", hint="give it once")
        seen.add(name)
        if attribute.ref_attr_name:
            raise ModelError(f"attribute {name} refers to a function's attribute", hint="inline functions first")
        if attribute.type != int(schema.attributes[name].type):
            raise ModelError(
                f"attribute {name} has another type than {str(schema.attributes[name].type).rpartition('.')[2]}",
                hint="check the exporter",
            )


def _take_branch(builder: Builder, proto: onnx.NodeProto, scope: Scope) -> None:
    """If with a condition known at import: the nodes of its branch."""
    condition = Call(builder, proto, scope).known(0)
    if condition is None or condition.symbolic or condition.array.size != 1:
        raise ModelError(
            "operator If is not supported where its condition is computed at run time",
            hint="export without control flow, or fix the condition",
        )
    wanted = "then_branch" if condition.array.reshape(())[()] else "else_branch"
    branch = next((a.g for a in proto.attribute if a.name == wanted), None)
    if branch is None or len(branch.output) != len(proto.output):
        raise ModelError(f"{wanted} is missing or has other outputs than the node", hint="check the exporter")
    check_operators(branch.node, Loaded(onnx.ModelProto(), label=f"its {wanted}"))
    inner: Scope = ChainMap({}, scope)
    live = _live(_sorted(branch.node), [o.name for o in branch.output])
    _declare_weights(builder, branch, inner, live, top=False)
    for node in live:
        import_node(builder, node, inner)
    for outer, result in zip(proto.output, branch.output, strict=True):
        if result.name not in inner:
            raise ModelError(f"{wanted} does not compute {result.name}", hint="check the exporter")
        if outer:
            scope[outer] = inner[result.name]


def _declare_weights(
    builder: Builder, graph: onnx.GraphProto, scope: Scope, live: Sequence[onnx.NodeProto], *, top: bool = True
) -> None:
    """Read the initializers that something uses."""
    used = {name for node in _all_nodes(live) for name in node.input} | {o.name for o in graph.output}
    for tensor in graph.initializer:
        if tensor.name in used:
            array = builder.reader.read(tensor, f"weight {tensor.name}", initializer=top)
            scope[tensor.name] = Value(tensor.name, known=Known.of(array))


def _label(node: onnx.NodeProto) -> str:
    return str(node.name or next((o for o in node.output if o), "without a name"))


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of their subgraphs."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for graph in _subgraphs(node):
            waiting.extend(graph.node)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node or its subgraphs read."""
    names = {name for inner in _all_nodes([node]) for name in inner.input if name}
    return names | {o.name for graph in _subgraphs(node) for o in graph.output}


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes in topological order, keeping the file's where it is free. Raises ModelError that names a cycle."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [{producer[name] for name in _reads(node) if name in producer} for node in nodes]
    users: list[list[int]] = [[] for _ in nodes]
    for index, sources in enumerate(needs):
        for source in sources:
            users[source].append(index)
    waiting = [len(sources) for sources in needs]
    ready = [index for index, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        at = next(index for index, count in enumerate(waiting) if count)
        path: list[int] = []
        while at not in path:
            path.append(at)
            at = next(source for source in sorted(needs[at]) if waiting[source])
        cycle = [*path[path.index(at) :], at]
        texts = " -> ".join(_label(nodes[i]) for i in reversed(cycle))
        raise ModelError(f"the graph has a cycle: {texts}", hint="a network must be acyclic; unroll loops")
    return [nodes[index] for index in order]


def _live(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in the same order."""
    wanted = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            wanted |= _reads(node)
            kept.append(node)
    return kept[::-1]
