from __future__ import annotations

import pytest
from support import assert_refuses, assert_same_outputs, graph_of, run_pass

from convc.ir.graph import Graph
from convc.passes import PASSES, Numerics

PASS = PASSES["recognise_norms"]
CONSTANTS = """
    %eps = constant [0.001] : f32[]
    %two = constant [2.0] : f32[]
    %half = constant [0.5] : f32[]
    %minus = constant [-0.5] : f32[]
    %one = constant [1.0] : f32[1]
    """


def net(lines: str, shape: str = "[2, 6, 5, 4]", constants: str = "") -> Graph:
    """Lines over x, separated by `;`. Constants that nothing reads are dropped by the pass of that name."""
    body = f"%x = input : f32{shape}\n{CONSTANTS}{constants}\n" + lines.replace("; ", "\n")
    return PASSES["eliminate_dead"].run(graph_of(body + "\nreturn %y"), None).graph  # type: ignore[arg-type]


def centred(axes: str = "3") -> str:
    return f"%m = reduce_mean(%x) {{axes=[{axes}]}}; %d = sub(%x, %m); "


def decomposed(axes: str = "3", y: str = "y") -> str:
    """x normalised over the axes, as PyTorch writes it."""
    return (
        centred(axes) + f"%p = pow(%d, %two); %v = reduce_mean(%p) {{axes=[{axes}]}}; "
        f"%a = add(%v, %eps); %s = sqrt(%a); %{y} = div(%d, %s); "
    )


VARIANCE = centred() + "%p = mul(%d, %d); %v = reduce_mean(%p) {axes=[3]}; %a = add(%eps, %v); "


@pytest.mark.parametrize(
    "lines",
    [
        decomposed(),
        decomposed("-1"),
        VARIANCE + "%s = pow(%a, %half); %y = div(%d, %s)",
        VARIANCE + "%s = pow(%a, %minus); %y = mul(%s, %d)",
        VARIANCE + "%s = sqrt(%a); %r = reciprocal(%s); %y = mul(%d, %r)",
        VARIANCE + "%s = sqrt(%a); %r = div(%one, %s); %y = mul(%d, %r)",
        # two copies of the mean and of the difference
        "%n = reduce_mean(%x) {axes=[3]}; %e = sub(%x, %n); "
        + VARIANCE.replace("mul(%d, %d)", "mul(%d, %e)") + "%s = sqrt(%a); %y = div(%e, %s)",
    ],
)  # fmt: skip
def test_layer_norm(lines: str) -> None:
    graph = net(lines)
    result = run_pass(PASS, graph)
    (node,) = result.graph.operators
    assert (node.op, node.attrs["axis"], round(node.attrs["epsilon"], 9)) == ("layer_norm", 3, 0.001)
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize("shape", ["[4]", "[1, 4]", "[5, 1]", "[5, 4]", "[]"])
def test_gamma_and_beta_join(shape: str) -> None:
    constants = f"%g = constant normal(seed=1) : f32{shape}\n%b = constant normal(seed=2) : f32{shape}"
    after = "%t = mul(%n, %g); %u = sub(%b, %t); %w = div(%u, %two); %y = add(%w, %b)"
    graph = net(decomposed("2, 3", "n") + after, constants=constants)
    result = run_pass(PASS, graph)
    assert len(result.graph.operators) == 1
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize("gamma", ["%t = mul(%r, %g); ", ""])
def test_as_tensorflow_writes_it(gamma: str) -> None:
    """Keras: moments, then x * s + (beta - mean * s)."""
    lines = VARIANCE + "%q = sqrt(%a); %r = reciprocal(%q); " + gamma
    lines += "%k = mul(%x, %t); %l = mul(%m, %t); %o = sub(%b, %l); %y = add(%k, %o)"
    constants = "%g = constant normal(seed=1) : f32[4]\n%b = constant normal(seed=2) : f32[4]"
    graph = net(lines if gamma else lines.replace("%t)", "%r)"), constants=constants)
    result = run_pass(PASS, graph)
    assert [n.op for n in result.graph.operators] == ["layer_norm"]
    assert [r.rule for r in result.rewrites] == ["recognise_shifted_layer_norm"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


CHANNELS = "%g = constant normal(seed=1) : f32[6, 1, 1]\n%b = constant normal(seed=2) : f32[1, 6, 1, 1]"


def test_instance_norm() -> None:
    graph = net(decomposed("2, 3", "n") + "%t = mul(%n, %g); %y = add(%t, %b)", constants=CHANNELS)
    result = run_pass(PASS, graph)
    (node,) = result.graph.operators
    assert node.op == "instance_norm"
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize("shape", ["[3, 4]", "[2, 3, 5]"])
def test_rank_3_is_layer_norm_unless_gamma_says_otherwise(shape: str) -> None:
    lines = decomposed("2", "n") if shape.count(",") == 2 else decomposed("1", "n")
    graph = net(lines + "%y = identity(%n)", shape)
    assert [n.op for n in run_pass(PASS, graph).graph.operators] == ["layer_norm", "identity"]
    if shape.count(",") == 2:
        graph = net(lines + "%y = mul(%n, %g)", shape, "%g = constant normal(seed=1) : f32[3, 1]")
        result = run_pass(PASS, graph)
        assert [n.op for n in result.graph.operators][-1:] in (["mul"], ["instance_norm"])
        assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    "norm",
    [
        "instance_norm(%r, %i, %j)",
        "layer_norm(%r) {axis=2}",
    ],
)
@pytest.mark.parametrize("inner", ["[N, 3, 40]", "[N, 3, 2, 5, 4]", "[N, 3, 40, 1]"])
def test_group_norm_between_reshapes(norm: str, inner: str) -> None:
    graph = graph_of(
        f"""
        %x = input : f32[N, 6, 5, 4]
        %i = constant normal(seed=4) : f32[3]
        %j = constant normal(seed=5) : f32[3]
        {CHANNELS}
        %r = reshape(%x) {{shape={inner}}}
        %n = {norm}
        %f = reshape(%n) {{shape=[N, 6, 5, 4]}}
        %t = mul(%f, %g)
        %y = add(%t, %b)
        return %y, %i, %j
        """,
        "(N=2)",
    )
    result = run_pass(PASS, graph)
    (node,) = result.graph.operators
    assert (node.op, node.attrs["groups"]) == ("group_norm", 3)
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_group_norm_from_nothing_but_arithmetic() -> None:
    lines = "%r = reshape(%x) {shape=[2, 3, 40]}; " + decomposed("2", "n").replace("%x", "%r")
    graph = net(lines + "%f = reshape(%n) {shape=[2, 6, 5, 4]}; %t = mul(%f, %g); %y = add(%t, %b)", constants=CHANNELS)
    result = run_pass(PASS, graph)
    assert [n.op for n in result.graph.operators] == ["group_norm"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    ("lines", "node", "reason"),
    [
        (decomposed("1"), "y", "is normalised over axes [1], not over its last ones"),
        (decomposed("0, 2, 3"), "y", "normalised over axes [0, 2, 3], not over its last ones"),
    ],
)
def test_other_axes_are_refused(lines: str, node: str, reason: str) -> None:
    assert_refuses(PASS, str(net(lines)).split("{", 1)[1].rsplit("}", 1)[0], node, reason)


@pytest.mark.parametrize(
    ("norm", "after", "outputs", "reason"),
    [
        ("layer_norm(%x)", "%y = mul(%n, %rows)", "%y", "varies by more than the axes that %n normalises"),
        ("layer_norm(%x)", "%y = mul(%n, %more)", "%y", "varies by more than the axes"),
        ("layer_norm(%x)", "%y = mul(%n, %c)", "%y, %n", "%n is an output"),
        ("layer_norm(%x, %k)", "%y = mul(%n, %c)", "%y", "gamma of %n, %k, is computed by input"),
        ("layer_norm(%x)", "%y = div(%n, %zeros)", "%y", "gamma would be infinite in f32"),
        ("instance_norm(%x, %v, %v)", "%y = mul(%n, %c)", "%y", "is not one value a channel"),
        ("group_norm(%x, %v, %v) {groups=2}", "%y = div(%n, %zeros)", "%y", "infinite"),
    ],
)
def test_constants_that_do_not_fold(norm: str, after: str, outputs: str, reason: str) -> None:
    result = run_pass(
        PASS,
        graph_of(
            f"""
            %x = input : f32[1, 6, 5, 4]
            %k = input : f32[4]
            %c = constant normal(seed=1) : f32[4]
            %v = constant normal(seed=2) : f32[6]
            %rows = constant normal(seed=1) : f32[5, 1]
            %more = constant normal(seed=1) : f32[2, 1, 1, 1]
            %zeros = constant full(0.0) : f32[]
            %n = {norm}
            {after}
            return {outputs}
            """
        ),
    )
    assert not result.rewrites
    assert any(reason in refusal.reason for refusal in result.refusals), result.refusals


@pytest.mark.parametrize(
    "lines",
    [
        # another mean, a mean of something else, no epsilon
        "%m = reduce_mean(%x) {axes=[2]}; %d = sub(%x, %m); %p = mul(%d, %d); %v = reduce_mean(%p) {axes=[3]}; "
        "%a = add(%v, %eps); %s = sqrt(%a); %y = div(%d, %s)",
        "%z = exp(%x); " + centred() + "%p = mul(%z, %z); %v = reduce_mean(%p) {axes=[3]}; %a = add(%v, %eps); "
        "%s = sqrt(%a); %y = div(%d, %s)",
        centred() + "%p = mul(%d, %d); %v = reduce_mean(%p) {axes=[3]}; %s = sqrt(%v); %y = div(%d, %s)",
    ],
)  # fmt: skip
def test_other_arithmetic_is_left_alone(lines: str) -> None:
    graph = net(lines)
    assert run_pass(PASS, graph).graph is graph
