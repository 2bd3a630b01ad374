"""Reads the textual form of a graph back (see `convc.ir.printer`), and a little more for writing tests by hand.

    %w = constant normal(seed=1, mean=0.0, std=0.1) : f32[8, 3, 3, 3]     also uniform(seed=1, low=0.0, high=1.0)
    %i = constant arange(start=0, step=1) : i64[4]                        also full(...) of any size
    %y = relu(%x)                                                         operators without type: it is inferred

Text is data: nothing in it is evaluated, sizes are checked against limits before anything is allocated, every regular
expression is linear, and nothing but sizes nests (to a bounded depth).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from convc.errors import LimitError, ModelError
from convc.ir.graph import Graph, Node, Output, graph_input, make_node
from convc.ir.literals import Literals
from convc.ir.scanner import INT
from convc.limits import Limits
from convc.ops import OPS
from convc.types import Activation, Array

_SIZE = re.compile(r"[^,}\n]*")


def parse(
    text: str, *, weights: Mapping[str, Array] | None = None, check: bool = True, limits: Limits | None = None
) -> Graph:
    """The graph that `text` describes.

    `weights` gives the elements of constants printed as a digest, by node name or by digest; without them such a
    constant has type and digest only. With `check`, elements are held against their digest.
    Raises ModelError with line and column, LimitError for more bytes or nodes than `limits` allows.
    """
    return _Parser(text, weights or {}, check, limits or Limits()).graph()


class _Parser(Literals):
    def __init__(self, text: str, weights: Mapping[str, Array], check: bool, limits: Limits) -> None:
        super().__init__(text, weights, check, limits)
        self.nodes: dict[str, Node] = {}

    def graph(self) -> Graph:
        if not self.keyword("graph"):
            self.fail("'graph'")
        name = self.string()
        dims: dict[str, int] = {}
        if self.accept("("):
            while not dims or self.accept(","):
                symbol = self.word("the name of a symbolic size")
                self.expect("=")
                dims[symbol] = int(self.take(INT, "an integer"))
            self.expect(")")
        self.expect("{")
        while not self.keyword("return"):
            self.node()
        outputs: list[Output] = []
        while (not outputs and self.peek("%")) or (outputs and self.accept(",")):
            start = self.skip()
            node = self.name()
            if node not in self.nodes:
                self.fail("a node defined above", at=start)
            outputs.append(Output(self.string() if self.keyword("as") else node, node))
        self.expect("}")
        if self.skip() < len(self.text):
            self.fail("the end of the text")
        return Graph.build(name, self.nodes.values(), outputs, dims)

    def node(self) -> None:
        start = self.skip()
        name = self.name()
        if name in self.nodes:
            self.fail("", at=start, found=f"%{name} is defined twice", hint="give each node its own name")
        if len(self.nodes) >= self.limits.nodes:
            raise LimitError(f"more than limits.nodes={self.limits.nodes} nodes", hint="raise limits.nodes")
        self.expect("=")
        at = self.skip()
        op = self.word("an operator")
        if op == "input":
            made = self.made(at, graph_input, name, *self.annotation())
        elif op == "constant":
            made = self.constant(name)
        elif op in OPS:
            made = self.operator(at, op, name)
        else:
            self.fail("an operator", at=at, hint="see convc.ops.OPS for the operators there are")
        source = [name]
        if self.keyword("from"):
            source = [self.string()]
            while self.accept(","):
                source.append(self.string())
        self.nodes[name] = Node(made.name, made.op, made.inputs, made.attrs, made.type, tuple(source))

    def made(self, at: int, make: Callable[..., Node], *args: Any) -> Node:
        try:
            return make(*args)
        except ModelError as error:
            self.fail("", at=at, found=error.message, hint=error.hint)

    def operator(self, at: int, op: str, name: str) -> Node:
        inputs: list[Node | None] = []
        self.expect("(")
        while (not inputs and not self.peek(")")) or (inputs and self.accept(",")):
            if self.accept("_"):
                inputs.append(None)
                continue
            start = self.skip()
            operand = self.name()
            if operand not in self.nodes:
                self.fail("a node defined above", at=start, found=f"found %{operand}")
            inputs.append(self.nodes[operand])
        self.expect(")")
        node = self.made(at, make_node, op, name, inputs, self.attributes(op) if self.peek("{") else None)
        if self.accept(":"):
            start = self.skip()
            declared = self.type()
            if declared != node.type:
                self.fail(str(node.type), at=start, found=f"%{name} is declared {declared}", hint="leave the type out")
        return node

    def attributes(self, op: str) -> dict[str, Any]:
        self.expect("{")
        found: dict[str, Any] = {}
        while not found or self.accept(","):
            at = self.skip()
            key = self.word("an attribute")
            attr = OPS[op].by_name.get(key)
            if attr is None:
                self.fail(f"an attribute of {op}", at=at, hint=f"it has: {', '.join(OPS[op].by_name) or 'none'}")
            if key in found:
                self.fail("", at=at, found=f"{key} is given twice")
            self.expect("=")
            found[key] = self.value(attr.kind)
        self.expect("}")
        return found

    def value(self, kind: str) -> Any:
        self.skip()
        if kind == "int":
            return int(self.take(INT, "an integer"))
        if kind == "float":
            return self.number()
        if kind == "str":
            return self.string()
        if kind == "bool":
            return self.boolean()
        if kind == "dtype":
            at = self.skip()
            return self.dtype(self.word("an element type"), at)
        if kind == "activation":
            return self.activation()
        if kind == "ints":
            return tuple(self.items(lambda: int(self.take(INT, "an integer"))))
        if kind == "floats":
            return tuple(self.items(self.number))
        if kind == "size":
            match = _SIZE.match(self.text, self.at)
            assert match is not None
            found = self.size(match.group().strip())
            self.at = match.end()
            return found
        if kind == "sizes":
            self.expect("[")
            end = self.text.find("]", self.at)
            sizes = self.shape(self.text[self.at : end if end >= 0 else self.at])
            self.at = max(end, self.at)
            self.expect("]")
            return sizes
        self.fail(f"no attribute of kind {kind} in a text")

    def boolean(self) -> bool:
        at = self.skip()
        word = self.word("true or false")
        if word not in {"true", "false"}:
            self.fail("true or false", at=at)
        return word == "true"

    def activation(self) -> Activation | None:
        name = self.word("an activation")
        if name == "none":
            return None
        params: list[float] = []
        if self.accept("("):
            while not params or self.accept(","):
                params.append(self.number())
            self.expect(")")
        return Activation(name, tuple(params))
