from __future__ import annotations

import pytest
from cpu_support import check
from support import assert_refuses, assert_same_outputs, graph_of, run_pass

from convc.backends.cpu import isa
from convc.backends.cpu.cost import CpuCost
from convc.passes import PASSES, Numerics
from convc.passes.context import Context

PASS = PASSES["merge_siblings"]
CPU = Context(cost=CpuCost(isa.choose("portable")))


def net(first: str, second: str, *lines: str, outputs: str = "%p, %q") -> str:
    more = "\n".join(lines)
    return f"""
        %x = input : f32[2, 8, 6, 6]
        %a = constant normal(seed=1) : f32[4, 8, 1, 1]
        %b = constant normal(seed=2) : f32[12, 8, 1, 1]
        %c = constant normal(seed=3) : f32[12]
        %p = conv2d(%x, %a) {first}
        %q = conv2d(%x, %b, %c) {second}
        {more}
        return {outputs}
        """


def test_one_wide_convolution_and_slices() -> None:
    graph = graph_of(net("{activation=relu}", "{activation=relu}"))
    result = PASS.run(graph, CPU)
    ops = [(n.name, n.op, n.type.shape[1]) for n in result.graph.operators]
    assert ops == [("p.1", "conv2d", 16), ("p", "slice", 4), ("q", "slice", 12)]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)
    assert result.graph.macs() == graph.macs()
    assert not PASS.run(result.graph, CPU).rewrites


def test_before_and_after() -> None:
    lines = ["%d = constant normal(seed=5) : f32[4, 8, 1, 1]", "%r = conv2d(%x, %d)"]
    graph = graph_of(net("", "", *lines, outputs="%p, %q, %r"))
    result = PASS.run(graph, Context(force=True))
    after = [line.strip().split(" from ")[0] for line in str(result.graph).splitlines()]
    assert [line for line in after if "constant" not in line][1:-1] == [
        "%x = input : f32[2, 8, 6, 6]",
        "%p.1 = conv2d(%x, %p.w.1, %p.b.1) : f32[2, 20, 6, 6]",
        "%p = slice(%p.1) {axis=1, start=0, stop=4} : f32[2, 4, 6, 6]",
        "%q = slice(%p.1) {axis=1, start=4, stop=16} : f32[2, 12, 6, 6]",
        "%r = slice(%p.1) {axis=1, start=16, stop=20} : f32[2, 4, 6, 6]",
        "return %p, %q, %r",
    ]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_strides_and_activations_make_families() -> None:
    lines = [
        "%r = conv2d(%x, %a) {stride=[2, 2]}", "%s = conv2d(%x, %b) {stride=[2, 2]}",
        "%t = conv2d(%x, %a) {activation=clip(0.0, 6.0)}", "%u = conv2d(%x, %b) {activation=clip(0.0, 6.0)}",
    ]  # fmt: skip
    graph = graph_of(net("{activation=relu}", "{activation=relu}", *lines, outputs="%p, %q, %r, %s, %t, %u"))
    result = PASS.run(graph, CPU)
    assert [r.node for r in result.rewrites] == ["p", "r", "t"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_slices_run_without_a_copy() -> None:
    graph = graph_of(
        """
        %x = input : f32[1, 16, 6, 6]
        %a = constant normal(seed=1) : f32[16, 16, 1, 1]
        %b = constant normal(seed=2) : f32[32, 16, 1, 1]
        %k = constant normal(seed=3) : f32[16, 16, 3, 3]
        %l = constant normal(seed=4) : f32[16, 32, 3, 3]
        %p = conv2d(%x, %a) {activation=relu}
        %q = conv2d(%x, %b) {activation=relu}
        %r = conv2d(%p, %k) {padding=[1, 1, 1, 1]}
        %s = conv2d(%q, %l) {padding=[1, 1, 1, 1]}
        %y = concat(%r, %s, %p) {axis=1}
        %z = conv2d(%y, %m)
        return %z
        """.replace("%z =", "%m = constant normal(seed=5) : f32[16, 48, 1, 1]\n%z =")
    )
    result = PASS.run(graph, Context(force=True))
    assert sum(n.op == "slice" for n in result.graph.operators) == 2
    model = check(result.graph)
    assert not [step.kernel for step in model.program.steps if "copy" in step.kernel or "relayout" in step.kernel]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (net("", "", "%y = relu(%p)", outputs="%y, %q"), "relu %y could be an epilogue of %p, and none of a slice"),
        (net("", "", "%e = exp(%x)", "%m = conv2d(%x, %a)", "%y = add(%m, %p)", outputs="%y, %q"),
         "add %y could be an epilogue of %p"),
        (net("", "", "%v = input : f32[3, 8, 1, 1]", "%r = conv2d(%x, %v)", outputs="%p, %q, %r"),
         "w of %r, %v, is computed by input"),
    ],
)  # fmt: skip
def test_refusals(text: str, reason: str) -> None:
    assert_refuses(PASS, text, "p", reason)


def test_no_predicted_gain_is_refused() -> None:
    """A model for which slices are copies."""
    result = run_pass(PASS, graph_of(net("", "")))
    assert not result.rewrites
    assert "%p, %q as one take" in result.refusals[0].reason


@pytest.mark.parametrize(
    "second",
    [
        "conv2d(%x, %b, %c) {activation=relu}",
        "conv2d(%x, %b, %c) {stride=[2, 1]}",
        "conv2d(%x, %b, %c) {padding=[1, 0, 0, 0]}",
        "conv2d(%x, %g, %c) {groups=2}",
        "conv2d(%x, %h)",
        "conv2d(%x, %b, _, %r)",
        "conv2d(%x, %b) {prologue=relu}",
    ],
)
def test_others_are_no_siblings(second: str) -> None:
    graph = graph_of(
        f"""
        %x = input : f32[2, 8, 6, 6]
        %r = input : f32[2, 12, 6, 6]
        %a = constant normal(seed=1) : f32[4, 8, 1, 1]
        %b = constant normal(seed=2) : f32[12, 8, 1, 1]
        %c = constant normal(seed=3) : f32[12]
        %g = constant normal(seed=3) : f32[12, 4, 1, 1]
        %h = constant normal(seed=3) : f32[12, 8, 1, 2]
        %p = conv2d(%x, %a)
        %q = {second}
        return %p, %q
        """
    )
    result = PASS.run(graph, Context(force=True))
    assert result.graph is graph and not result.refusals
