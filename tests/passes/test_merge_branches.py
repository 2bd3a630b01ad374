from __future__ import annotations

import itertools
import re

import pytest
from support import assert_refuses, assert_rewrites, assert_same_outputs, graph_of, run_pass

from convc.passes import PASSES, Numerics, run_passes
from convc.passes.context import Context

PASS = PASSES["merge_branches"]
PAD = "{padding=[1, 1, 1, 1]}"
CONSTANTS = {
    "w1": "normal(seed=1) : f32[4, 4, 1, 1]", "w3": "normal(seed=2) : f32[4, 4, 3, 3]", "b": "normal(seed=4) : f32[4]",
    "gamma": "normal(seed=11, mean=1.0, std=0.3) : f32[4]", "beta": "normal(seed=12) : f32[4]",
    "mean": "normal(seed=13) : f32[4]", "var": "uniform(seed=14, low=0.3, high=2.0) : f32[4]",
    "k": "[1.0, -2.0, 0.0, 3.0] : f32[4, 1, 1]", "all": "normal(seed=5) : f32[4, 7, 6]",
    "h": "normal(seed=6) : f32[4, 4, 3, 1]", "g": "normal(seed=7) : f32[4, 4, 1, 3]",
    "huge": "full(2e38) : f32[4, 4, 1, 1]",
}  # fmt: skip


def net(*lines: str, outputs: str = "%y") -> str:
    """Lines over the inputs x, r and v, with the constants that they read."""
    body = "\n".join(lines)
    constants = "\n".join(f"%{n} = constant {v}" for n, v in CONSTANTS.items() if re.search(rf"%{n}\b", body))
    return f"""
        %x = input : f32[2, 4, 7, 6]
        %r = input : f32[2, 4, 7, 6]
        %v = input : f32[4, 4, 1, 1]
        {constants}
        {body}
        return {outputs}
        """


def test_repvgg() -> None:
    """3x3, 1x1 and the input, each normalised: one 3x3."""
    bn = "batch_norm(%{}, %gamma, %beta, %mean, %var)"
    graph = graph_of(
        net(
            f"%c3 = conv2d(%x, %w3) {PAD}", f"%n3 = {bn.format('c3')}",
            "%c1 = conv2d(%x, %w1)", f"%n1 = {bn.format('c1')}", f"%n0 = {bn.format('x')}",
            "%s = add(%n3, %n1)", "%t = add(%s, %n0)", "%y = relu(%t)",
        )
    )  # fmt: skip
    found, records = run_passes(graph)
    (conv,) = found.operators
    assert conv.op == "conv2d" and found[str(conv.inputs[1])].type.shape[2:] == (3, 3)
    assert str(conv.attrs["activation"]) == "relu"
    assert [w.rule for r in records if r.name == "merge_branches" for w in r.rewrites] == ["merge_sum"] * 2
    assert_same_outputs(graph, found, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    ("lines", "after"),
    [
        ((f"%a = conv2d(%x, %w3, %b) {PAD}", "%c = conv2d(%x, %w1, %b)", "%y = add(%a, %c)"), PAD),
        ((f"%a = conv2d(%x, %w3) {PAD}", "%y = add(%x, %a)"), PAD),
        ((f"%a = conv2d(%x, %w3) {PAD}", "%c = mul(%x, %k)", "%y = add(%a, %c)"), PAD),
        (("%a = conv2d(%x, %w1)", "%y = add(%a, %x)"), "{}"),
        ((f"%a = conv2d(%x, %w3) {PAD}", f"%y = conv2d(%x, %w3, %b, %a) {PAD}"), PAD),
        (("%y = conv2d(%x, %w3, %b, %x) {padding=[1, 1, 1, 1], activation=relu}",),
         "{padding=[1, 1, 1, 1], activation=relu}"),
    ],
)  # fmt: skip
def test_two_into_one(lines: tuple[str, ...], after: str) -> None:
    kernel = "3, 3" if "%w3" in " ".join(lines) else "1, 1"
    one = "a" if any(line.startswith("%a") for line in lines) else "y"
    name = "y" if lines[-1].startswith("%y = conv2d") else one
    assert_rewrites(
        PASS,
        net(*lines),
        f"""
        %x = input : f32[2, 4, 7, 6]
        %r = input : f32[2, 4, 7, 6]
        %v = input : f32[4, 4, 1, 1]
        %{name}.w.1 = constant ... : f32[4, 4, {kernel}]
        %{name}.b.1 = constant ... : f32[4]
        %y = conv2d(%x, %{name}.w.1, %{name}.b.1){" " + after if after != "{}" else ""}
        return %y
        """,
    )


CASES = [
    (k, p, d, g, s)
    for k, d, g, s in itertools.product(((3, 1), (5, 3), (3, 3), (1, 3)), ((1, 1), (2, 1), (2, 2)), (1, 2, 4), (1, 2))
    for p in (0, 1)
]


@pytest.mark.parametrize(("kernels", "shift", "dilations", "groups", "stride"), CASES)
def test_kernels_are_placed_by_their_padding(
    kernels: tuple[int, int], shift: int, dilations: tuple[int, int], groups: int, stride: int
) -> None:
    """Of the same output size, centred alike or a pixel apart; refusals are for the cost alone."""
    windows = []
    for index, (kernel, dilation) in enumerate(zip(kernels, dilations, strict=True)):
        reach = dilation * (kernel - 1)
        top = reach // 2 + 1 + (shift if index else 0)
        windows.append((kernel, f"padding=[{top}, {top}, {reach + 2 - top}, {reach + 2 - top}]", dilation))
    lines = [
        f"%w{i} = constant normal(seed={i}) : f32[4, {4 // groups}, {k}, {k}]\n"
        f"%c{i} = conv2d(%x, %w{i}) {{{p}, dilation=[{d}, {d}], groups={groups}, stride=[{stride}, 2]}}"
        for i, (k, p, d) in enumerate(windows)
    ]
    if any(int(n) < 0 for _, p, _ in windows for n in p[9:-1].split(",")):
        return
    text = "%x = input : f32[1, 4, 8, 9]\n" + "\n".join(lines) + "\n%y = add(%c0, %c1)\nreturn %y"
    graph = graph_of(text)
    result = PASS.run(graph, Context(force=True))
    if result.rewrites:
        assert [n.op for n in result.graph.operators] == ["conv2d"]
        assert result.graph.macs() <= graph.macs()
        assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)
    else:
        assert "multiply-adds" in result.refusals[0].reason


def test_other_groups_take_the_greatest_common_divisor() -> None:
    graph = graph_of(
        """
        %x = input : f32[1, 8, 5, 5]
        %a = constant normal(seed=1) : f32[8, 4, 3, 3]
        %b = constant normal(seed=2) : f32[8, 2, 3, 3]
        %c = conv2d(%x, %a) {groups=2}
        %d = conv2d(%x, %b) {groups=4}
        %y = add(%c, %d)
        return %y
        """
    )
    result = run_pass(PASS, graph)
    assert [n.attrs["groups"] for n in result.graph.operators] == [2]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    ("lines", "outputs", "reason"),
    [
        (("%a = conv2d(%x, %w1) {activation=relu}", "%y = add(%a, %x)"), "%y", "%a applies relu ahead of the sum"),
        (("%a = conv2d(%x, %w1)", "%c = conv2d(%x, %w1) {activation=tanh}", "%y = add(%a, %c)"), "%y",
         "%c applies tanh ahead of the sum"),
        (("%a = conv2d(%x, %w1)", "%y = add(%a, %x)"), "%y, %a", "%a is an output"),
        (("%a = conv2d(%x, %w1)", "%c = mul(%x, %k)", "%z = relu(%c)", "%y = add(%a, %c)"), "%y, %z", "%c also feeds"),
        (("%a = conv2d(%x, %w1)", "%c = mul(%x, %all)", "%y = add(%a, %c)"), "%y", "is not one value a channel"),
        (("%a = conv2d(%x, %v)", "%y = add(%a, %x)"), "%y", "w of %a, %v, is computed by input"),
        (("%a = conv2d(%x, %w1, _, _, %b)", "%y = add(%a, %x)"), "%y", "%a has a prologue"),
        (("%a = conv2d(%x, %w1, _, %r)", "%c = conv2d(%x, %w1, _, %r)", "%y = add(%a, %c)"), "%y", "both have a resid"),
        (("%a = conv2d(%x, %h) {padding=[1, 0, 1, 0]}", "%c = conv2d(%x, %g) {padding=[0, 1, 0, 1]}",
          "%y = add(%a, %c)"), "%y", "one convolution takes 36 multiply-adds for an output, both take 24"),
        (("%a = conv2d(%x, %huge)", "%c = conv2d(%x, %huge)", "%y = add(%a, %c)"), "%y", "infinite in f32"),
        (("%s = slice(%x) {axis=2, start=0, stop=1}", "%t = slice(%s) {axis=3, start=0, stop=1}",
          "%a = conv2d(%t, %w1) {stride=[2, 2]}", "%y = add(%a, %t)"), "%y", "%a has stride [2, 2], %t keeps"),
        (("%s = slice(%x) {axis=2, start=0, stop=1}", "%a = conv2d(%s, %w1) {stride=[2, 1]}",
          "%c = conv2d(%s, %w1)", "%y = add(%a, %c)"), "%y", "%c has another stride than %a"),
    ],
)  # fmt: skip
def test_refusals(lines: tuple[str, ...], outputs: str, reason: str) -> None:
    assert_refuses(PASS, net(*lines, outputs=outputs), "y", reason)


def test_broadcast_sums_and_other_inputs_are_no_branches() -> None:
    graph = graph_of(
        net("%a = conv2d(%x, %w1)", "%c = conv2d(%r, %w1)", "%y = add(%a, %c)")
    )
    result = run_pass(PASS, graph)
    assert result.graph is graph and not result.refusals


def test_a_rewrite_without_predicted_gain_is_refused() -> None:
    class Flat:
        def seconds(self, node: object, inputs: object) -> float:
            return 1e-6 if getattr(node, "op", "") == "conv2d" else 0.0

    graph = graph_of(net(f"%a = conv2d(%x, %w3) {PAD}", "%y = add(%x, %a)"))
    result = PASS.run(graph, Context(cost=Flat()))
    assert result.graph is graph
    assert "one convolution takes 1.0 us, now 1.0 us" in result.refusals[0].reason
    assert PASS.run(graph, Context(cost=Flat(), force=True)).rewrites
