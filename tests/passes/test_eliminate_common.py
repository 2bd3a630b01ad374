from __future__ import annotations

import numpy as np
from support import assert_rewrites, graph_of, run_pass

from convc.ir.graph import Graph, constant, graph_input, make_node
from convc.ir.parser import parse
from convc.passes import PASSES
from convc.types import DType, Tensor

PASS = PASSES["eliminate_common"]


def test_equal_operators_become_one() -> None:
    result = assert_rewrites(
        PASS,
        """
        %x = input : f32[1, 2, 4, 4]
        %w = constant normal(seed=1) : f32[2, 2, 3, 3]
        %w2 = constant normal(seed=1) : f32[2, 2, 3, 3]
        %a = conv2d(%x, %w) {padding=[1, 1, 1, 1]}
        %b = conv2d(%x, %w2) {padding=[1, 1, 1, 1]}
        %c = relu(%a)
        %d = relu(%b)
        %y = mul(%c, %d)
        return %y, %d
        """,
        """
        %x = input : f32[1, 2, 4, 4]
        %w = constant ... : f32[2, 2, 3, 3]
        %a = conv2d(%x, %w) {padding=[1, 1, 1, 1]} : f32[1, 2, 4, 4] from "a", "b"
        %c = relu(%a)
        %y = mul(%c, %c)
        return %y, %c as "d"
        """,
    )
    assert [(r.node, r.note) for r in result.rewrites] == [
        ("w2", "the same as %w"), ("b", "the same as %a"), ("d", "the same as %c"),
    ]  # fmt: skip


def test_attributes_inputs_and_bits_tell_apart() -> None:
    graph = graph_of(
        """
        %x = input : f32[4]
        %z = input : f32[4]
        %a = constant [0.0] : f32[1]
        %b = constant [-0.0] : f32[1]
        %i = constant [0] : i32[1]
        %j = constant [0] : i32[]
        %p = pad(%x) {before=[1], after=[1], value=0.0}
        %q = pad(%x) {before=[1], after=[1], value=-0.0}
        %r = relu(%x)
        %s = relu(%z)
        %c = sub(%x, %z)
        %d = sub(%z, %x)
        return %a, %b, %i, %j, %p, %q, %r, %s, %c, %d
        """
    )
    assert run_pass(PASS, graph).graph is graph


def test_equal_bits_of_nan_are_equal() -> None:
    assert_rewrites(
        PASS,
        """
        %x = input : f32[2]
        %a = constant [nan, 1.0] : f32[2]
        %b = constant [nan, 1.0] : f32[2]
        %c = add(%x, %a)
        %d = add(%x, %b)
        return %c, %d
        """,
        """
        %x = input : f32[2]
        %a = constant [nan, 1.0] : f32[2]
        %c = add(%x, %a)
        return %c, %c as "d"
        """,
    )


def test_constants_that_differ_outside_the_samples_stay_apart() -> None:
    one, two = np.zeros(10_000, np.float32), np.zeros(10_000, np.float32)
    two[9_998] = 1
    nodes = [graph_input("x", DType.F32, (10_000,)), constant("a", one), constant("b", two)]
    nodes += [make_node("add", "y", [nodes[0], nodes[1]]), make_node("add", "z", [nodes[0], nodes[2]])]
    graph = Graph.build("g", nodes, ["y", "z"])
    assert run_pass(PASS, graph).graph is graph


def test_nothing_is_hashed(monkeypatch) -> None:
    def refuse(self: Tensor) -> str:
        raise AssertionError("a digest was computed")

    graph = graph_of(
        """
        %a = constant normal(seed=1) : f32[1000]
        %b = constant normal(seed=2) : f32[1000]
        %y = add(%a, %b)
        return %y
        """
    )
    monkeypatch.setattr(Tensor, "digest", property(refuse))
    assert run_pass(PASS, graph).graph is graph


def test_constants_without_data_are_told_by_digest() -> None:
    text = str(
        graph_of(
            """
            %a = constant normal(seed=1) : f32[100]
            %b = constant normal(seed=1) : f32[100]
            %c = constant normal(seed=2) : f32[100]
            %y = concat(%a, %b, %c) {axis=0}
            return %y
            """
        )
    )
    result = run_pass(PASS, parse(text))
    assert result.graph["y"].inputs == ("a", "a", "c")
