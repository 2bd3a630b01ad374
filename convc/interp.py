"""Runs a Graph in NumPy: the reference that every pass and backend is compared with, in float64 where asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from convc.dims import bind
from convc.errors import Error, InputError, ModelError
from convc.ir.graph import Graph, Node
from convc.ops import OPS
from convc.types import Array, DType, TensorType

Width = Literal["float32", "float64"]


def run_graph(
    graph: Graph,
    inputs: Mapping[str, npt.ArrayLike],
    *,
    dtype: Width | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """Outputs by their public names, from inputs by name.

    With `dtype`, all floating inputs, constants and values are carried in that type, f16 and f32 included; casts from
    one floating type to another then do nothing. Symbolic sizes follow from the inputs' shapes; `sizes` gives those
    that do not. Outputs are new arrays. Raises InputError that names the input and what was found and expected.
    """
    bound, given = _prepare(graph, inputs, sizes or {}, dtype)
    uses = dict.fromkeys((node.name for node in bound.nodes), 0)
    for node in bound.nodes:
        for name in set(node.operands):
            uses[name] += 1
    for output in bound.outputs:
        uses[output.node] += 1

    def free(node: Node, values: dict[str, Array]) -> None:
        for name in set(node.operands):
            uses[name] -= 1
            if not uses[name]:
                del values[name]
        if not uses[node.name]:
            del values[node.name]

    values = _run(bound, given, dtype, free)
    return {output.name: np.array(values[output.node], order="C") for output in bound.outputs}


def run_nodes(
    graph: Graph,
    inputs: Mapping[str, npt.ArrayLike],
    *,
    dtype: Width | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """The value of every node by node name, computed as `run_graph` does. Values may be views of one another."""
    bound, given = _prepare(graph, inputs, sizes or {}, dtype)
    return _run(bound, given, dtype, lambda node, values: None)


def evaluate_node(node: Node, arrays: Sequence[Array | None]) -> Array:
    """The value of one node without symbolic sizes; division by zero and overflow give infinity and NaN silently.

    Raises the operator's error, with the node's name put before it.
    """
    try:
        with np.errstate(all="ignore"):
            return np.asarray(OPS[node.op].evaluate(arrays, node.attrs))
    except Error as error:
        raise type(error)(f"{node}: {error.message}", hint=error.hint) from error


def bind_sizes(inputs: Sequence[Node], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Values of the symbols that are sizes of the inputs. Raises InputError where ranks or sizes disagree."""
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    for node in inputs:
        shape = tuple(shapes[node.name])
        if len(shape) != node.type.rank:
            raise _misfit(node, shape, f"give {node.type.rank} axes")
        for axis, (size, found) in enumerate(zip(node.type.shape, shape, strict=True)):
            symbol = str(size)
            if isinstance(size, int) or size.symbols != {symbol}:
                continue
            if sizes.setdefault(symbol, found) != found:
                raise _misfit(node, shape, f"{symbol} is {sizes[symbol]} in {origin[symbol]}")
            origin.setdefault(symbol, f"axis {axis} of input {node.name}")
    for node in inputs:
        shape = tuple(shapes[node.name])
        for size, found in zip(node.type.shape, shape, strict=True):
            expected = bind(size, sizes)
            if isinstance(expected, int) and expected != found:
                raise _misfit(node, shape, "resize the input, or compile with input_shapes=")
    return sizes


def _misfit(node: Node, shape: tuple[int, ...], hint: str) -> InputError:
    found = f"[{', '.join(map(str, shape))}]"
    return InputError(f"input {node.name} has shape {found}, expected {node.type}", hint=hint)


def _prepare(
    graph: Graph, inputs: Mapping[str, npt.ArrayLike], sizes: Mapping[str, int], dtype: Width | None
) -> tuple[Graph, dict[str, Array]]:
    """The graph with its sizes bound, and the inputs as checked arrays."""
    expected = ", ".join(f"{n.name}: {n.type}" for n in graph.inputs) or "none"
    names = {node.name for node in graph.inputs}
    for name in inputs:
        if name not in names:
            raise InputError(f"{graph.name} has no input {name}", hint=f"its inputs are {expected}")
    arrays: dict[str, Array] = {}
    for node in graph.inputs:
        if node.name not in inputs:
            raise InputError(f"input {node.name}: {node.type} is missing", hint=f"the inputs are {expected}")
        arrays[node.name] = _checked(node, np.asarray(inputs[node.name]), dtype)
    found = {**sizes, **bind_sizes(graph.inputs, {name: a.shape for name, a in arrays.items()})}
    free = {s for node in graph.nodes for d in node.type.shape if not isinstance(d, int) for s in d.symbols}
    if not free:
        return graph, arrays
    text = ", ".join(f"{s}={v}" for s, v in sorted(found.items()))
    if free - set(found):
        raise InputError(
            f"the inputs do not determine the sizes {', '.join(sorted(free - set(found)))}", hint="give sizes={...}"
        )
    try:
        bound = graph.bind(**found)
    except ModelError as error:
        raise InputError(f"{graph.name} does not take sizes {text}: {error.message}", hint=error.hint) from error
    for node in bound.inputs:
        if node.type.shape != arrays[node.name].shape:
            raise _misfit(node, arrays[node.name].shape, f"sizes are {text}")
    return bound, arrays


def _checked(node: Node, array: Array, dtype: Width | None) -> Array:
    """`array` in native byte order. Raises InputError unless it has the dtype of the input, or, where
    floating, the one in which the run carries its values.
    """
    expected = node.type.dtype
    hint = f"convert with .astype({expected.numpy.name!r})"
    try:
        found = DType.of(array)
    except ModelError as error:
        raise InputError(f"input {node.name} has dtype {array.dtype}, expected {expected}", hint=hint) from error
    carried = expected.is_float and found.numpy == np.dtype(dtype or expected.numpy)
    if found is not expected and not carried:
        raise InputError(f"input {node.name} has dtype {found}, expected {expected}", hint=hint)
    return array.astype(found.numpy, copy=False)


def _run(
    graph: Graph, inputs: Mapping[str, Array], dtype: Width | None, after: Callable[[Node, dict[str, Array]], None]
) -> dict[str, Array]:
    """Values of the nodes, `after` being called behind each; it may drop values that no later node needs."""
    width = None if dtype is None else np.dtype(dtype)
    values: dict[str, Array] = {}
    for node in graph.nodes:
        kind = width if width is not None and node.type.dtype.is_float else node.type.dtype.numpy
        if node.op == "input":
            value = inputs[node.name]
        elif node.op == "cast" and width is not None and node.type.dtype.is_float:
            value = values[node.operands[0]]
        else:
            value = evaluate_node(node, [None if name is None else values[name] for name in node.inputs])
        if value.shape != node.type.shape:
            found = TensorType(node.type.dtype, value.shape)
            raise ModelError(f"{node} gave {found}, expected {node.type}", hint="report this: its shape rule is wrong")
        # In C order, since the order of sums in NumPy and BLAS follows strides: equal values must give equal bits.
        values[node.name] = np.asarray(value, kind, order="C")
        after(node, values)
    return values
