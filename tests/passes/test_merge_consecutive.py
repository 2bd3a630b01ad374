from __future__ import annotations

import itertools

import pytest
from support import assert_refuses, assert_rewrites, assert_same_outputs, graph_of, run_pass

from convc.passes import PASSES, Numerics
from convc.passes.context import Context

PASS = PASSES["merge_consecutive"]


def net(first: str, second: str, a: str, b: str, more: str = "", outputs: str = "%y", x: str = "[2, 4, 9, 8]") -> str:
    return f"""
        %x = input : f32{x}
        %a = constant normal(seed=1) : f32{a}
        %b = constant normal(seed=2) : f32{b}
        %c = constant normal(seed=3) : f32[{a[1:].split(",")[0]}]
        %d = constant normal(seed=4) : f32[{b[1:].split(",")[0]}]
        %m = {first}
        {more}
        %y = {second}
        return {outputs}, %c, %d
        """


def test_a_bottleneck_that_is_wider_than_its_ends() -> None:
    result = assert_rewrites(
        PASS,
        net("conv2d(%x, %a, %c)", "conv2d(%m, %b, %d) {activation=relu}", "[32, 4, 1, 1]", "[4, 32, 1, 1]"),
        """
        %x = input : f32[2, 4, 9, 8]
        %c = constant ... : f32[32]
        %d = constant ... : f32[4]
        %y.w.1 = constant ... : f32[4, 4, 1, 1]
        %y.b.1 = constant ... : f32[4]
        %y = conv2d(%x, %y.w.1, %y.b.1) {activation=relu}
        return %y, %c, %d
        """,
        rules=["merge_consecutive"],
    )
    assert result.rewrites[0].note == "conv2d %m and conv2d %y into one"


def test_linears() -> None:
    graph = graph_of(
        net("linear(%x, %a, %c)", "linear(%m, %b, %d) {activation=relu}", "[64, 10]", "[3, 64]", x="[2, 5, 10]")
    )
    result = run_pass(PASS, graph)
    assert [(n.op, str(n.attrs["activation"])) for n in result.graph.operators] == [("linear", "relu")]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    ("k1", "k2", "stride", "dilation", "groups"),
    list(itertools.product((1, 2, 3), (1, 3), ((1, 1), (2, 1), (1, 2)), ((1, 1), (2, 1), (1, 2)), ((1, 1), (2, 4)))),
)
@pytest.mark.parametrize("padding", [0, 1])
def test_every_geometry(
    k1: int, k2: int, stride: tuple[int, int], dilation: tuple[int, int], groups: tuple[int, int], padding: int
) -> None:
    """Rewritten exactly, or refused for the multiply-adds alone."""
    first = (
        f"conv2d(%x, %a, %c) {{stride=[{stride[0]}, 1], dilation=[{dilation[0]}, 1], groups={groups[0]}, "
        f"padding=[{padding}, 0, 1, {padding}]}}"
    )
    second = f"conv2d(%m, %b, %d) {{stride=[{stride[1]}, 2], dilation=[{dilation[1]}, 2], groups={groups[1]}}}"
    a, b = f"[48, {4 // groups[0]}, {k1}, {k1}]", f"[4, {48 // groups[1]}, {k2}, {k2}]"
    graph = graph_of(net(first, second, a, b, x="[1, 4, 17, 16]"))
    result = PASS.run(graph, Context(force=True))
    if not result.rewrites:
        assert "multiply-adds" in result.refusals[0].reason
        return
    assert [n.op for n in result.graph.operators] == ["conv2d"]
    assert result.graph.macs() < graph.macs()
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_padding_of_the_second_where_the_first_keeps_zeros() -> None:
    second = "conv2d(%m, %b, %d) {padding=[1, 2, 0, 1], stride=[2, 1]}"
    graph = graph_of(net("conv2d(%x, %a)", second, "[64, 4, 1, 1]", "[4, 64, 3, 3]"))
    result = run_pass(PASS, graph)
    assert [n.attrs["padding"] for n in result.graph.operators] == [(1, 2, 0, 1)]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_a_prologue_of_the_first_stays() -> None:
    graph = graph_of(
        net("conv2d(%x, %a, _, _, %s, %s) {prologue=relu, padding=[1, 1, 1, 1]}", "conv2d(%m, %b)",
            "[64, 4, 3, 3]", "[4, 64, 1, 1]").replace("%m =", "%s = constant normal(seed=9) : f32[4]\n%m =")
    )  # fmt: skip
    result = run_pass(PASS, graph)
    assert [str(n.attrs["prologue"]) for n in result.graph.operators] == ["relu"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_symbolic_sizes() -> None:
    graph = graph_of(
        """
        %x = input : f32[N, 2, H, H]
        %a = constant normal(seed=1) : f32[16, 2, 3, 3]
        %b = constant normal(seed=2) : f32[2, 16, 1, 1]
        %m = conv2d(%x, %a) {padding=[1, 1, 1, 1]}
        %y = conv2d(%m, %b)
        return %y
        """,
        "(N=2, H=8)",
    )
    result = run_pass(PASS, graph)
    assert len(result.graph.operators) == 1
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


WIDE, BACK = "[64, 4, 1, 1]", "[4, 64, 1, 1]"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (net("conv2d(%x, %a)", "conv2d(%m, %b)", "[2, 4, 1, 1]", "[4, 2, 1, 1]"),
         "one conv2d takes 2304 multiply-adds, both take 2304"),
        (net("conv2d(%x, %a)", "conv2d(%m, %b)", WIDE, BACK, outputs="%y, %m"), "%m is an output"),
        (net("conv2d(%x, %a)", "conv2d(%m, %b)", WIDE, BACK, "%z = exp(%m)", "%y, %z"), "%m also feeds %z"),
        (net("conv2d(%x, %a, _, %x)", "conv2d(%m, %b)", "[4, 4, 1, 1]", "[1, 4, 1, 1]"), "%m adds %x in between"),
        (net("conv2d(%x, %a)", "conv2d(%m, %b, _, %m)", "[4, 4, 1, 1]", "[4, 4, 1, 1]"), "reads %m in two slots"),
        (net("conv2d(%x, %a)", "conv2d(%m, %b) {prologue=relu}", WIDE, BACK), "%y has a prologue"),
        (net("conv2d(%x, %a, %c)", "conv2d(%m, %b) {padding=[1, 1, 1, 1]}", WIDE, "[4, 64, 3, 3]"),
         "%y pads by [1, 1, 1, 1] with zeros, not with the bias of %m"),
        (net("conv2d(%x, %a) {padding=[1, 1, 1, 1]}", "conv2d(%m, %b) {padding=[1, 0, 0, 0]}", "[64, 4, 3, 3]", BACK),
         "%y pads by [1, 0, 0, 0] what %m would go on computing beyond its border"),
        (net("conv2d(%x, %v)", "conv2d(%m, %b)", WIDE, BACK).replace("%m =", "%v = input : f32[64, 4, 1, 1]\n%m ="),
         "w of %m, %v, is computed by input"),
        (net("conv2d(%x, %a)", "conv2d(%m, %b)", WIDE, BACK).replace("normal(seed=1)", "full(1e30)").replace(
            "normal(seed=2)", "full(1e30)"), "weights would be infinite in f32"),
    ],
)  # fmt: skip
def test_refusals(text: str, reason: str) -> None:
    if "%v" in text:
        text = text.replace("%a = constant normal(seed=1) : f32[64, 4, 1, 1]\n", "")
    assert_refuses(PASS, text, "y", reason)


def test_no_predicted_gain_is_refused() -> None:
    class Flat:
        def seconds(self, node: object, inputs: object) -> float:
            return 2e-6 if getattr(node, "name", "") == "y" else -1e-6

    graph = graph_of(net("conv2d(%x, %a)", "conv2d(%m, %b)", WIDE, BACK))
    result = PASS.run(graph, Context(cost=Flat()))
    assert "one conv2d takes 2.0 us, both 1.0 us" in result.refusals[0].reason
    assert PASS.run(graph, Context(cost=Flat(), force=True)).rewrites


def test_an_activation_in_between_is_no_pair() -> None:
    graph = graph_of(net("conv2d(%x, %a) {activation=relu}", "conv2d(%m, %b)", WIDE, BACK))
    result = run_pass(PASS, graph)
    assert result.graph is graph and not result.refusals
