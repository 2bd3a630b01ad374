from __future__ import annotations

import pytest
from support import assert_refuses, assert_rewrites, assert_same_outputs, graph_of, run_pass

from convc.ops import activation_of
from convc.passes import PASSES, Numerics
from convc.passes.fuse_epilogue import EPILOGUES
from convc.types import Activation

PASS = PASSES["fuse_epilogue"]

PRODUCERS = [
    ("f32[2, 4, 6, 6]", "f32[4, 2, 3, 3]", "conv2d(%x, %w, %b) {groups=2, padding=[1, 1, 1, 1]}"),
    ("f32[2, 4, 6, 6]", "f32[4, 4, 1, 1]", "conv_transpose2d(%x, %w, %b)"),
    ("f32[2, 4]", "f32[4, 4]", "linear(%x, %w)"),
]


@pytest.mark.parametrize("op", sorted(EPILOGUES))
@pytest.mark.parametrize(("x", "w", "conv"), PRODUCERS)
def test_activations_go_into_what_they_follow(op: str, x: str, w: str, conv: str) -> None:
    graph = graph_of(
        f"""
        %x = input : {x}
        %w = constant normal(seed=1) : {w}
        %b = constant normal(seed=2) : f32[4]
        %c = {conv}
        %y = {op}(%c)
        return %y
        """
    )
    result = run_pass(PASS, graph)
    (fused,) = result.graph.operators
    assert fused.name == "c"
    assert fused.attrs["activation"] == activation_of(op, graph["y"].attrs)
    assert_same_outputs(graph, result.graph, Numerics.EXACT)


def test_parameters_travel_with_the_activation() -> None:
    assert_rewrites(
        PASS,
        """
        %x = input : f32[1, 3, 5, 5]
        %w = constant normal(seed=1) : f32[4, 3, 3, 3]
        %v = constant normal(seed=2) : f32[4, 4, 1, 1]
        %conv = conv2d(%x, %w)
        %a = clip(%conv) {min=0.0, max=6.0}
        %two = conv2d(%a, %v)
        %y = gelu(%two) {approximate="tanh"}
        return %y
        """,
        """
        %x = input : f32[1, 3, 5, 5]
        %w = constant ... : f32[4, 3, 3, 3]
        %v = constant ... : f32[4, 4, 1, 1]
        %conv = conv2d(%x, %w) {activation=clip(0.0, 6.0)}
        %two = conv2d(%conv, %v) {activation=gelu(1.0)}
        return %two as "y"
        """,
        rules=["fuse_activation", "fuse_activation"],
    )


BLOCK = """
    %x = input : f32[1, 4, 5, 5]
    %w = constant normal(seed=1) : f32[4, 4, 3, 3]
    """


def test_residual_then_activation() -> None:
    assert_rewrites(
        PASS,
        BLOCK
        + """
        %a = conv2d(%x, %w) {padding=[1, 1, 1, 1]}
        %r = relu(%a)
        %b = conv2d(%r, %w) {padding=[1, 1, 1, 1]}
        %s = add(%x, %b)
        %y = relu(%s)
        return %y
        """,
        """
        %x = input : f32[1, 4, 5, 5]
        %w = constant ... : f32[4, 4, 3, 3]
        %a = conv2d(%x, %w) {padding=[1, 1, 1, 1], activation=relu}
        %b = conv2d(%a, %w, _, %x) {padding=[1, 1, 1, 1], activation=relu}
        return %b as "y"
        """,
        rules=["fuse_activation", "fuse_residual", "fuse_activation"],
    )


def test_of_two_convolutions_the_later_one_adds() -> None:
    assert_rewrites(
        PASS,
        BLOCK
        + """
        %a = conv2d(%x, %w)
        %b = conv2d(%x, %w) {stride=[1, 1]}
        %s = add(%b, %a)
        return %s
        """,
        """
        %x = input : f32[1, 4, 5, 5]
        %w = constant ... : f32[4, 4, 3, 3]
        %a = conv2d(%x, %w)
        %b = conv2d(%x, %w, _, %a)
        return %b as "s"
        """,
    )


def test_the_earlier_one_adds_where_the_later_cannot() -> None:
    assert_rewrites(
        PASS,
        BLOCK
        + """
        %a = conv2d(%x, %w)
        %b = conv2d(%x, %w)
        %t = tanh(%b)
        %s = add(%a, %b)
        return %s, %t
        """,
        """
        %x = input : f32[1, 4, 5, 5]
        %w = constant ... : f32[4, 4, 3, 3]
        %b = conv2d(%x, %w)
        %a = conv2d(%x, %w, _, %b)
        %t = tanh(%b)
        return %a as "s", %t
        """,
    )


def test_three_branches_make_a_chain() -> None:
    result = assert_rewrites(
        PASS,
        BLOCK
        + """
        %a = conv2d(%x, %w)
        %b = conv2d(%x, %w)
        %c = conv2d(%x, %w)
        %s = add(%a, %b)
        %t = add(%s, %c)
        %y = relu(%t)
        return %y
        """,
        """
        %x = input : f32[1, 4, 5, 5]
        %w = constant ... : f32[4, 4, 3, 3]
        %a = conv2d(%x, %w)
        %b = conv2d(%x, %w, _, %a)
        %c = conv2d(%x, %w, _, %b) {activation=relu}
        return %c as "y"
        """,
    )
    assert not result.refusals


@pytest.mark.parametrize(
    ("body", "node", "reason"),
    [
        ("%a = conv2d(%x, %w)\n%y = relu(%a)\n%t = tanh(%a)\nreturn %y, %t", "y", "%a also feeds %t"),
        ("%a = conv2d(%x, %w)\n%y = relu(%a)\nreturn %y, %a", "y", "%a is an output"),
        ("%a = conv2d(%x, %w) {activation=relu}\n%y = tanh(%a)\nreturn %y", "y", "%a applies relu already"),
        ("%a = conv2d(%x, %w)\n%y = exp(%a)\nreturn %y", "y", "exp is no epilogue"),
        ("%a = conv2d(%x, %w) {activation=relu}\n%n = neg(%x)\n%y = add(%a, %z)\nreturn %y, %n", "y",
         "%a applies relu before the sum"),
        ("%a = conv2d(%x, %w, _, %z)\n%y = add(%a, %z)\nreturn %y", "y", "%a adds %z already"),
        ("%a = conv2d(%x, %w)\n%y = add(%a, %v)\nreturn %y", "y", "broadcast"),
        ("%a = conv2d(%x, %w)\n%y = add(%a, %a)\nreturn %y", "y", "it adds %a to itself"),
        ("%a = conv2d(%x, %w)\n%n = neg(%a)\n%y = add(%a, %n)\nreturn %y", "y", "%a also feeds %n"),
        ("%a = conv2d(%x, %w)\n%y = add(%a, %z)\nreturn %y, %a", "y", "%a is an output"),
        ("%a = conv2d(%x, %w)\n%b = conv2d(%x, %w)\n%y = add(%a, %b)\nreturn %y, %a, %b", "y",
         "%b is an output of the graph; %a is an output"),
    ],
)  # fmt: skip
def test_refusals(body: str, node: str, reason: str) -> None:
    head = BLOCK + "%z = input : f32[1, 4, 3, 3]\n%v = input : f32[4, 1, 1]\n"
    assert_refuses(PASS, head + body, node, reason)


def test_a_refusal_that_later_succeeds_is_dropped() -> None:
    result = run_pass(
        PASS,
        graph_of(
            BLOCK
            + """
            %a = conv2d(%x, %w)
            %b = conv2d(%x, %w)
            %r = relu(%b)
            %s = add(%a, %r)
            %y = relu(%s)
            return %y
            """
        ),
    )
    assert not result.refusals
    assert result.graph["a"].attrs["activation"] == Activation("relu")
