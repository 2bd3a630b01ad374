"""What tests of graphs and passes share: text in, text out, and both executed."""

from __future__ import annotations

import numpy as np

from convc.interp import run_graph
from convc.ir.graph import Graph
from convc.ir.parser import parse
from convc.ir.printer import print_node
from convc.ir.verify import verify
from convc.limits import Limits
from convc.passes.base import Numerics, Pass, PassResult
from convc.passes.context import Context
from convc.types import Array

TOLERANCE = {Numerics.REASSOCIATES: 1e-5, Numerics.APPROXIMATE: 0.0}
"""Of the largest output magnitude, both graphs in float64; the rewritten weights are rounded to float32.

Approximate passes change nothing without a budget.
"""


def graph_of(body: str, dims: str = "") -> Graph:
    """A graph from its nodes and its return line."""
    return parse(f'graph "g" {dims} {{\n{body}\n}}')


def random_inputs(graph: Graph, seed: int = 0, **sizes: int) -> dict[str, Array]:
    """Normal floats, small integers, and coin flips, for each input."""
    random = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for node in graph.inputs:
        shape = node.type.concrete({**graph.nominal, **sizes})
        kind = node.type.dtype.numpy
        found[node.name] = (
            random.normal(size=shape).astype(kind)
            if node.type.dtype.is_float
            else random.integers(0, 2, shape).astype(kind)
        )
    return found


def assert_same_outputs(before: Graph, after: Graph, numerics: Numerics, seed: int = 0, **sizes: int) -> None:
    """Both graphs, run on random input, agree as far as `numerics` promises."""
    inputs = random_inputs(before, seed, **sizes)
    exact = numerics is Numerics.EXACT
    width = None if exact else "float64"
    if width is not None:
        inputs = {k: v.astype(np.float64) if np.issubdtype(v.dtype, np.floating) else v for k, v in inputs.items()}
    expected = run_graph(before, inputs, dtype=width)
    found = run_graph(after, inputs, dtype=width)
    assert list(found) == list(expected)
    for name, want in expected.items():
        got = found[name]
        assert got.dtype == want.dtype and got.shape == want.shape, name
        if exact:
            assert got.tobytes() == want.tobytes(), f"{name} differs in its bits"
        else:
            scale = max(1e-30, float(np.max(np.abs(want[np.isfinite(want)]), initial=0.0)))
            atol = TOLERANCE[numerics] * scale
            np.testing.assert_allclose(got, want, rtol=0, atol=atol, equal_nan=True, err_msg=name)


def run_pass(one: Pass, graph: Graph, limits: Limits | None = None) -> PassResult:
    """The pass's result, its graph verified."""
    result = one.run(graph, Context(limits or Limits()))
    verify(result.graph, known=None)
    return result


def assert_rewrites(one: Pass, before: str, after: str, *, rules: list[str] | None = None) -> PassResult:
    """The pass turns the graph of `before` into that of `after`, and both compute the same.

    In `after`, `...` stands for a constant's elements, and types and sources may be left out.
    """
    graph = graph_of(before)
    result = run_pass(one, graph)
    assert _lines(result.graph, after) == _wanted(after)
    assert_same_outputs(graph, result.graph, one.numerics)
    if rules is not None:
        assert [r.rule for r in result.rewrites] == rules
    again = run_pass(one, result.graph)
    assert not again.rewrites, "the pass has not reached its fixed point"
    return result


def assert_refuses(one: Pass, text: str, node: str, *reasons: str) -> PassResult:
    """The pass leaves the graph as it is, and says why at `node`, in words that hold all of `reasons`."""
    graph = graph_of(text)
    result = run_pass(one, graph)
    assert result.graph is graph, str(result.graph)
    found = [r.reason for r in result.refusals if r.node == node]
    assert any(all(part in reason for part in reasons) for reason in found), result.refusals
    return result


def _wanted(text: str) -> list[str]:
    lines = (line.split(" #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _lines(graph: Graph, like: str) -> list[str]:
    """The graph's lines, each with as much detail as the line of `like` that has its name."""
    wanted = {line.split(" = ")[0]: line for line in _wanted(like) if " = " in line}
    found: list[str] = []
    for node in graph.nodes:
        line = print_node(node)
        pattern = wanted.get(line.split(" = ")[0], "")
        if " from " not in pattern:
            line = line.split(" from ")[0]
        if node.op == "constant" and "constant ..." in pattern:
            line = f"{line.split(' = ')[0]} = constant ... : {node.type}"
        if node.op not in {"input", "constant"} and " : " not in pattern:
            line = line.replace(f" : {node.type}", "")
        found.append(line)
    last = str(graph).splitlines()[-2].strip()
    return [*found, last]
