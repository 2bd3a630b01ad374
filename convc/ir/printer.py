"""The textual form of a graph. `convc.ir.parser` reads it back, the same to the bit.

```
graph "tiny" (N=1) {
  %x = input : f32[N, 3, 8, 8]
  %w = constant sha256:9f.. : f32[8, 3, 3, 3]     a constant's elements stay outside the text,
  %b = constant full(0.0) : f32[64]               unless all are the same,
  %s = constant [0.5, nan] : f32[2]               or there are at most 16
  %y = conv2d(%x, %w, _, %r) {padding=[1, 1, 1, 1], activation=clip(0.0, 6.0)} : f32[N, 8, 8, 8] from "Conv_0"
  return %y as "logits"
}
```
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from convc.ir.graph import Graph, Node
from convc.ops import OPS
from convc.ops.base import REQUIRED
from convc.types import Array, DType, Tensor

INLINE_ELEMENTS = 16
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.$/:-]+")


def print_graph(graph: Graph) -> str:
    """The textual form of a graph."""
    sizes = ", ".join(f"{symbol}={value}" for symbol, value in graph.dims)
    head = f"graph {quote(graph.name)} " + (f"({sizes}) " if sizes else "") + "{"
    lines = [head, *(f"  {print_node(node)}" for node in graph.nodes)]
    outputs = (print_name(o.node) + (f" as {quote(o.name)}" if o.name != o.node else "") for o in graph.outputs)
    lines.append(f"  return {', '.join(outputs)}".rstrip())
    return "\n".join([*lines, "}"])


def print_node(node: Node) -> str:
    """One node's line, without indentation."""
    if node.op == "input":
        body = "input"
    elif node.op == "constant":
        body = f"constant {print_tensor(node.value)}"
    else:
        inputs = ", ".join("_" if name is None else print_name(name) for name in node.inputs)
        attrs = print_attrs(node)
        body = f"{node.op}({inputs})" + (f" {{{attrs}}}" if attrs else "")
    line = f"{print_name(node.name)} = {body} : {node.type}"
    if node.source and node.source != (node.name,):
        line += " from " + ", ".join(map(quote, node.source))
    return line


def print_name(name: str) -> str:
    """`%name`, quoted where it is not plain."""
    return f"%{name}" if PLAIN_NAME.fullmatch(name) else f"%{quote(name)}"


def quote(text: str) -> str:
    """A string literal, with JSON's escapes."""
    return json.dumps(text)


def print_attrs(node: Node) -> str:
    """The attributes that differ from their defaults, as `name=value` pairs."""
    found: list[str] = []
    for attr in OPS[node.op].attrs:
        text = print_value(node.attrs[attr.name])
        if attr.default is REQUIRED or text != print_value(attr.default):
            found.append(f"{attr.name}={text}")
    return ", ".join(found)


def print_value(value: Any) -> str:
    """An attribute's value: float as the shortest text that reads back the same, str quoted, the rest by `str`."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(print_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return quote(value)
    return "none" if value is None else str(value)


def print_tensor(tensor: Tensor) -> str:
    """A constant's elements where they are few or all the same, its digest otherwise."""
    if not tensor.present:
        return tensor.digest
    array = tensor.array
    if array.size <= INLINE_ELEMENTS:
        return f"[{', '.join(_elements(array.reshape(-1), tensor.type.dtype))}]"
    if is_uniform(array):
        return f"full({_elements(array.reshape(-1)[:1], tensor.type.dtype)[0]})"
    return tensor.digest


def is_uniform(array: Array) -> bool:
    """Whether all elements have the same bits."""
    bits = array.reshape(-1).view(f"u{array.itemsize}")
    return bool((bits[:64] == bits[0]).all() and bits[-1] == bits[0] and (bits == bits[0]).all())


def _elements(array: Array, dtype: DType) -> list[str]:
    if not dtype.is_float:
        return [print_value(v) for v in array.tolist()]
    texts = [str(v) for v in array]
    back = np.array([float(t) for t in texts], array.dtype)
    bits, read = array.view(f"u{array.itemsize}"), back.view(f"u{array.itemsize}")
    for index in np.nonzero(bits != read)[0]:
        # A NaN with a payload; or digits that are the shortest for float32 but round twice on their way through double.
        value = array[index]
        texts[index] = f"nan(0x{int(bits[index]):x})" if np.isnan(value) else repr(float(value))
    return texts
