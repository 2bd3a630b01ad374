from __future__ import annotations

import math

import pytest
from support import assert_refuses, assert_same_outputs, graph_of, run_pass

from convc.passes import PASSES, Numerics

PASS = PASSES["recognise_activations"]
NUMBERS = {
    "three": 3.0, "six": 6.0, "sixth": 1 / 6, "half": 0.5, "one": 1.0, "two": 2.0, "root2": 1.4142135, "r": 0.70710677,
    "c0": 0.044715, "c1": 0.7978846, "fifth": 0.2, "zero": 0.0, "minus": -1.0, "k": 1.702,
}  # fmt: skip


def net(lines: str, y: str = "y") -> str:
    """Lines over x, separated by `;`, with the numbers above as constants; each needs its own `%name =`."""
    used = {name: value for name, value in NUMBERS.items() if f"%{name})" in lines or f"%{name}," in lines}
    constants = "\n".join(f"%{name} = constant [{value!r}] : f32[1]" for name, value in used.items())
    return f"%x = input : f32[2, 3, 5, 4]\n{constants}\n" + lines.replace("; ", "\n") + f"\nreturn %{y}"


CLIP = "%a = add(%x, %three); %c = clip(%a) {min=0.0, max=6.0}; "
ERF = "%d = div(%x, %root2); %e = erf(%d); %o = add(%e, %one); "
CUBE = "%p = pow(%x, %three); %q = mul(%p, %c0); %s = add(%x, %q); %u = mul(%s, %c1); "
CUBE += "%t = tanh(%u); %o = add(%one, %t); "
CASES = {
    "hard_swish": [
        CLIP + "%m = mul(%x, %c); %y = div(%m, %six)",
        CLIP + "%m = mul(%c, %x); %y = mul(%sixth, %m)",
        CLIP + "%m = div(%c, %six); %y = mul(%x, %m)",
        CLIP + "%m = mul(%x, %sixth); %y = mul(%m, %c)",
        "%h = hard_sigmoid(%x) {alpha=0.16666667, beta=0.5}; %y = mul(%h, %x)",
        "%m = mul(%x, %sixth); %a = add(%m, %half); %c = clip(%a) {min=0.0, max=1.0}; %y = mul(%x, %c)",
        "%a = add(%three, %x); %b = max(%a, %zero); %c = min(%b, %six); %m = mul(%x, %c); %y = div(%m, %six)",
        "%a = add(%three, %x); %b = relu(%a); %c = min(%six, %b); %m = mul(%x, %c); %y = div(%m, %six)",
    ],
    "hard_sigmoid": [
        CLIP + "%y = div(%c, %six)",
        CLIP + "%y = mul(%sixth, %c)",
        "%m = mul(%x, %fifth); %a = add(%half, %m); %y = clip(%a) {min=0.0, max=1.0}",
        "%c = clip(%x) {min=0.0, max=6.0}; %y = div(%c, %six)",
    ],
    "silu": [
        "%s = sigmoid(%x); %y = mul(%x, %s)",
        "%n = neg(%x); %e = exp(%n); %d = add(%e, %one); %s = div(%one, %d); %y = mul(%s, %x)",
    ],
    "sigmoid": [
        "%n = neg(%x); %e = exp(%n); %d = add(%one, %e); %y = reciprocal(%d)",
        "%n = neg(%x); %e = exp(%n); %d = add(%e, %one); %y = div(%one, %d)",
    ],
    "softplus": ["%e = exp(%x); %d = add(%e, %one); %y = log(%d)"],
    "mish": [
        "%s = softplus(%x); %t = tanh(%s); %y = mul(%x, %t)",
        "%e = exp(%x); %d = add(%e, %one); %s = log(%d); %t = tanh(%s); %y = mul(%t, %x)",
    ],
    "gelu": [
        ERF + "%m = mul(%x, %o); %y = mul(%m, %half)",
        ERF + "%m = mul(%x, %half); %y = mul(%m, %o)",
        ERF + "%m = mul(%o, %half); %y = mul(%x, %m)",
        ERF + "%m = mul(%x, %o); %y = div(%m, %two)",
        "%d = mul(%x, %r); %e = erf(%d); %o = add(%one, %e); %m = mul(%half, %x); %y = mul(%o, %m)",
    ],
    "gelu_tanh": [
        CUBE + "%m = mul(%x, %half); %y = mul(%m, %o)",
        CUBE + "%m = mul(%o, %half); %y = mul(%x, %m)",
        "%h = mul(%x, %half); %g = mul(%x, %c1); %p = mul(%x, %x); %q = mul(%p, %c0); %w = add(%q, %one); "
        "%u = mul(%g, %w); %t = tanh(%u); %o = add(%t, %one); %y = mul(%h, %o)",
    ],
    "relu": ["%y = max(%zero, %x)"],
    "clip": ["%a = max(%x, %minus); %y = min(%a, %six)"],
}  # fmt: skip


@pytest.mark.parametrize(("op", "lines"), [(op, lines) for op, all_lines in CASES.items() for lines in all_lines])
def test_every_form(op: str, lines: str) -> None:
    graph = graph_of(net(lines))
    result = run_pass(PASS, graph)
    (node,) = result.graph.operators
    assert node.op == op.removesuffix("_tanh") and node.name == "y", str(result.graph)
    assert node.op != "gelu" or (node.attrs["approximate"] == "tanh") == op.endswith("_tanh")
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)
    assert not run_pass(PASS, result.graph).rewrites


def test_parameters_of_hard_sigmoid() -> None:
    (node,) = run_pass(PASS, graph_of(net(CASES["hard_sigmoid"][2]))).graph.operators
    assert math.isclose(node.attrs["alpha"], 0.2, rel_tol=1e-6) and node.attrs["beta"] == 0.5


def test_a_scaled_argument() -> None:
    """The activation is of the product; the product stays."""
    graph = graph_of(net("%z = mul(%x, %two); %s = sigmoid(%z); %y = mul(%z, %s)"))
    result = run_pass(PASS, graph)
    assert [n.op for n in result.graph.operators] == ["mul", "silu"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_what_others_read_stays() -> None:
    graph = graph_of(net("%s = sigmoid(%x); %y = mul(%x, %s)").replace("return %y", "return %y, %s"))
    result = run_pass(PASS, graph)
    assert [n.op for n in result.graph.operators] == ["sigmoid", "silu"]
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("%z = mul(%x, %k); %s = sigmoid(%z); %y = mul(%x, %s)", "(1 x) sigmoid(1.702 x) of %x is none"),
        ("%a = add(%x, %two); %c = clip(%a) {min=0.0, max=6.0}; %y = mul(%x, %c)", "(1 x) clip(1 x + 2) of %x is none"),
        ("%e = erf(%x); %o = add(%e, %one); %y = mul(%x, %o)", "(1 x) erf(1 x) + 1 x of %x is none"),
        ("%t = tanh(%x); %y = mul(%x, %t)", "(1 x) tanh(1 x) of %x is none"),
        ("%s = softplus(%x); %t = tanh(%s); %z = mul(%x, %two); %y = mul(%z, %t)", "(2 x) tanh(softplus(x)) of %x"),
        ("%h = hard_sigmoid(%x); %y = mul(%h, %x)", "(1 x) hard_sigmoid(1 x) of %x is none"),
    ],
)  # fmt: skip
def test_refusals(lines: str, reason: str) -> None:
    assert_refuses(PASS, net(lines), "y", reason)


@pytest.mark.parametrize(
    "lines",
    [
        "%z = exp(%x); %s = sigmoid(%z); %y = mul(%x, %s)",
        "%y = clip(%x) {min=0.0, max=1.0}",
        "%c = clip(%x) {min=1.0, max=6.0}; %y = div(%c, %six)",
        "%e = exp(%x); %d = add(%e, %two); %y = log(%d)",
        "%e = exp(%x); %d = add(%e, %one); %y = div(%one, %d)",
        "%a = max(%x, %six); %b = min(%a, %one); %y = exp(%b)",
    ],
)
def test_other_arithmetic_is_left_alone(lines: str) -> None:
    graph = graph_of(net(lines))
    result = run_pass(PASS, graph)
    assert not any(r.rule == "recognise_gated" or r.rule == "recognise_exponential" for r in result.rewrites)
    assert_same_outputs(graph, result.graph, Numerics.REASSOCIATES)


def test_a_gate_of_another_shape_is_no_activation() -> None:
    graph = graph_of(
        """
        %x = input : f32[2, 3, 4, 4]
        %g = global_avg_pool(%x)
        %s = sigmoid(%g)
        %y = mul(%x, %s)
        return %y
        """
    )
    assert run_pass(PASS, graph).graph is graph


def test_a_long_chain_of_arithmetic_takes_no_time() -> None:
    lines = "; ".join(f"%v{i + 1} = mul(%v{i}, %v{i})" for i in range(60))
    graph = graph_of(net(lines.replace("%v0,", "%x,").replace("%v0)", "%x)"), "v60"))
    assert run_pass(PASS, graph).graph is graph
