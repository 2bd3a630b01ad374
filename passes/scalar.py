"""Elementwise arithmetic with plain numbers, read as polynomials of one value, and as q(x) g + r(x) for a gate g."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convc.ir.graph import Node
from convc.ir.patch import Draft
from convc.passes.pattern import is_known, required

Polynomial = Mapping[int, float]
ARITHMETIC = frozenset({"add", "sub", "mul", "div", "neg", "pow", "identity"})
DEGREE = 4


@dataclass(frozen=True)
class Linear:
    """gate * q(x) + r(x)."""

    q: Polynomial
    r: Polynomial


def scalar(node: Node | None) -> float | None:
    """The number that a constant of one element holds."""
    if node is None or not is_known(node) or node.array.size != 1 or not node.type.dtype.is_float:
        return None
    return float(node.array.reshape(-1)[0])


def polynomial(draft: Draft, node: Node, x: Node) -> Polynomial | None:
    """`node` as a polynomial of `x`; None where it is none."""
    found = linear_in(draft, node, None, x)
    return found.r if found is not None else None


def linear_in(draft: Draft, node: Node, gate: Node | None, x: Node, depth: int = 8) -> Linear | None:
    """`node` as gate * q(x) + r(x); None where it is not of that form, or more than `depth` steps long."""
    if node is gate:
        return Linear({0: 1.0}, {})
    if node is x:
        return Linear({}, {1: 1.0})
    number = scalar(node)
    if number is not None:
        return Linear({}, {0: number})
    if node.op not in ARITHMETIC or node.type != x.type or not depth:
        return None
    parts = [linear_in(draft, operand, gate, x, depth - 1) for operand in draft.operands(node) if operand is not None]
    if any(part is None for part in parts):
        return None
    a, b = (*(part for part in parts if part is not None), Linear({}, {}))[:2]
    return _combined(node.op, a, b)


def _combined(op: str, a: Linear, b: Linear) -> Linear | None:
    if op == "identity":
        return a
    if op in {"add", "sub"}:
        sign = 1.0 if op == "add" else -1.0
        return Linear(_sum(a.q, b.q, sign), _sum(a.r, b.r, sign))
    if op == "neg":
        return Linear(_sum({}, a.q, -1.0), _sum({}, a.r, -1.0))
    number = b.r.get(0, 0.0) if not b.q and set(b.r) <= {0} else None
    if op == "div":
        return None if not number else Linear(_product(a.q, {0: 1 / number}), _product(a.r, {0: 1 / number}))
    if op == "pow":
        return _power(a, number)
    if a.q and b.q:
        return None
    found = Linear(_sum(_product(a.q, b.r), _product(b.q, a.r), 1.0), _product(a.r, b.r))
    return found if max((*found.q, *found.r), default=0) <= DEGREE else None


def _power(a: Linear, exponent: float | None) -> Linear | None:
    if a.q or exponent not in {2.0, 3.0}:
        return None
    square = _product(a.r, a.r)
    power = square if exponent == 2.0 else _product(square, a.r)
    return Linear({}, power) if max(power, default=0) <= DEGREE else None


def _sum(a: Polynomial, b: Polynomial, sign: float) -> Polynomial:
    return {degree: a.get(degree, 0.0) + sign * b.get(degree, 0.0) for degree in sorted({*a, *b})}


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    total: dict[int, float] = {}
    for i, left in a.items():
        for j, right in b.items():
            total[i + j] = total.get(i + j, 0.0) + left * right
    return total


def below(draft: Draft, node: Node, ops: frozenset[str], depth: int) -> list[Node]:
    """Values at most `depth` arithmetic steps below `node`, itself first; those of `ops` are not looked into."""
    found = {node.name: node}
    level = [node]
    for _ in range(depth):
        level = [
            operand
            for one in level
            if one.op in ARITHMETIC and one.op not in ops
            for operand in draft.operands(one)
            if operand is not None and operand.op != "constant" and operand.name not in found
        ]
        found.update((one.name, one) for one in level)
    return list(found.values())


def describe(p: Polynomial) -> str:
    """A polynomial in words, such as `0.5 x + 1`."""
    terms = [
        f"{factor:.6g}" + ("" if degree == 0 else " x" if degree == 1 else f" x^{degree}")
        for degree, factor in sorted(p.items(), reverse=True)
        if factor
    ]
    return " + ".join(terms) or "0"


def input_of(draft: Draft, node: Node) -> Node:
    """What a unary operator reads."""
    return required(draft, node, "x")
