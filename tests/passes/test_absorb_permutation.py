from __future__ import annotations

import pytest
from support import assert_refuses, assert_same_outputs, graph_of, run_pass

from convc.passes import PASSES, Numerics

PASS = PASSES["absorb_permutation"]
P = "%p = constant [2, 3, 0, 1] : i64[4] %g = gather(%x, %p) {axis=1}"
WITHIN = "%p = constant [1, 0, 3, 2] : i64[4] %g = gather(%x, %p) {axis=1}"


@pytest.mark.parametrize(
    "body",
    [
        f"{P} %w = constant normal(seed=1) : f32[3, 4, 3, 3] %y = conv2d(%g, %w) {{padding=[1, 1, 1, 1]}}",
        f"{P} %w = constant normal(seed=1) : f32[4, 3, 2, 2] %y = conv_transpose2d(%g, %w) {{stride=[2, 2]}}",
        f"{WITHIN} %w = constant normal(seed=1) : f32[6, 2, 3, 3] %y = conv2d(%g, %w) {{groups=2}}",
        f"{WITHIN} %w = constant normal(seed=1) : f32[4, 3, 3, 3] %y = conv_transpose2d(%g, %w) {{groups=2}}",
        f"{P} %s = constant normal(seed=2) : f32[4] %t = constant normal(seed=3) : f32[4] %w = constant normal(seed=1) "
        ": f32[3, 4, 1, 1] %y = conv2d(%g, %w, _, _, %s, %t) {prologue=relu}",
        "%p = constant [2, 3, 0, 1] : i64[4] %m = global_avg_pool(%x) %f = reshape(%m) {shape=[2, 4]} "
        "%g = gather(%f, %p) {axis=1} %w = constant normal(seed=1) : f32[3, 4] %y = linear(%g, %w)",
    ],
)
def test_weights_take_the_order_of_what_is_there(body: str) -> None:
    graph = graph_of(f"%x = input : f32[2, 4, 6, 5] {body} return %y")
    result = run_pass(PASS, graph)
    assert [r.rule for r in result.rewrites] == ["absorb_permutation"]
    assert "gather" not in [node.op for node in result.graph.operators] and result.graph.macs() == graph.macs()
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_a_permutation_that_others_read_stays_for_them() -> None:
    graph = graph_of(
        f"%x = input : f32[2, 4, 6, 5] {P} %w = constant normal(seed=1) : f32[3, 4, 3, 3] "
        "%y = conv2d(%g, %w) %z = lrn(%g) {size=3} return %y, %z"
    )
    result = run_pass(PASS, graph).graph
    assert result["y"].inputs[0] == "x" and result["z"].inputs[0] == "g"
    assert_same_outputs(graph, result, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{P} %w = constant normal(seed=1) : f32[6, 2, 3, 3] %y = conv2d(%g, %w) {{groups=2}}",
         "%g permutes channels across the 2 groups"),
        (f"{P} %v = constant normal(seed=1) : f32[3, 4, 1, 1] %w = neg(%v) %y = conv2d(%g, %w)",
         "w of %y, %w, is computed by neg"),
    ],
)  # fmt: skip
def test_refusals(body: str, reason: str) -> None:
    assert_refuses(PASS, f"%x = input : f32[2, 4, 6, 5] {body} return %y", "y", reason)


def test_selections_are_no_permutations() -> None:
    """Zero columns of weights would cost more than a slice."""
    graph = graph_of(
        "%x = input : f32[2, 4, 6, 5] %g = slice(%x) {axis=1, start=1, stop=3} "
        "%w = constant normal(seed=1) : f32[3, 2, 1, 1] %y = conv2d(%g, %w) return %y"
    )
    assert run_pass(PASS, graph).graph is graph
