from __future__ import annotations

import pytest
from support import assert_refuses, assert_rewrites, assert_same_outputs, graph_of, run_pass

from convc.passes import PASSES, Numerics

PASS = PASSES["fuse_batchnorm"]


def stats(channels: int, gamma: str = "normal(seed=11, mean=1.0, std=0.2)") -> str:
    return f"""
        %gamma = constant {gamma} : f32[{channels}]
        %beta = constant normal(seed=12) : f32[{channels}]
        %mean = constant normal(seed=13) : f32[{channels}]
        %var = constant uniform(seed=14, low=0.3, high=2.0) : f32[{channels}]
        """


def net(lines: str, last: str, channels: int = 4, outputs: str = "%y", gamma: str = "") -> str:
    """Lines after two convolutions p and q of 4 channels; BatchNormalization of `last` is y."""
    return f"""
        %x = input : f32[2, 3, 7, 8]
        %w = constant normal(seed=1) : f32[4, 3, 3, 3]
        %v = constant normal(seed=2) : f32[4, 3, 3, 3]
        %c = constant normal(seed=3) : f32[4]
        %p = conv2d(%x, %w, %c)
        %q = conv2d(%x, %v)
        {lines}
        {stats(channels, gamma) if gamma else stats(channels)}
        %y = batch_norm({last}, %gamma, %beta, %mean, %var)
        return {outputs}
        """


def test_across_a_concat() -> None:
    assert_rewrites(
        PASS,
        net("%t = concat(%p, %q) {axis=1}", "%t", 8),
        """
        %x = input : f32[2, 3, 7, 8]
        %c.1 = constant ... : f32[4]
        %w.1 = constant ... : f32[4, 3, 3, 3]
        %q.b.1 = constant ... : f32[4]
        %v.1 = constant ... : f32[4, 3, 3, 3]
        %p = conv2d(%x, %w.1, %c.1)
        %q = conv2d(%x, %v.1, %q.b.1)
        %t = concat(%p, %q) {axis=1}
        return %t as "y"
        """,
        rules=["fuse_batchnorm_through"],
    )


@pytest.mark.parametrize(
    ("lines", "last", "channels"),
    [
        ("%t = max_pool2d(%p) {kernel=[3, 3], stride=[2, 2], padding=[1, 0, 1, 1]}\n%o = relu(%q)", "%t", 4),
        ("%t = global_max_pool(%p)\n%o = relu(%q)", "%t", 4),
        ("%t = avg_pool2d(%p) {kernel=[3, 3], padding=[1, 0, 1, 1], ceil_mode=true, stride=[2, 2]}\n%o = relu(%q)",
         "%t", 4),
        ("%t = avg_pool2d(%p) {kernel=[2, 2], count_include_pad=true}\n%o = relu(%q)", "%t", 4),
        ("%t = global_avg_pool(%p)\n%o = relu(%q)", "%t", 4),
        ("%a = max_pool2d(%p) {kernel=[2, 2]}\n%b = avg_pool2d(%q) {kernel=[2, 2]}\n%t = concat(%a, %b) {axis=-3}\n"
         "%u = max_pool2d(%t) {kernel=[2, 2], dilation=[2, 1]}", "%u", 8),
        ("%k = constant normal(seed=4) : f32[3, 2, 2, 2]\n%r = conv_transpose2d(%x, %k)\n%a = concat(%p, %q) {axis=1}\n"
         "%s = slice(%r) {axis=2, start=0, stop=5}", "%a", 8),
    ],
)  # fmt: skip
def test_through_pools(lines: str, last: str, channels: int) -> None:
    outputs = "%y, %o" if "%o" in lines else "%y, %s" if "%s" in lines else "%y"
    graph = graph_of(net(lines, last, channels, outputs))
    result = run_pass(PASS, graph)
    assert [r.rule for r in result.rewrites] == ["fuse_batchnorm_through"]
    assert "batch_norm" not in {n.op for n in result.graph.operators}
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_linears_of_rank_2() -> None:
    graph = graph_of(
        f"""
        %x = input : f32[2, 3]
        %w = constant normal(seed=1) : f32[4, 3]
        %p = linear(%x, %w)
        %q = linear(%x, %w)
        %t = concat(%p, %q) {{axis=1}}
        {stats(8)}
        %y = batch_norm(%t, %gamma, %beta, %mean, %var)
        return %y
        """
    )
    result = run_pass(PASS, graph)
    assert [n.op for n in result.graph.operators] == ["linear", "linear", "concat"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


MAX = "%t = max_pool2d(%p) {kernel=[2, 2]}\n%o = relu(%q)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (net(MAX, "%t", outputs="%y, %o", gamma="[1.0, -1.0, 1.0, 1.0]"),
         "max_pool2d %t takes a maximum, and the scale of channel 1 is -"),
        (net(MAX, "%t", outputs="%y, %o", gamma="[1.0, 1.0, 0.0, 1.0]"), "the scale of channel 2 is 0"),
        (net(MAX, "%t", outputs="%y, %o", gamma="[1.0, 1.0, nan, 1.0]"), "the scale of channel 2 is nan"),
        (net("%t = avg_pool2d(%p) {kernel=[2, 2], padding=[1, 0, 0, 0], count_include_pad=true}\n%o = relu(%q)", "%t",
             outputs="%y, %o"), "the mean of %t counts padding, which is not shifted"),
        (net(MAX, "%t", outputs="%y, %o, %t"), "%t is an output"),
        (net(MAX + "\n%z = exp(%p)", "%t", outputs="%y, %o, %z"), "%p also feeds %z"),
        (net("%t = concat(%p, %p) {axis=1}\n%o = relu(%q)", "%t", 8, "%y, %o"), "%t reads %p twice"),
        (net("%r = relu(%q)\n%t = concat(%p, %r) {axis=1}", "%t", 8), "%r is relu, not a convolution"),
        (net("%r = concat(%p, %q) {axis=3}\n%t = max_pool2d(%r) {kernel=[2, 2]}", "%t"), "%r is concat, not a conv"),
        (net("%r = conv2d(%x, %w) {activation=relu}\n%s = concat(%p, %q) {axis=1}\n%t = concat(%s, %r) {axis=1}",
             "%t", 12), "%r applies relu in between"),
        (net("%i = input : f32[2, 4, 5, 6]\n%r = conv2d(%x, %w, _, %i)\n%s = concat(%p, %q) {axis=1}\n"
             "%t = concat(%s, %r) {axis=1}", "%t", 12), "%r adds %i in between"),
        (net("%i = input : f32[4, 3, 3, 3]\n%r = conv2d(%x, %i)\n%s = concat(%p, %q) {axis=1}\n"
             "%t = concat(%s, %r) {axis=1}", "%t", 12), "w of %r, %i, is computed by input"),
    ],
)  # fmt: skip
def test_refusals(text: str, reason: str) -> None:
    assert_refuses(PASS, text, "y", reason)
