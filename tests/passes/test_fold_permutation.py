from __future__ import annotations

import numpy as np
import pytest
from support import assert_refuses, assert_rewrites, assert_same_outputs, graph_of, run_pass

from convc.ir.graph import Graph
from convc.passes import PASSES, Numerics, run_passes

PASS = PASSES["fold_permutation"]
SWAP = "%p = constant [2, 3, 0, 1] : i64[4]"
TURN = "%q = constant [1, 2, 3, 0] : i64[4]"


def operators(graph: Graph) -> list[str]:
    return [node.op for node in graph.operators]


def after(body: str) -> Graph:
    """The graph after the pass, which computes the same, bit for bit."""
    graph = graph_of(body)
    result = run_pass(PASS, graph)
    assert_same_outputs(graph, result.graph, Numerics.EXACT)
    assert not run_pass(PASS, result.graph).rewrites
    return result.graph


# ---- compose -------------------------------------------------------------------------------------------------------


def test_selections_of_selections_are_one() -> None:
    assert_rewrites(
        PASS,
        f"""
        %x = input : f32[2, 4, 3, 3]
        {SWAP}
        {TURN}
        %a = gather(%x, %p) {{axis=1}}
        %y = gather(%a, %q) {{axis=1}}
        return %y
        """,
        """
        %x = input : f32[2, 4, 3, 3]
        %y.indices.1 = constant [3, 0, 1, 2] : i64[4]
        %y = gather(%x, %y.indices.1) {axis=1}
        return %y
        """,
        rules=["compose_selections"],
    )


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"{SWAP} %a = gather(%x, %p) {{axis=1}} %y = gather(%a, %p) {{axis=1}}", "identity"),
        (f"{SWAP} %a = gather(%x, %p) {{axis=1}} %y = slice(%a) {{axis=1, start=0, stop=2}}", "slice"),
        ("%a = slice(%x) {axis=1, start=1, stop=4} %y = slice(%a) {axis=1, start=0, stop=3, step=2}", "slice"),
        (f"{TURN} %a = slice(%x) {{axis=1, start=3, stop=-1, step=-1}} %y = gather(%a, %q) {{axis=-3}}", "gather"),
        ("%i = constant [-3, -2] : i64[2] %y = gather(%x, %i) {axis=1}", "slice"),
        ("%i = constant [2, 2, 0] : i64[3] %a = gather(%x, %i) {axis=1} %y = relu(%a)", "gather relu"),
        ("%a = slice(%x) {axis=1, start=0, stop=1} %b = slice(%x) {axis=1, start=1, stop=4} "
         "%y = concat(%a, %b) {axis=1}", "identity"),
        ("%a = slice(%x) {axis=1, start=0, stop=1} %b = slice(%x) {axis=1, start=1, stop=3} "
         "%y = concat(%b, %a) {axis=1}", "slice slice concat"),
        ("%r = relu(%x) %a = concat(%x, %r) {axis=1} %b = concat(%a, %x) {axis=1} %y = neg(%b)", "relu concat neg"),
    ],
)  # fmt: skip
def test_what_is_left_of_moves(body: str, left: str) -> None:
    assert " ".join(operators(after(f"%x = input : f32[1, 4, 3, 2] {body} return %y"))) == left


def test_a_selection_of_a_concat_takes_what_it_needs() -> None:
    """As in ShuffleNet v2: halves of an interleaved pair of halves."""
    result = after(
        """
        %x = input : f32[1, 4, 3, 3]
        %r = relu(%x)
        %n = neg(%x)
        %c = concat(%r, %n) {axis=1}
        %i = constant [0, 4, 1, 5, 2, 6, 3, 7] : i64[8]
        %s = gather(%c, %i) {axis=1}
        %a = slice(%s) {axis=1, start=0, stop=4}
        %w = constant normal(seed=1) : f32[4, 4, 1, 1]
        %y = conv2d(%a, %w)
        return %y
        """
    )
    assert operators(result) == ["relu", "neg", "slice", "slice", "concat", "gather", "conv2d"]
    absorbed, _ = run_passes(result, ["absorb_permutation"])
    assert operators(absorbed) == ["relu", "neg", "slice", "slice", "concat", "conv2d"]
    assert_same_outputs(result, absorbed, Numerics.REASSOCIATES)


# ---- raise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "above",
    [
        "%v = conv2d(%x, %w, %c)",
        "%k = conv2d(%x, %w, %c) {activation=relu} %v = max_pool2d(%k) {kernel=[2, 2]}",
        "%k = conv2d(%x, %w) %v = conv2d(%k, %d, %c) {groups=4, padding=[1, 1, 1, 1]}",
        "%k = conv2d(%x, %w) %l = conv2d(%x, %w, %c) %v = add(%k, %l)",
        "%k = conv2d(%x, %w) %v = conv2d(%x, %w, %c, %k)",
        "%k = conv2d(%x, %w) %v = batch_norm(%k, %c, %c, %c, %one)",
        "%k = conv2d(%x, %w) %m = mul(%k, %u) %v = global_avg_pool(%m)",
        "%k = conv2d(%x, %w) %l = conv2d(%x, %w) %v = concat(%k, %l) {axis=2}",
    ],
)
def test_a_permutation_goes_into_rows(above: str) -> None:
    result = after(
        f"""
        %x = input : f32[1, 3, 6, 5]
        %w = constant normal(seed=1) : f32[4, 3, 1, 1]
        %d = constant normal(seed=2) : f32[4, 1, 3, 3]
        %c = constant normal(seed=3) : f32[4]
        %one = constant full(1.0) : f32[4]
        %u = constant normal(seed=4) : f32[4, 1, 1]
        {SWAP}
        {above}
        %g = gather(%v, %p) {{axis=1}}
        %y = softmax(%g) {{axis=1}}
        return %y
        """
    )
    assert "gather" not in operators(result)


def test_weights_that_others_share_stay() -> None:
    result = after(
        f"""
        %x = input : f32[1, 3, 6, 5]
        %w = constant normal(seed=1) : f32[4, 3, 1, 1]
        {SWAP}
        %k = conv2d(%x, %w)
        %y = gather(%k, %p) {{axis=1}}
        %z = conv2d(%x, %w) {{stride=[2, 2]}}
        return %y, %z
        """
    )
    assert operators(result) == ["conv2d", "conv2d"] and result["w"].array.shape == (4, 3, 1, 1)


# ---- sink ----------------------------------------------------------------------------------------------------------

BELOW = {
    "elementwise": "%v = hard_swish(%g)",
    "constants": "%a = mul(%g, %u) %b = add(%a, %one) %v = prelu(%b, %u)",
    "batch_norm": "%v = batch_norm(%g, %c, %c, %c, %positive)",
    "instance_norm": "%v = instance_norm(%g, %c, %c)",
    "depthwise": "%v = conv2d(%g, %d, %c) {groups=4, padding=[1, 1, 1, 1], activation=relu}",
    "pools": "%a = avg_pool2d(%g) {kernel=[2, 2]} %v = max_pool2d(%a) {kernel=[2, 2]}",
    "borders": "%v = pad(%g) {before=[0, 0, 1, 0], after=[0, 0, 0, 2]}",
    "resize": '%v = resize(%g) {size=[1, 4, 12, 10], scales=[1.0, 1.0, 2.0, 2.0], mode="nearest"}',
    "reduce": "%v = reduce_sum(%g) {axes=[2]}",
    "gate": "%m = global_avg_pool(%g) %s = sigmoid(%m) %v = mul(%g, %s)",
    "diamond": "%a = tanh(%g) %b = relu(%g) %v = sub(%a, %b)",
    "broadcast": "%m = reduce_mean(%x) {axes=[1]} %v = mul(%g, %m)",
    "twin": "%h = neg(%x) %t = gather(%h, %p) {axis=1} %v = add(%g, %t)",
    "pushed": "%h = conv2d(%x, %e) %v = add(%g, %h)",
    "residual": "%v = conv2d(%x, %e, %c, %g)",
    "block": "%r = relu(%g) %k = conv2d(%r, %e) %v = add(%r, %k)",
    "concat": "%h = relu(%x) %v = concat(%h, %g) {axis=1}",
    "rows": "%v = concat(%g, %g) {axis=3}",
    "other axis": "%v = slice(%g) {axis=2, start=1, stop=4}",
}
CONSTANTS = f"""
    %c = constant normal(seed=3) : f32[4]
    %positive = constant uniform(seed=3, low=0.5, high=1.5) : f32[4]
    %one = constant full(1.0) : f32[]
    %u = constant normal(seed=4) : f32[4, 1, 1]
    %d = constant normal(seed=5) : f32[4, 1, 3, 3]
    %e = constant normal(seed=6) : f32[4, 4, 1, 1]
    {SWAP}
    """


@pytest.mark.parametrize("name", BELOW)
def test_a_permutation_sinks_in_front_of_a_convolution(name: str) -> None:
    channels = 8 if name == "concat" else 4
    result = after(
        f"""
        %x = input : f32[1, 4, 6, 5]
        {CONSTANTS}
        %w = constant normal(seed=1) : f32[3, {channels}, 1, 1]
        %g = gather(%x, %p) {{axis=1}}
        {BELOW[name]}
        %y = conv2d(%v, %w)
        return %y
        """
    )
    moves = [node for node in result.operators if node.op == "gather"]
    assert moves and all(
        user.op == "conv2d" and user.attrs["groups"] == 1 for m in moves for user in result.users(m.name)
    )
    absorbed, _ = run_passes(result, ["absorb_permutation"])
    assert "gather" not in operators(absorbed)
    assert_same_outputs(result, absorbed, Numerics.REASSOCIATES)


def test_a_permutation_sinks_through_flattening_into_a_linear() -> None:
    result = after(
        f"""
        %x = input : f32[2, 4, 3, 2]
        %w = constant normal(seed=1) : f32[5, 24]
        {SWAP}
        %g = gather(%x, %p) {{axis=1}}
        %r = relu(%g)
        %f = reshape(%r) {{shape=[2, 24]}}
        %y = linear(%f, %w)
        return %y
        """
    )
    assert operators(result) == ["relu", "reshape", "gather", "linear"]
    absorbed, _ = run_passes(result, ["absorb_permutation"])
    assert operators(absorbed) == ["relu", "reshape", "linear"]
    assert_same_outputs(result, absorbed, Numerics.REASSOCIATES)


def test_permutations_that_undo_each_other_around_operators_go() -> None:
    result = after(
        f"""
        %x = input : f32[1, 4, 6, 5]
        {CONSTANTS}
        %g = gather(%x, %p) {{axis=1}}
        %a = conv2d(%g, %d, %c) {{groups=4, padding=[1, 1, 1, 1]}}
        %b = relu(%a)
        %y = gather(%b, %p) {{axis=1}}
        return %y
        """
    )
    assert operators(result) == ["conv2d", "relu"]


# ---- refusals ------------------------------------------------------------------------------------------------------


def kept(below: str, returns: str = "%y") -> str:
    return f"%x = input : f32[1, 4, 6, 5] {CONSTANTS} %g = gather(%x, %p) {{axis=1}} {below} return {returns}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (kept("%y = relu(%g)"), "%y is an output of the graph"),
        (kept("%y = relu(%g)", "%g, %y"), "%g is an output of the graph"),
        (kept("%y = lrn(%g) {size=3}"), "%y is an output"),
        (kept("%a = lrn(%g) {size=3} %y = conv2d(%a, %e)"), "lrn %a needs its channels in order"),
        (kept("%a = softmax(%g) {axis=1} %y = conv2d(%a, %e)"), "softmax %a needs its channels in order"),
        (kept("%a = reshape(%g) {shape=[1, 2, 12, 5]} %y = neg(%a)"), "%y is an output"),
        (kept("%a = add(%g, %x) %y = conv2d(%a, %e)"), "at %a: %x is an input"),
        (kept("%h = tanh(%x) %a = add(%g, %h) %y = conv2d(%a, %e)"), "at %a: %x is an input"),
        (kept("%h = conv2d(%x, %e) %a = add(%g, %h) %y = conv2d(%a, %e)", "%y, %h"), "at %a: %h is an output"),
    ],
)
def test_refusals(body: str, reason: str) -> None:
    assert_refuses(PASS, body, "g", reason)


@pytest.mark.parametrize(
    ("above", "reason"),
    [
        ("%v = relu(%x)", "%x is an input"),
        ("%v = conv2d(%x, %e) {groups=1} %z = relu(%v)", "%v also feeds %z"),
        ("%h = constant normal(seed=1) : f32[4, 2, 1, 1] %v = conv2d(%x, %h) {groups=2} %z = relu(%x)",
         "the selection does not map the groups of %v onto groups"),
        ("%w = exp(%e) %v = conv2d(%x, %w) %z = relu(%x)", "w of %v, %w, is computed by exp"),
        ("%v = lrn(%x) {size=3} %z = relu(%x)", "lrn %v needs its channels in order"),
    ],
)  # fmt: skip
def test_refusals_on_the_way_up(above: str, reason: str) -> None:
    turn = "%q = constant [1, 2, 3, 0] : i64[4]"
    returns = "%y, %z" if "%z" in above else "%y"
    text = f"%x = input : f32[1, 4, 6, 5] {CONSTANTS} {turn} {above} %y = gather(%v, %q) {{axis=1}} return {returns}"
    assert_refuses(PASS, text, "y", reason)


def test_only_so_many_operators_are_passed() -> None:
    chain = " ".join(f"%r{i} = tanh(%{'g' if i == 0 else f'r{i - 1}'})" for i in range(70))
    assert_refuses(PASS, kept(f"{chain} %y = conv2d(%r69, %e)"), "g", "more than 64 operators below it")


def test_fewer_rows_are_for_the_pass_that_may_sum_in_another_order() -> None:
    body = "%x = input : f32[1, 4, 6, 5] %e = constant normal(seed=6) : f32[4, 4, 1, 1] %v = conv2d(%x, %e) "
    body += "%i = constant [3, 0] : i64[2] %y = gather(%v, %i) {axis=1} return %y"
    assert_refuses(PASS, body, "y", "fewer rows of conv2d %v may sum in another order")
    graph = graph_of(body)
    narrow = run_pass(PASSES["absorb_permutation"], graph).graph
    assert operators(narrow) == ["conv2d"] and narrow.macs() * 2 == graph.macs()
    assert_same_outputs(graph, narrow, Numerics.REASSOCIATES)


@pytest.mark.parametrize("seed", range(6))
def test_random_orders_through_groups(seed: int) -> None:
    """Whole groups in another order pass a grouped convolution; anything else stays ahead of it."""
    random = np.random.default_rng(seed)
    order = (random.permutation(3)[:, None] * 2 + np.arange(2)).reshape(-1)
    text = f"""
        %x = input : f32[1, 6, 4, 4]
        %k = constant normal(seed=1) : f32[6, 6, 1, 1]
        %w = constant normal(seed=2) : f32[9, 2, 3, 3]
        %p = constant {list(map(int, (order[:, None] // 2 * 3 + np.arange(3))[::2].reshape(-1)))} : i64[9]
        %c = conv2d(%x, %k)
        %v = conv2d(%c, %w) {{groups=3}}
        %y = gather(%v, %p) {{axis=1}}
        return %y
        """
    assert operators(after(text)) == ["conv2d", "conv2d"]
