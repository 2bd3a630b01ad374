from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import graph_of

from convc.errors import Error, LimitError, ModelError
from convc.ir.graph import FrozenAttrs, Graph, Node, Output
from convc.ir.verify import verify
from convc.limits import Limits
from convc.types import DType, TensorType

GRAPH = graph_of(
    """
    %x = input : f32[N, 4]
    %w = constant normal(seed=1) : f32[3, 4]
    %a = linear(%x, %w)
    %y = leaky_relu(%a)
    return %y
    """,
    "(N=2)",
)


def with_node(at: str, **changes: object) -> Graph:
    return replace(GRAPH, nodes=tuple(replace(n, **changes) if n.name == at else n for n in GRAPH.nodes))


def test_a_good_graph_passes() -> None:
    verify(GRAPH)
    verify(GRAPH, Limits())
    verify(GRAPH, known=GRAPH)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (with_node("a", name="w"), "two nodes are named %w"),
        (replace(GRAPH, nodes=GRAPH.nodes[::-1]), "leaky_relu %y reads %a, which comes after it"),
        (with_node("y", inputs=("b",)), "leaky_relu %y reads %b, which is no node"),
        (with_node("y", inputs=(None,)), "leaky_relu %y: input x is missing"),
        (with_node("a", inputs=("x", "w", "w", "w", "w")), "linear %a: linear got 5 inputs"),
        (with_node("y", op="leeky"), "unknown operator leeky for %y"),
        (
            with_node("y", attrs=FrozenAttrs({"alpha": "x"})),
            "leaky_relu %y: leaky_relu: alpha='x' is not of kind float",
        ),
        (with_node("y", attrs=FrozenAttrs({})), "leaky_relu %y: attributes alpha are not filled in"),
        (with_node("y", attrs=FrozenAttrs({"beta": 1.0})), "leaky_relu %y: leaky_relu has no attribute beta"),
        (with_node("y", type=TensorType(DType.F32, (1,))), "leaky_relu %y has type f32[1], inference gives f32[N, 3]"),
        (
            with_node("w", type=TensorType(DType.F32, (4, 3))),
            "constant %w has type f32[4, 3], inference gives f32[3, 4]",
        ),
        (replace(GRAPH, outputs=(Output("out", "z"),)), "output out names %z, which is no node"),
        (replace(GRAPH, outputs=(Output("o", "y"), Output("o", "a"))), "two outputs are named o"),
        (replace(GRAPH, dims=()), "input %x: f32[N, 4] needs a nominal size for N"),
    ],
)
def test_errors_name_the_node(graph: Graph, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        verify(graph)
    assert message in str(caught.value)
    assert caught.value.hint
    with pytest.raises(Error):
        verify(graph, known=GRAPH)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(nodes=3), "4 nodes, more than limits.nodes=3"),
        (Limits(tensor_bytes=40), "constant %w"),
        (Limits(model_bytes=47), "constants take 48 bytes"),
        (Limits(macs=23), "24 multiply-adds, more than limits.macs=23"),
    ],
)
def test_limits(limits: Limits, message: str) -> None:
    with pytest.raises(LimitError, match=message):
        verify(GRAPH, limits)


def test_shared_nodes_are_inferred_again_where_an_operand_changed() -> None:
    wider = graph_of("%x = input : f32[2, 4]\n%a = relu(%x)\nreturn %a")
    broken = replace(wider, nodes=(Node("x", "input", (), FrozenAttrs({"dtype": DType.F32, "shape": (3, 4)}),
                                        TensorType(DType.F32, (3, 4))), wider["a"]))  # fmt: skip
    with pytest.raises(ModelError, match=r"relu %a has type f32\[2, 4\], inference gives f32\[3, 4\]"):
        verify(broken, known=wider)


def test_data_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "ascontiguousarray", None)
    verify(GRAPH, Limits())
