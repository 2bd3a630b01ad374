from __future__ import annotations

import itertools

import numpy as np
import pytest
from support import assert_refuses, assert_rewrites, assert_same_outputs, graph_of, run_pass

from convc.ir.parser import parse
from convc.passes import PASSES, Numerics

PASS = PASSES["fuse_batchnorm"]


def stats(channels: int, prefix: str = "bn") -> str:
    return f"""
        %{prefix}.gamma = constant normal(seed=11, mean=1.0, std=0.3) : f32[{channels}]
        %{prefix}.beta = constant normal(seed=12) : f32[{channels}]
        %{prefix}.mean = constant normal(seed=13) : f32[{channels}]
        %{prefix}.var = constant uniform(seed=14, low=0.3, high=2.0) : f32[{channels}]
        """


BN = "batch_norm(%conv, %bn.gamma, %bn.beta, %bn.mean, %bn.var)"


def test_into_the_convolution_before() -> None:
    result = assert_rewrites(
        PASS,
        f"""
        %x = input : f32[2, 3, 8, 8]
        %w = constant normal(seed=1) : f32[4, 3, 3, 3]
        %conv = conv2d(%x, %w) {{padding=[1, 1, 1, 1]}} from "Conv_0"
        {stats(4)}
        %y = {BN} {{epsilon=0.001}} from "BN_0"
        return %y as "logits"
        """,
        """
        %x = input : f32[2, 3, 8, 8]
        %conv.b.1 = constant ... : f32[4]
        %w.1 = constant ... : f32[4, 3, 3, 3]
        %conv = conv2d(%x, %w.1, %conv.b.1) {padding=[1, 1, 1, 1]} : f32[2, 4, 8, 8] from "Conv_0", "BN_0"
        return %conv as "logits"
        """,
        rules=["fuse_batchnorm_after"],
    )
    assert result.rewrites[0].note == "BatchNormalization into conv2d %conv"
    assert set(result.rewrites[0].removed) == {"y", "w", "bn.gamma", "bn.beta", "bn.mean", "bn.var"}


CONVS = [
    (f"conv2d(%x, %w{b}) {{groups={g}, stride=[{s}, {s}], padding=[{p}, 0, 1, {p}], dilation=[{d}, 1]}}", g)
    for g, s, p, d, b in itertools.product((1, 2, 8), (1, 2), (0, 1), (1, 2), ("", ", %b"))
] + [
    (f"conv_transpose2d(%x, %w{b}) {{groups={g}, stride=[2, 2], padding=[1, 0, 0, 1], output_padding=[1, 0]}}", g)
    for g, b in itertools.product((1, 2, 8), ("", ", %b"))
]


@pytest.mark.parametrize(("conv", "groups"), CONVS)
def test_every_kind_of_convolution(conv: str, groups: int) -> None:
    graph = graph_of(
        f"""
        %x = input : f32[2, 8, 9, 8]
        %w = constant normal(seed=1) : f32[8, {8 // groups}, 3, 3]
        %b = constant normal(seed=2) : f32[8]
        %conv = {conv}
        {stats(8)}
        %y = {BN}
        return %y
        """
    )
    result = run_pass(PASS, graph)
    assert [n.op for n in result.graph.operators] == [conv.split("(")[0]]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_transposed_weights_scale_their_second_axis_by_group() -> None:
    graph = graph_of(
        f"""
        %x = input : f32[1, 4, 3, 3]
        %w = constant normal(seed=1) : f32[4, 3, 2, 2]
        %conv = conv_transpose2d(%x, %w) {{groups=2}}
        {stats(6)}
        %y = {BN}
        return %y
        """
    )
    assert_same_outputs(graph, run_pass(PASS, graph).graph, Numerics.REASSOCIATES)


def test_into_linear_and_shared_weights_stay() -> None:
    assert_rewrites(
        PASS,
        f"""
        %x = input : f32[2, 5]
        %w = constant normal(seed=1) : f32[4, 5]
        %b = constant normal(seed=2) : f32[4]
        %conv = linear(%x, %w, %b)
        %other = linear(%x, %w, %b)
        {stats(4)}
        %y = {BN}
        return %y, %other
        """,
        """
        %x = input : f32[2, 5]
        %w = constant ... : f32[4, 5]
        %b = constant ... : f32[4]
        %b.1 = constant ... : f32[4]
        %w.1 = constant ... : f32[4, 5]
        %conv = linear(%x, %w.1, %b.1)
        %other = linear(%x, %w, %b)
        return %conv as "y", %other
        """,
    )


@pytest.mark.parametrize(
    ("line", "shape", "weights_change"),
    [
        ("mul(%conv, %c)", "[4, 1, 1]", True), ("mul(%c, %conv)", "[1, 4, 1, 1]", True), ("mul(%conv, %c)", "[]", True),
        ("div(%conv, %c)", "[1, 4, 1, 1]", True), ("add(%conv, %c)", "[4, 1, 1]", False),
        ("add(%c, %conv)", "[1]", False), ("sub(%conv, %c)", "[4, 1, 1]", False), ("sub(%c, %conv)", "[4, 1, 1]", True),
    ],
)  # fmt: skip
def test_arithmetic_with_one_constant_a_channel(line: str, shape: str, weights_change: bool) -> None:
    name = "%w.1" if weights_change else "%w"
    assert_rewrites(
        PASS,
        f"""
        %x = input : f32[2, 3, 5, 5]
        %w = constant normal(seed=1) : f32[4, 3, 3, 3]
        %b = constant normal(seed=2) : f32[4]
        %c = constant normal(seed=3, mean=2.0, std=0.2) : f32{shape}
        %conv = conv2d(%x, %w, %b)
        %y = {line}
        return %y
        """,
        f"""
        %x = input : f32[2, 3, 5, 5]
        {"" if weights_change else "%w = constant ... : f32[4, 3, 3, 3]"}
        %b.1 = constant ... : f32[4]
        {"%w.1 = constant ... : f32[4, 3, 3, 3]" if weights_change else ""}
        %conv = conv2d(%x, {name}, %b.1)
        return %conv as "y"
        """,
        rules=["fuse_batchnorm_after"],
    )


def test_a_shift_passes_a_residual() -> None:
    assert_rewrites(
        PASS,
        """
        %x = input : f32[1, 2, 4, 4]
        %w = constant normal(seed=1) : f32[2, 2, 1, 1]
        %c = constant [1.0, 2.0] : f32[2, 1, 1]
        %conv = conv2d(%x, %w, _, %x)
        %y = add(%conv, %c)
        return %y
        """,
        """
        %x = input : f32[1, 2, 4, 4]
        %w = constant ... : f32[2, 2, 1, 1]
        %conv.b.1 = constant [1.0, 2.0] : f32[2]
        %conv = conv2d(%x, %w, %conv.b.1, %x)
        return %conv as "y"
        """,
    )


def test_two_in_a_row_are_one_where_no_convolution_takes_them() -> None:
    assert_rewrites(
        PASS,
        f"""
        %x = input : f32[2, 4, 3]
        {stats(4)}
        {stats(4, "two")}
        %conv = batch_norm(%x, %bn.gamma, %bn.beta, %bn.mean, %bn.var)
        %s = constant normal(seed=5) : f32[4, 1]
        %b = batch_norm(%conv, %two.gamma, %two.beta, %two.mean, %two.var)
        %m = mul(%b, %s)
        %y = relu(%m)
        return %y
        """,
        """
        %x = input : f32[2, 4, 3]
        %bn.mean = constant ... : f32[4]
        %bn.var = constant ... : f32[4]
        %bn.gamma.2 = constant ... : f32[4]
        %bn.beta.2 = constant ... : f32[4]
        %conv = batch_norm(%x, %bn.gamma.2, %bn.beta.2, %bn.mean, %bn.var)
        %y = relu(%conv)
        return %y
        """,
        rules=["compose_batchnorms", "compose_batchnorms"],
    )


@pytest.mark.parametrize(
    ("shape", "next_one", "w"),
    [
        ("[2, 6, 5, 5]", "conv2d(%conv, %w, %b)", "[4, 6, 3, 3]"),
        ("[2, 6, 5, 5]", "conv2d(%conv, %w) {groups=2, stride=[2, 2]}", "[4, 3, 3, 3]"),
        ("[2, 6, 5, 5]", "conv2d(%conv, %w) {groups=6, dilation=[2, 2]}", "[6, 1, 2, 2]"),
        ("[2, 6, 5, 5]", "conv2d(%conv, %w) {activation=relu}", "[4, 6, 1, 1]"),
        ("[2, 6]", "linear(%conv, %w, %b)", "[4, 6]"),
    ],
)
def test_ahead_of_a_convolution_without_padding(shape: str, next_one: str, w: str) -> None:
    graph = graph_of(
        f"""
        %x = input : f32{shape}
        %r = relu(%x)
        {stats(6)}
        %conv = batch_norm(%r, %bn.gamma, %bn.beta, %bn.mean, %bn.var)
        %w = constant normal(seed=1) : f32{w}
        %b = constant normal(seed=2) : f32[4]
        %y = {next_one}
        return %y
        """
    )
    result = run_pass(PASS, graph)
    assert [n.op for n in result.graph.operators] == ["relu", next_one.split("(")[0]]
    assert [r.rule for r in result.rewrites] == ["fuse_batchnorm_ahead"]
    assert not result.refusals
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_a_scale_passes_padding_and_a_shift_does_not() -> None:
    result = assert_rewrites(
        PASS,
        """
        %x = input : f32[1, 3, 6, 6]
        %mean = constant [0.5, 0.4, 0.3] : f32[3, 1, 1]
        %std = constant [0.2, 0.3, 0.1] : f32[3, 1, 1]
        %w = constant normal(seed=1) : f32[2, 3, 3, 3]
        %a = sub(%x, %mean)
        %b = div(%a, %std)
        %y = conv2d(%b, %w) {padding=[1, 1, 1, 1]}
        return %y
        """,
        """
        %x = input : f32[1, 3, 6, 6]
        %mean = constant ... : f32[3, 1, 1]
        %a = sub(%x, %mean)
        %w.1 = constant ... : f32[2, 3, 3, 3]
        %y = conv2d(%a, %w.1) {padding=[1, 1, 1, 1]}
        return %y
        """,
    )
    assert [r.node for r in result.refusals] == ["a"]
    assert "pads by [1, 1, 1, 1] with zeros" in result.refusals[0].reason


def test_a_chain_of_scales_ends_in_one_convolution() -> None:
    graph = graph_of(
        f"""
        %x = input : f32[2, 4, 6, 6]
        %w = constant normal(seed=1) : f32[4, 4, 3, 3]
        %conv = conv2d(%x, %w)
        {stats(4)}
        %a = {BN}
        %s = constant normal(seed=3, mean=1.0) : f32[1, 4, 1, 1]
        %b = mul(%a, %s)
        %c = add(%b, %s)
        %d = batch_norm(%c, %bn.gamma, %bn.beta, %bn.mean, %bn.var)
        return %d
        """
    )
    result = run_pass(PASS, graph)
    assert [n.name for n in result.graph.operators] == ["conv"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def conv_net(conv: str = "conv2d(%x, %w)", then: str = "", y: str = BN, outputs: str = "%y") -> str:
    return f"""
        %x = input : f32[1, 4, 4, 4]
        %v = input : f32[4]
        %w = constant normal(seed=1) : f32[4, 4, 1, 1]
        %conv = {conv}
        {stats(4)}
        {then}
        %y = {y}
        return {outputs}
        """


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (conv_net(then="%z = relu(%conv)", outputs="%y, %z"), "%conv also feeds %z"),
        (conv_net(outputs="%y, %conv"), "%conv is an output"),
        (conv_net("conv2d(%x, %w) {activation=relu}"), "%conv applies relu in between"),
        (conv_net("conv2d(%x, %w, _, %x)"), "%conv adds %x in between"),
        (conv_net("conv2d(%x, %w, %v)"), "b of %conv, %v, is computed by input"),
        (conv_net(y="batch_norm(%conv, %v, %bn.beta, %bn.mean, %bn.var)"), "gamma of %y, %v, is computed by input"),
        (conv_net("relu(%x)"), "its input %conv is relu, not a convolution"),
        (conv_net("relu(%x)"), "its value feeds nothing but an output"),
        (
            conv_net(then="%c = constant arange() : f32[4]", y="mul(%conv, %c)"),
            "%c: f32[4] is not one value a channel of %conv",
        ),
        (
            conv_net(then="%c = constant full(2.0) : f32[3, 1, 1, 1]", y="mul(%conv, %c)"),
            "makes %conv: f32[1, 4, 4, 4] larger",
        ),
        (conv_net(then="%c = constant [1.0, 2.0, 0.0, 1.0] : f32[4, 1, 1]", y="div(%conv, %c)"), "channel 2 is inf"),
        (conv_net(then="%c = constant full(1e38) : f32[4, 1, 1]\n%c2 = constant [100.0] : f32[]\n%m = mul(%conv, %c)",
                  y="mul(%m, %c2)"), "w would be infinite in f32"),
    ],
)  # fmt: skip
def test_refusals(text: str, reason: str) -> None:
    graph = graph_of(text)
    result = run_pass(PASS, graph)
    assert any(reason in r.reason for r in result.refusals), result.refusals
    assert any(n.op in {"batch_norm", "mul", "div"} for n in result.graph.operators)


@pytest.mark.parametrize(
    ("then", "outputs", "reason"),
    [
        ("%y = conv2d(%bn, %w) {padding=[0, 1, 0, 0]}", "%y", "pads by [0, 1, 0, 0] with zeros"),
        ("%y = conv2d(%bn, %w)", "%y, %bn", "%bn is an output"),
        ("%y = conv2d(%bn, %w)\n%z = relu(%bn)", "%y, %z", "%bn also feeds %z"),
        ("%y = conv2d(%bn, %k)", "%y", "w of %y, %k, is computed by input"),
        ("%y = conv2d(%bn, %w, _, %bn)", "%y", "%y reads it in two slots"),
        ("%y = relu(%bn)", "%y", "its value feeds relu %y, not a convolution"),
    ],
)
def test_refusals_ahead(then: str, outputs: str, reason: str) -> None:
    assert_refuses(
        PASS,
        f"""
        %x = input : f32[1, 4, 4, 4]
        %k = input : f32[4, 4, 1, 1]
        %w = constant normal(seed=1) : f32[4, 4, 1, 1]
        {stats(4)}
        %bn = batch_norm(%x, %bn.gamma, %bn.beta, %bn.mean, %bn.var)
        {then}
        return {outputs}
        """,
        "bn", reason,
    )  # fmt: skip


def test_channels_of_a_linear_of_rank_3_are_not_those_of_batch_norm() -> None:
    assert_refuses(
        PASS,
        f"""
        %x = input : f32[2, 4, 5]
        %w = constant normal(seed=1) : f32[4, 5]
        %conv = linear(%x, %w)
        {stats(4)}
        %y = {BN}
        return %y
        """,
        "y", "it normalises axis 1 and the channels of %conv are axis 2",
    )  # fmt: skip


def test_missing_data_is_refused() -> None:
    text = str(graph_of(conv_net().replace("f32[4, 4, 1, 1]", "f32[4, 4, 3, 3]")))
    result = run_pass(PASS, parse(text))
    assert any("w of %conv, %w, has no data" in r.reason for r in result.refusals)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", ["-1.0, 1.0", "nan, 1.0"])
def test_nan_is_carried_through(values: str) -> None:
    graph = graph_of(
        f"""
        %x = input : f32[1, 2, 3, 3]
        %w = constant normal(seed=1) : f32[2, 2, 1, 1]
        %one = constant [1.0, 1.0] : f32[2]
        %var = constant [{values}] : f32[2]
        %conv = conv2d(%x, %w)
        %y = batch_norm(%conv, %one, %one, %one, %var)
        return %y
        """
    )
    result = run_pass(PASS, graph)
    assert [n.op for n in result.graph.operators] == ["conv2d"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_variance_zero_without_epsilon_is_refused() -> None:
    assert_refuses(
        PASS,
        """
        %x = input : f32[1, 2, 3, 3]
        %w = constant normal(seed=1) : f32[2, 2, 1, 1]
        %one = constant [1.0, 1.0] : f32[2]
        %var = constant [1.0, 0.0] : f32[2]
        %conv = conv2d(%x, %w)
        %y = batch_norm(%conv, %one, %one, %one, %var) {epsilon=0.0}
        return %y
        """,
        "y", "channel 1 is infinite",
    )  # fmt: skip


def test_weights_are_computed_in_float64() -> None:
    graph = graph_of(conv_net())
    values = {name: array.astype(np.float64) for name, array in graph.weights().items()}
    scale = values["bn.gamma"] / np.sqrt(values["bn.var"] + 1e-5)
    wanted = (values["w"] * scale[:, None, None, None]).astype(np.float32)
    assert run_pass(PASS, graph).graph["w.1"].array.tobytes() == wanted.tobytes()
