"""recognise_pooling, recognise_linear, recognise_shuffle and recognise_gate."""

from __future__ import annotations

import pytest
from support import assert_refuses, assert_rewrites, assert_same_outputs, graph_of, run_pass

from convc.passes import PASSES, Numerics

POOLING, LINEAR = PASSES["recognise_pooling"], PASSES["recognise_linear"]
SHUFFLE, GATE = PASSES["recognise_shuffle"], PASSES["recognise_gate"]


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("%y = reduce_mean(%x) {axes=[2, 3]}", "%y = global_avg_pool(%x)"),
        ("%y = reduce_max(%x) {axes=[-1, -2]}", "%y = global_max_pool(%x)"),
        ("%y = reduce_mean(%x) {axes=[3, 2], keepdims=false}",
         "%y.1 = global_avg_pool(%x)\n%y = reshape(%y.1) {shape=[2, 3]}"),
        ("%m = reduce_mean(%x) {axes=[3]}\n%y = reduce_mean(%m) {axes=[2]}", "%y = global_avg_pool(%x)"),
        ("%m = reduce_mean(%x) {axes=[2], keepdims=false}\n%y = reduce_mean(%m) {axes=[2], keepdims=false}",
         "%y.1 = global_avg_pool(%x)\n%y = reshape(%y.1) {shape=[2, 3]}"),
        ("%y = avg_pool2d(%x) {kernel=[5, 4], stride=[7, 7]}", "%y = global_avg_pool(%x)"),
        ("%y = max_pool2d(%x) {kernel=[5, 4]}", "%y = global_max_pool(%x)"),
    ],
)  # fmt: skip
def test_global_pools(line: str, after: str) -> None:
    assert_rewrites(
        POOLING,
        f"%x = input : f32[2, 3, 5, 4]\n{line}\nreturn %y",
        f"%x = input : f32[2, 3, 5, 4]\n{after}\nreturn %y",
    )


def test_a_window_that_pads_is_refused() -> None:
    text = "%x = input : f32[2, 3, 5, 4]\n%y = avg_pool2d(%x) {kernel=[5, 4], padding=[1, 0, 0, 0]}\nreturn %y"
    assert_refuses(POOLING, text, "y", "its window is the plane, and it pads by [1, 0, 0, 0]")


@pytest.mark.parametrize(
    "line",
    [
        "reduce_mean(%x) {axes=[1]}",
        "reduce_mean(%x) {axes=[1, 2, 3]}",
        "avg_pool2d(%x) {kernel=[5, 3]}",
        "reduce_sum(%x) {axes=[2, 3]}",
    ],
)
def test_other_reductions_stay(line: str) -> None:
    graph = graph_of(f"%x = input : f32[2, 3, 5, 4]\n%y = {line}\nreturn %y")
    assert run_pass(POOLING, graph).graph is graph


@pytest.mark.parametrize("x", ["[2, 5]", "[2, 7, 5]", "[N, 5]"])
@pytest.mark.parametrize("bias", ["[3]", "[1, 3]", "[]", "[1]"])
def test_linear_from_matmul_and_add(x: str, bias: str) -> None:
    graph = graph_of(
        f"""
        %x = input : f32{x}
        %v = constant normal(seed=1) : f32[5, 3]
        %b = constant normal(seed=2) : f32{bias}
        %m = matmul(%x, %v)
        %a = add(%b, %m)
        %y = add(%a, %b)
        return %y
        """,
        "(N=2)" if "N" in x else "",
    )
    result = run_pass(LINEAR, graph)
    (node,) = result.graph.operators
    assert node.op == "linear" and len(node.inputs) == 3
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    ("lines", "node", "reason"),
    [
        ("%y = matmul(%x, %k)", "y", "is multiplied with %k, which is computed by input"),
        ("%y = matmul(%r, %v)", "y", "%r: f32[5] and %v: f32[5, 3] are no rows and no matrix"),
        ("%m = linear(%x, %w)\n%y = add(%m, %rows)", "y", "is not one value for each of the 3 outputs of %m"),
        ("%m = linear(%x, %w) {activation=relu}\n%y = add(%m, %b)", "y", "%m applies relu in between"),
        ("%m = linear(%x, %w)\n%z = relu(%m)\n%t = add(%m, %b)\n%y = add(%z, %t)", "t", "%m also feeds %z"),
    ],
)
def test_refusals_of_linear(lines: str, node: str, reason: str) -> None:
    constants = {
        "v": "normal(seed=1) : f32[5, 3]", "w": "normal(seed=1) : f32[3, 5]", "b": "normal(seed=2) : f32[3]",
        "rows": "normal(seed=3) : f32[4, 3]",
    }  # fmt: skip
    used = "\n".join(f"%{n} = constant {v}" for n, v in constants.items() if f"%{n})" in lines)
    text = f"%x = input : f32[4, 5]\n%k = input : f32[5, 3]\n%r = input : f32[5]\n{used}\n{lines}\nreturn %y"
    assert_refuses(LINEAR, text, node, reason)


@pytest.mark.parametrize(
    ("x", "apart", "perm"),
    [
        ("[2, 6, 4, 5]", "[2, 3, 2, 4, 5]", "[0, 2, 1, 3, 4]"),
        ("[2, 6, 4, 5]", "[2, 2, 3, 20]", "[0, 2, 1, 3]"),
        ("[N, 6, H, W]", "[N, 3, 2, H, W]", "[0, 2, 1, 3, 4]"),
        ("[N, 6, H, W]", "[N, 3, 2, H*W]", "[0, 2, 1, 3]"),
        ("[N, 6, H, W]", "[N, 2, 3, W, H]", "[0, 2, 1, 3, 4]"),
    ],
)
def test_shuffles(x: str, apart: str, perm: str) -> None:
    dims = "(N=2, H=4, W=5)" if "N" in x else ""
    before = f"""
        %x = input : f32{x}
        %a = reshape(%x) {{shape={apart}}}
        %t = transpose(%a) {{perm={perm}}}
        %y = reshape(%t) {{shape={x}}}
        %z = reshape(%t) {{shape={x.replace("4, 5", "20").replace("H, W", "H*W")}}}
        return %y, %z
        """
    graph = graph_of(before, dims)
    result = run_pass(SHUFFLE, graph)
    assert [n.op for n in result.graph.operators] == ["channel_shuffle", "channel_shuffle", "reshape"]
    assert result.graph["y"].attrs["groups"] == int(apart.split(", ")[1])
    assert_same_outputs(graph, result.graph, Numerics.EXACT)


def test_shuffle_between_concat_and_split() -> None:
    """ShuffleNet v2: the shuffle is one operator; the split is slices of it."""
    graph = graph_of(
        """
        %p = input : f32[1, 4, 3, 3]
        %q = input : f32[1, 4, 3, 3]
        %c = concat(%p, %q) {axis=1}
        %a = reshape(%c) {shape=[1, 2, 4, 3, 3]}
        %t = transpose(%a) {perm=[0, 2, 1, 3, 4]}
        %s = reshape(%t) {shape=[1, 8, 3, 3]}
        %y = slice(%s) {axis=1, start=0, stop=4}
        %z = slice(%s) {axis=1, start=4, stop=8}
        return %y, %z
        """
    )
    result = run_pass(SHUFFLE, graph)
    assert [n.op for n in result.graph.operators] == ["concat", "channel_shuffle", "slice", "slice"]
    assert_same_outputs(graph, result.graph, Numerics.EXACT)


@pytest.mark.parametrize("take", ["gather", "slice"])
def test_halves_of_a_shuffle(take: str) -> None:
    """ShuffleNet v2's own export: even and odd channels are parts of the first axis."""
    parts = {
        "gather": ("gather(%s, %zero) {axis=0}", "gather(%s, %one) {axis=0}"),
        "slice": ("slice(%s) {axis=0, start=0, stop=1}", "slice(%s) {axis=0, start=1, stop=2}"),
    }
    graph = graph_of(
        f"""
        %x = input : f32[N, 6, 3, 5]
        %zero = constant [0] : i64[]
        %one = constant [-1] : i64[]
        %a = reshape(%x) {{shape=[3*N, 2, 15]}}
        %t = transpose(%a) {{perm=[1, 0, 2]}}
        %s = reshape(%t) {{shape=[2, N, 3, 3, 5]}}
        %y = {parts[take][0]}
        %z = {parts[take][1]}
        return %y, %z, %zero, %one
        """,
        "(N=2)",
    )
    result = run_pass(SHUFFLE, graph)
    assert "transpose" not in {n.op for n in result.graph.operators}
    slices = [n for n in result.graph.operators if n.op == "slice"]
    assert [(n.attrs["axis"], n.attrs["start"], n.attrs["step"]) for n in slices] == [(1, 0, 2), (1, 1, 2)]
    assert_same_outputs(graph, result.graph, Numerics.EXACT)


def test_another_order_of_axes_is_refused() -> None:
    assert_refuses(
        SHUFFLE,
        """
        %x = input : f32[2, 6, 4, 4]
        %a = reshape(%x) {shape=[2, 2, 3, 4, 4]}
        %t = transpose(%a) {perm=[0, 2, 1, 4, 3]}
        %y = reshape(%t) {shape=[2, 6, 4, 4]}
        return %y
        """,
        "y", "perm=[0, 2, 1, 4, 3] of %t is no swap of axes 1 and 2",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("apart", "perm"),
    [("[2, 6, 2, 2, 4]", "[0, 2, 1, 3, 4]"), ("[2, 3, 4, 2, 4]", "[0, 2, 1, 3, 4]"), ("[12, 4, 4]", "[0, 2, 1]")],
)
def test_other_reshapes_are_no_shuffles(apart: str, perm: str) -> None:
    graph = graph_of(
        f"""
        %x = input : f32[2, 6, 4, 4]
        %a = reshape(%x) {{shape={apart}}}
        %t = transpose(%a) {{perm={perm}}}
        %y = reshape(%t) {{shape=[2, 6, 4, 4]}}
        return %y
        """
    )
    result = run_pass(SHUFFLE, graph)
    assert result.graph is graph and not result.refusals


@pytest.mark.parametrize(("line", "after"), [("mul(%x, %e)", "mul(%x, %g)"), ("add(%e, %x)", "add(%g, %x)")])
def test_gates_broadcast(line: str, after: str) -> None:
    inputs = "%x = input : f32[2, 3, 4, 4]\n%g = input : f32[2, 3, 1, 1]\n"
    expand = "%e = expand(%g) {shape=[2, 3, 4, 4]}\n"
    assert_rewrites(GATE, f"{inputs}{expand}%y = {line}\nreturn %y", f"{inputs}%y = {after}\nreturn %y")


def test_an_expansion_that_makes_the_result_is_refused() -> None:
    text = "%g = input : f32[2, 3, 1, 1]\n%h = input : f32[3, 1, 1]\n%e = expand(%g) {shape=[2, 3, 4, 4]}\n"
    assert_refuses(GATE, text + "%y = mul(%h, %e)\nreturn %y", "y", "it is f32[2, 3, 4, 4] because %e is expanded")


def test_one_of_two_expansions_makes_the_result() -> None:
    graph = graph_of(
        """
        %g = input : f32[2, 3, 1, 1]
        %h = input : f32[2, 1, 4, 1]
        %d = expand(%g) {shape=[2, 3, 4, 4]}
        %e = expand(%h) {shape=[2, 3, 4, 4]}
        %y = mul(%d, %e)
        return %y
        """
    )
    result = run_pass(GATE, graph)
    assert [n.op for n in result.graph.operators] == ["expand", "mul"]
    assert_same_outputs(graph, result.graph, Numerics.EXACT)
