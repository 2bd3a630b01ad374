"""fuse_prologue, lower_batchnorm and commute_pooling."""

from __future__ import annotations

import pytest
from cpu_support import check
from support import assert_refuses, assert_rewrites, assert_same_outputs, graph_of, run_pass

from convc.passes import PASSES, Numerics, run_passes
from convc.passes.context import Context

PROLOGUE, LOWER, POOLING = PASSES["fuse_prologue"], PASSES["lower_batchnorm"], PASSES["commute_pooling"]
STATS = """
    %gamma = constant normal(seed=11, mean=1.0, std=0.3) : f32[4]
    %beta = constant normal(seed=12) : f32[4]
    %mean = constant normal(seed=13) : f32[4]
    %var = constant uniform(seed=14, low=0.3, high=2.0) : f32[4]
    """
BN = "batch_norm(%x, %gamma, %beta, %mean, %var)"


class Flat:
    """A cost model for which all times are equal."""

    def seconds(self, node: object, inputs: object) -> float:
        return 0.0


def net(*lines: str, outputs: str = "%y", more: str = "") -> str:
    body = "\n".join(lines)
    return f"""
        %x = input : f32[2, 4, 7, 6]
        %w = constant normal(seed=1) : f32[5, 4, 3, 3]
        {STATS if "batch_norm" in body else ""}
        {more}
        {body}
        return {outputs}
        """


def test_batchnorm_and_relu_ahead_of_padding() -> None:
    result = assert_rewrites(
        PROLOGUE,
        net(f"%n = {BN}", "%r = relu(%n)", "%y = conv2d(%r, %w) {padding=[1, 1, 1, 1]}"),
        """
        %x = input : f32[2, 4, 7, 6]
        %w = constant ... : f32[5, 4, 3, 3]
        %y.scale.1 = constant ... : f32[4]
        %y.shift.1 = constant ... : f32[4]
        %y = conv2d(%x, %w, _, _, %y.scale.1, %y.shift.1) {padding=[1, 1, 1, 1], prologue=relu}
        return %y
        """,
        rules=["fuse_prologue"],
    )
    assert result.rewrites[0].note == "batch_norm and relu into conv2d %y"


@pytest.mark.parametrize("activation", ["", "%r = clip(%n) {min=0.0, max=6.0}", "%r = leaky_relu(%n)"])
@pytest.mark.parametrize("window", ["padding=[1, 0, 2, 1]", "stride=[2, 1]", "dilation=[2, 2], padding=[1, 1, 1, 1]"])
def test_every_geometry_runs(activation: str, window: str) -> None:
    lines = [f"%n = {BN}", activation, f"%y = conv2d({'%r' if activation else '%n'}, %w) {{{window}, activation=tanh}}"]
    graph = graph_of(net(*lines))
    result = run_pass(PROLOGUE, graph)
    assert [n.op for n in result.graph.operators] == ["conv2d"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_arithmetic_joins_step_by_step() -> None:
    """x * c + d, then the prologue that is there."""
    graph = graph_of(
        net(
            "%m = mul(%x, %c)", "%a = sub(%d, %m)", "%y = conv2d(%a, %w, _, _, %s, %s) {prologue=relu}",
            more="%c = constant normal(seed=5) : f32[4, 1, 1]\n%d = constant normal(seed=6) : f32[4, 1, 1]\n"
            "%s = constant normal(seed=7) : f32[4]",
        )
    )  # fmt: skip
    result = run_pass(PROLOGUE, graph)
    assert [n.op for n in result.graph.operators] == ["conv2d"]
    assert len(result.rewrites) == 2
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    ("lines", "outputs", "reason"),
    [
        ((f"%n = {BN}", "%r = relu(%n)", "%y = conv2d(%r, %w)", "%z = exp(%r)"), "%y, %z", "%r also feeds %z"),
        ((f"%n = {BN}", "%r = relu(%n)", "%y = conv2d(%r, %w)"), "%y, %n", "%n is an output"),
        ((f"%n = {BN}", "%r = relu(%n)", "%y = conv2d(%r, %w) {prologue=relu}"), "%y", "relu comes in between"),
        (("%n = mul(%x, %all)", "%y = conv2d(%n, %w)"), "%y", "is not one value a channel"),
        (("%n = mul(%x, %inf)", "%y = conv2d(%n, %w)"), "%y", "is infinite"),
        ((f"%n = {BN}", "%y = conv2d(%n, %w, _, _, %v)"), "%y", "scale of %y, %v, is computed by input"),
        ((f"%n = {BN}", "%y = conv2d(%n, %k, _, %n)"), "%y", "%y reads %n in two slots"),
    ],
)  # fmt: skip
def test_refusals_of_prologues(lines: tuple[str, ...], outputs: str, reason: str) -> None:
    constants = {
        "all": "%all = constant normal(seed=5) : f32[4, 7, 6]", "inf": "%inf = constant full(inf) : f32[4, 1, 1]",
        "v": "%v = input : f32[4]", "k": "%k = constant normal(seed=5) : f32[4, 4, 1, 1]",
    }  # fmt: skip
    body = " ".join(lines)
    more = "\n".join(text for name, text in constants.items() if f"%{name}," in body or f"%{name})" in body)
    assert_refuses(PROLOGUE, net(*lines, outputs=f"{outputs}, %w", more=more), "n", reason)


def test_no_predicted_gain_is_refused() -> None:
    graph = graph_of(net(f"%n = {BN}", "%r = relu(%n)", "%y = conv2d(%r, %w)"))
    result = PROLOGUE.run(graph, Context(cost=Flat()))
    assert "as a prologue it takes 0.0 us, now 0.0 us" in result.refusals[0].reason
    assert PROLOGUE.run(graph, Context(cost=Flat(), force=True)).rewrites


def test_a_depthwise_convolution_with_an_epilogue() -> None:
    result = assert_rewrites(
        LOWER,
        net(f"%n = {BN}", "%r = relu(%n)", "%y = global_avg_pool(%r)", outputs="%y, %w"),
        """
        %x = input : f32[2, 4, 7, 6]
        %w = constant ... : f32[5, 4, 3, 3]
        %n.w.1 = constant ... : f32[4, 1, 1, 1]
        %n.b.1 = constant ... : f32[4]
        %r = conv2d(%x, %n.w.1, %n.b.1) {groups=4, activation=relu}
        %y = global_avg_pool(%r)
        return %y, %w
        """,
        rules=["lower_batchnorm"],
    )
    check(result.graph)


@pytest.mark.parametrize(
    ("x", "line", "reason"),
    [
        ("[2, 4]", BN, "f32[2, 4] is not of rank 4"),
        ("[2, 4, 3, 3]", "batch_norm(%x, %v, %beta, %mean, %var)", "gamma of %y, %v, is computed by input"),
        ("[2, 4, 3, 3]", "batch_norm(%x, %inf, %beta, %mean, %var)", "is infinite"),
    ],
)
def test_refusals_of_lowering(x: str, line: str, reason: str) -> None:
    constants = f"%v = input : f32[4]\n{STATS}%inf = constant full(inf) : f32[4]"
    text = f"%x = input : f32{x}\n{constants}\n%y = {line}\nreturn %y"
    assert_refuses(LOWER, text, "y", reason)


def test_lowering_needs_a_predicted_gain() -> None:
    graph = graph_of(net(f"%y = {BN}"))
    result = LOWER.run(graph, Context(cost=Flat()))
    assert "as a depthwise convolution it takes 0.0 us, now 0.0 us" in result.refusals[0].reason


@pytest.mark.parametrize("pool", ["kernel=[2, 2], stride=[2, 2]", "kernel=[3, 3], padding=[1, 1, 1, 1], stride=[2, 2]"])
@pytest.mark.parametrize("bias", ["", ", %b"])
def test_a_pool_ahead(pool: str, bias: str) -> None:
    """As many channels, fewer pixels to convolve."""
    graph = graph_of(
        f"""
        %x = input : f32[1, 8, 32, 32]
        %w = constant normal(seed=1) : f32[8, 8, 1, 1]
        %b = constant normal(seed=2) : f32[8]
        %c = conv2d(%x, %w{bias})
        %y = avg_pool2d(%c) {{{pool}}}
        return %y
        """
    )
    result = run_pass(POOLING, graph)
    assert [n.op for n in result.graph.operators] == ["avg_pool2d", "conv2d"]
    assert result.graph.macs() < graph.macs()
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)
    assert not run_pass(POOLING, result.graph).rewrites


def test_a_pool_behind_fewer_channels() -> None:
    graph = graph_of(
        """
        %x = input : f32[1, 64, 32, 32]
        %w = constant normal(seed=1) : f32[4, 64, 1, 1]
        %b = constant normal(seed=2) : f32[4]
        %p = avg_pool2d(%x) {kernel=[3, 3], padding=[1, 1, 1, 1]}
        %y = conv2d(%p, %w, %b)
        return %y
        """
    )
    result = run_pass(POOLING, graph)
    assert [n.op for n in result.graph.operators] == ["conv2d", "avg_pool2d"]
    assert result.graph.macs() == graph.macs()
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    ("conv", "pool", "reason"),
    [
        ("conv2d(%x, %v) {activation=relu}", "", "%c applies relu in between"),
        ("conv2d(%x, %w)", "", "the kernel of %c is 3x3"),
        ("conv2d(%x, %v, _, %r)", "", "%c adds %r"),
        ("conv2d(%x, %v) {prologue=relu}", "", "%c has a prologue"),
        ("conv2d(%x, %v, %b)", ", padding=[1, 0, 0, 0], count_include_pad=true", "counts padding, which has no bias"),
        ("conv2d(%x, %v)", ", padding=[1, 1, 1, 1]", "avg_pool2d ahead of conv2d takes"),
    ],
)
def test_refusals_of_swaps(conv: str, pool: str, reason: str) -> None:
    assert_refuses(
        POOLING,
        f"""
        %x = input : f32[1, 4, 8, 8]
        %r = input : f32[1, 5, 8, 8]
        %w = constant normal(seed=1) : f32[5, 4, 3, 3]
        %v = constant normal(seed=2) : f32[5, 4, 1, 1]
        %b = constant normal(seed=3) : f32[5]
        %c = {conv}
        %y = avg_pool2d(%c) {{kernel=[2, 2]{pool}}}
        return %y
        """,
        "y", reason,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("conv", "pool", "reason"),
    [
        ("conv2d(%p, %v) {activation=relu}", "", "it applies relu to the means"),
        ("conv2d(%p, %v)", ", stride=[2, 2]", "%p of stride [2, 2] leaves it fewer pixels"),
        ("conv2d(%p, %w)", "", "the kernel of %y is 3x3"),
        ("conv2d(%p, %v)", "", "conv2d ahead of avg_pool2d takes"),
    ],
)
def test_refusals_of_pools_behind(conv: str, pool: str, reason: str) -> None:
    assert_refuses(
        POOLING,
        f"""
        %x = input : f32[1, 4, 8, 8]
        %w = constant normal(seed=1) : f32[5, 4, 3, 3]
        %v = constant normal(seed=2) : f32[5, 4, 1, 1]
        %p = avg_pool2d(%x) {{kernel=[2, 2]{pool}}}
        %y = {conv}
        return %y
        """,
        "y", reason,
    )  # fmt: skip


def test_a_dense_block_keeps_no_batchnorm() -> None:
    """Two pre-activation layers, a transition, and a last normalisation."""
    lines = [
        f"%n = {BN}", "%r = relu(%n)", "%c = conv2d(%r, %a) {padding=[1, 1, 1, 1]}", "%d = concat(%x, %c) {axis=1}",
        "%n2 = batch_norm(%d, %g2, %g2, %g2, %v2)", "%r2 = relu(%n2)", "%e = conv2d(%r2, %k)",
        "%p = avg_pool2d(%e) {kernel=[2, 2], stride=[2, 2]}",
        "%n3 = batch_norm(%p, %gamma, %beta, %mean, %var)", "%r3 = relu(%n3)", "%y = global_avg_pool(%r3)",
    ]  # fmt: skip
    more = """
        %a = constant normal(seed=2) : f32[4, 4, 3, 3]
        %k = constant normal(seed=3) : f32[4, 8, 1, 1]
        %g2 = constant normal(seed=4) : f32[8]
        %v2 = constant uniform(seed=5, low=0.5, high=1.0) : f32[8]
        """
    graph = graph_of(net(*lines, outputs="%y, %w", more=more))
    found, _ = run_passes(graph)
    assert "batch_norm" not in {n.op for n in found.operators}
    assert_same_outputs(graph, found, Numerics.REASSOCIATES)
    check(found)
