"""d / sqrt(mean(d d) + eps) = layer_norm(x) with d = x - mean(x), means over the last axes.

d d may be d^2; the division a product with a reciprocal, or with a power of -1/2. As TensorFlow writes it, with
s = gamma / sqrt(mean(d d) + eps): x s + (beta - mean(x) s) = layer_norm(x, gamma, beta).
Numerics: reassociates. Rejects: means over other than the last axes. Source: Ba et al. 2016, arXiv:1607.06450.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convc.ir.graph import Node, make_node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Reject
from convc.passes.driver import Rule
from convc.passes.pattern import is_known, required, sources
from convc.passes.scalar import scalar


@dataclass(frozen=True)
class Normalised:
    """What `node` normalises, over the axes from `axis` on, with constants where the form holds them."""

    node: Node
    x: Node
    axis: int
    epsilon: float
    gamma: Node | None = None
    beta: Node | None = None


def match_normalised(draft: Draft, node: Node) -> Normalised | Reject | None:
    """A centred value over its standard deviation."""
    for centred, epsilon, deviation in _quotients(draft, node):
        found = _centred(draft, centred)
        if found is None:
            continue
        x, mean = found
        if epsilon is None or not _is_variance(draft, deviation, x, mean) or x.type != node.type:
            continue
        return _trailing(draft, node, x, mean, epsilon)
    return None


def _quotients(draft: Draft, node: Node) -> Iterator[tuple[Node, float | None, Node]]:
    """Readings of a node as n / sqrt(v + eps): n, eps, v."""
    a, b = required(draft, node, "a"), required(draft, node, "b")
    if node.op == "div":
        yield a, *_root(draft, b, 0.5)
    else:
        for one, other in ((a, b), (b, a)):
            yield one, *_inverse_root(draft, other)


def _inverse_root(draft: Draft, node: Node) -> tuple[float | None, Node]:
    if node.op == "reciprocal":
        return _root(draft, required(draft, node, "x"), 0.5)
    if node.op == "div" and scalar(required(draft, node, "a")) == 1.0:
        return _root(draft, required(draft, node, "b"), 0.5)
    return _root(draft, node, -0.5)


def _root(draft: Draft, node: Node, power: float) -> tuple[float | None, Node]:
    """Eps and v of (v + eps)^power; eps is None where the node is no such power."""
    total = node
    if node.op == "sqrt" and power == 0.5:
        total = required(draft, node, "x")
    elif node.op == "pow" and scalar(required(draft, node, "b")) == power:
        total = required(draft, node, "a")
    if total is node or total.op != "add":
        return None, node
    a, b = required(draft, total, "a"), required(draft, total, "b")
    return (scalar(b), a) if scalar(b) is not None else (scalar(a), b)


def _centred(draft: Draft, node: Node) -> tuple[Node, Node] | None:
    """X and its mean, of a node that is x - mean(x)."""
    if node.op != "sub":
        return None
    x, mean = required(draft, node, "a"), required(draft, node, "b")
    if mean.op != "reduce_mean" or required(draft, mean, "x") is not x or not mean.attrs["keepdims"]:
        return None
    return x, mean


def _is_variance(draft: Draft, node: Node, x: Node, mean: Node) -> bool:
    """Whether the node is the mean of the squares of x - mean(x), over the same axes."""
    if node.op != "reduce_mean" or not node.attrs["keepdims"] or _axes(draft, node) != _axes(draft, mean):
        return False
    square = required(draft, node, "x")
    if square.op == "pow" and scalar(required(draft, square, "b")) == 2.0:
        roots = [required(draft, square, "a")]
    elif square.op == "mul":
        roots = [required(draft, square, "a"), required(draft, square, "b")]
    else:
        return False
    for root in roots:
        found = _centred(draft, root)
        if found is None or found[0] is not x or _axes(draft, found[1]) != _axes(draft, mean):
            return False
    return True


def _axes(draft: Draft, mean: Node) -> tuple[int, ...]:
    rank = required(draft, mean, "x").type.rank
    return tuple(sorted(axis % rank for axis in mean.attrs["axes"]))


def _trailing(draft: Draft, node: Node, x: Node, mean: Node, epsilon: float) -> Normalised | Reject:
    axes = _axes(draft, mean)
    if not axes or axes != tuple(range(axes[0], x.type.rank)):
        return Reject(node.name, f"%{x.name}: {x.type} is normalised over axes {list(axes)}, not over its last ones")
    return Normalised(node, x, axes[0], epsilon)


def match_shifted(draft: Draft, node: Node) -> Normalised | Reject | None:
    """X s + (beta - mean(x) s): the sum, where s and the mean are shared."""
    a, b = required(draft, node, "a"), required(draft, node, "b")
    for product, rest in ((a, b), (b, a)):
        if product.op != "mul" or rest.op != "sub":
            continue
        beta, taken = required(draft, rest, "a"), required(draft, rest, "b")
        if beta.op != "constant" or taken.op != "mul":
            continue
        p, q = required(draft, product, "a"), required(draft, product, "b")
        t, u = required(draft, taken, "a"), required(draft, taken, "b")
        for x, s in ((p, q), (q, p)):
            mean = t if u is s else u if t is s else None
            if mean is None or mean.op != "reduce_mean" or required(draft, mean, "x") is not x:
                continue
            gamma, deviation = _scale(draft, s)
            epsilon, variance = _inverse_root(draft, deviation)
            if epsilon is None or not mean.attrs["keepdims"] or not _is_variance(draft, variance, x, mean):
                continue
            if x.type != node.type or not all(is_known(c) for c in (gamma, beta) if c is not None):
                continue
            found = _trailing(draft, node, x, mean, epsilon)
            return found if isinstance(found, Reject) else Normalised(node, x, found.axis, epsilon, gamma, beta)
    return None


def _scale(draft: Draft, s: Node) -> tuple[Node | None, Node]:
    """Gamma and the inverse root of a product of both; no gamma where it is the root alone."""
    if s.op == "mul":
        a, b = required(draft, s, "a"), required(draft, s, "b")
        if a.op == "constant" or b.op == "constant":
            return (a, b) if a.op == "constant" else (b, a)
    return None, s


def _rewrite(draft: Draft, match: Normalised) -> Patch:
    attrs = {"axis": match.axis, "epsilon": match.epsilon}
    inputs = [match.x, match.gamma, match.beta]
    return Patch(nodes=(make_node("layer_norm", match.node.name, inputs, attrs, source=sources(match.node)),))


def _note(match: Normalised) -> str:
    return f"%{match.x.name} over axes {match.axis} to {match.x.type.rank - 1}, epsilon {match.epsilon:.3g}"


LAYER_NORM_RULES: tuple[Rule[Normalised], ...] = (
    Rule("recognise_layer_norm", frozenset({"div", "mul"}), match_normalised, _rewrite, _note),
    Rule("recognise_shifted_layer_norm", frozenset({"add"}), match_shifted, _rewrite, _note),
)
