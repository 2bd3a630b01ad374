"""Activations from the arithmetic that exporters write them as, in any order of the factors.

    x clip(x + 3, 0, 6) / 6 = hard_swish(x)        c clip(a x + b, 0, 1/c) = hard_sigmoid(x; c a, c b)
    x sigmoid(x) = silu(x)                         x tanh(softplus(x)) = mish(x)
    x (1 + erf(x / sqrt 2)) / 2 = gelu(x)          x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2 = gelu(x), tanh form
    1 / (1 + exp(-x)) = sigmoid(x)                 log(1 + exp(x)) = softplus(x)
    max(x, 0) = relu(x), min(max(x, a), b) = clip(x, a, b)

The arithmetic is read as q(x) g(p(x)) + r(x) with polynomials p, q, r of one value (`convc.passes.scalar`).
Numerics: reassociates. Rejects: a gate times a polynomial of its own argument with other numbers than these.
Sources: Howard et al. 2019, arXiv:1905.02244; Misra 2019, arXiv:1908.08681; Hendrycks & Gimpel 2016, arXiv:1606.08415.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from convc.ir.graph import Node, make_node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import required, sources
from convc.passes.scalar import Linear, Polynomial, below, describe, input_of, linear_in, polynomial, scalar

GATES = frozenset({"clip", "hard_sigmoid", "sigmoid", "tanh", "erf"})
DEPTH = 5
RELATIVE = 1e-5
"""What exporters leave of the digits of 1/6, sqrt(2) and sqrt(2/pi)."""
HALVES = Linear({1: 0.5}, {1: 0.5})
TANH = {1: math.sqrt(2 / math.pi), 3: math.sqrt(2 / math.pi) * 0.044715}


@dataclass(frozen=True)
class Activated:
    """The activation that a node is, of which value."""

    node: Node
    op: str
    attrs: dict[str, Any]
    x: Node
    gate: Node | None = None


def match_gated(draft: Draft, node: Node) -> Activated | Reject | None:
    """A product or quotient, or a clip, that is an activation of one value."""
    reason = ""
    for gate in below(draft, node, GATES, DEPTH):
        if gate.op not in GATES or gate.type != node.type:
            continue
        argument = input_of(draft, gate)
        bases = [input_of(draft, argument)] if gate.op == "tanh" and argument.op == "softplus" else []
        # The deepest first: hard_sigmoid takes in all the arithmetic of its argument.
        for x in bases + below(draft, argument, GATES, DEPTH)[::-1]:
            whole = linear_in(draft, node, gate, x) if x.type == node.type and x.op != "constant" else None
            if whole is None or not any(whole.q.values()):
                continue
            mish = bool(bases) and x is bases[0]
            inner = {1: 1.0} if mish else polynomial(draft, argument, x)
            if inner is None or not inner.get(1):
                continue
            found = _gated(gate, inner, whole, mish)
            if found is not None and not (node is gate and found[0] == gate.op):
                return Activated(node, *found, x, gate)
            if set(whole.q) == {1} and not reason:
                inside = "softplus(x)" if mish else describe(inner)
                form = f"({describe(whole.q)}) {gate.op}({inside})"
                form += f" + {describe(whole.r)}" if any(whole.r.values()) else ""
                reason = f"{form} of %{x.name} is none of the activations there are"
    return Reject(node.name, reason) if reason else None


def _gated(gate: Node, p: Polynomial, whole: Linear, mish: bool) -> tuple[str, dict[str, Any]] | None:
    """The activation q(x) gate(p(x)) + r(x), with its attributes."""
    q, r = whole.q, whole.r
    alone = not any(r.values())
    if gate.op == "clip" and alone and gate.attrs["min"] == 0 and set(p) <= {0, 1}:
        factor = q.get(1, 0.0) or q.get(0, 0.0)
        scaled = {degree: factor * value for degree, value in p.items()}
        if factor <= 0 or not _near(factor * gate.attrs["max"], 1.0):
            return None
        if _same(q, {1: factor}) and _same(scaled, {0: 0.5, 1: 1 / 6}):
            return "hard_swish", {}
        if _same(q, {0: factor}) and (factor != 1.0 or not _same(p, {1: 1.0})):
            return "hard_sigmoid", {"alpha": scaled[1], "beta": scaled.get(0, 0.0)}
        return None
    if _same(p, {1: 1.0}) and alone and _same(q, {1: 1.0}):
        if gate.op == "hard_sigmoid" and _near(gate.attrs["alpha"], 1 / 6) and _near(gate.attrs["beta"], 0.5):
            return "hard_swish", {}
        if gate.op == "sigmoid":
            return "silu", {}
        return ("mish", {}) if mish else None
    if not (_same(q, HALVES.q) and _same(r, HALVES.r)) or mish:
        return None
    if gate.op == "erf" and _same(p, {1: math.sqrt(0.5)}):
        return "gelu", {}
    if gate.op == "tanh" and _same(p, TANH):
        return "gelu", {"approximate": "tanh"}
    return None


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= RELATIVE * max(abs(a), abs(b))


def _same(p: Polynomial, wanted: Polynomial) -> bool:
    return all(_near(p.get(d, 0.0), wanted.get(d, 0.0)) for d in {*p, *wanted})


def match_exponential(draft: Draft, node: Node) -> Activated | None:
    """log(1 + exp(x)), 1 / (1 + exp(-x)), and the reciprocal of the latter's denominator."""
    if node.op == "div":
        if scalar(required(draft, node, "a")) != 1.0:
            return None
        total = required(draft, node, "b")
    else:
        total = input_of(draft, node)
    if total.op != "add" or total.type != node.type:
        return None
    a, b = required(draft, total, "a"), required(draft, total, "b")
    one, power = (a, b) if scalar(a) is not None else (b, a)
    if scalar(one) != 1.0 or power.op != "exp":
        return None
    x = input_of(draft, power)
    if node.op == "log":
        return Activated(node, "softplus", {}, x)
    if x.op == "neg":
        return Activated(node, "sigmoid", {}, input_of(draft, x))
    return None


def match_bound(draft: Draft, node: Node) -> Activated | None:
    """Min or max with a number, over another bound where there is one."""
    a, b = required(draft, node, "a"), required(draft, node, "b")
    x, bound = (b, scalar(a)) if scalar(a) is not None else (a, scalar(b))
    if bound is None or math.isnan(bound) or x.op == "constant" or x.type != node.type:
        return None
    low, high = (bound, math.inf) if node.op == "max" else (-math.inf, bound)
    if x.op in {"relu", "clip"}:
        inner = (0.0, math.inf) if x.op == "relu" else (x.attrs["min"], x.attrs["max"])
        low, high = max(low, inner[0]), min(high, inner[1])
        if low > high:
            return None
        x = input_of(draft, x)
    if (low, high) == (0.0, math.inf):
        return Activated(node, "relu", {}, x)
    return Activated(node, "clip", {"min": low, "max": high}, x)


def _rewrite(draft: Draft, match: Activated) -> Patch:
    source = sources(match.node, *filter(None, [match.gate]))
    return Patch(nodes=(make_node(match.op, match.node.name, [match.x], match.attrs, source=source),))


def _note(match: Activated) -> str:
    attrs = ", ".join(f"{key}={value:.6g}" if isinstance(value, float) else value for key, value in match.attrs.items())
    return f"{match.op}{f' ({attrs})' if attrs else ''} of %{match.x.name}"


RECOGNISE_ACTIVATIONS = RewritePass(
    "recognise_activations",
    Numerics.REASSOCIATES,
    "finds hard_swish, hard_sigmoid, silu, mish, gelu, sigmoid, softplus and clip in arithmetic",
    (
        Rule("recognise_exponential", frozenset({"log", "div", "reciprocal"}), match_exponential, _rewrite, _note),
        Rule("recognise_bound", frozenset({"min", "max"}), match_bound, _rewrite, _note),
        Rule("recognise_gated", frozenset({"mul", "div", "clip"}), match_gated, _rewrite, _note),
    ),
)
