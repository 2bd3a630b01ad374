"""Importer of Einsum: transpositions, products of matrices in batches, and sums."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from convc.errors import ModelError
from convc.frontends.onnx.context import Call, Importer, listed
from convc.ir.graph import Node
from convc.ops.base import static_size
from convc.types import broadcast_shapes, product

_HINT = "write it as in 'bij,bjk->bik': letters, commas, one arrow, '...' once a term"


@dataclass(frozen=True, eq=False)
class _Term:
    """A tensor and the label of each of its axes: a letter, or the number of an axis that an ellipsis stands for."""

    node: Node
    labels: tuple[str, ...]


def _einsum(call: Call) -> Node:
    equation = re.sub(r"\s", "", call.text("equation"))
    if not re.fullmatch(r"[a-zA-Z.,]*(->[a-zA-Z.]*)?", equation):
        raise ModelError(f"equation={equation} is not understood", hint=_HINT)
    left, arrow, right = equation.partition("->")
    nodes, texts = call.nodes(), left.split(",")
    if len(nodes) != len(texts):
        raise ModelError(f"equation={equation} has {len(texts)} terms for {len(nodes)} inputs", hint=_HINT)
    terms = [_term(call, node, text) for node, text in zip(nodes, texts, strict=True)]
    hidden = max(sum(label.isdigit() for label in term.labels) for term in terms)
    ellipsis = tuple(str(i) for i in range(hidden))[::-1]  # counted from the last axis, as they broadcast
    if arrow:
        wanted = _labels(right, ellipsis)
    else:
        letters = sorted(left.replace(",", "").replace(".", ""))
        wanted = (*ellipsis, *(letter for letter in letters if letters.count(letter) == 1))
    found = {label for term in terms for label in term.labels}
    if len(set(wanted)) < len(wanted) or not set(wanted) <= found:
        raise ModelError(f"equation={equation}: its result repeats a letter, or has one of its own", hint=_HINT)
    total = terms[0]
    for i, term in enumerate(terms[1:], 1):
        later = {label for other in terms[i + 1 :] for label in other.labels}
        total = _product(call, total, term, {*wanted, *later})
    total = _summed(call, total, wanted)
    return _ordered(call, total, wanted).node


def _labels(text: str, ellipsis: tuple[str, ...]) -> tuple[str, ...]:
    before, dots, behind = text.partition("...")
    if "." in before + behind:
        raise ModelError(f"{text} is not a term", hint=_HINT)
    return (*before, *(ellipsis if dots else ()), *behind)


def _term(call: Call, node: Node, text: str) -> _Term:
    rank, letters = node.type.rank, text.replace(".", "")
    labels = _labels(text, tuple(str(i) for i in range(rank - len(letters)))[::-1])
    if len(labels) != rank:
        raise ModelError(f"term {text} does not fit %{node.name}: {node.type}", hint="give each axis a letter")
    while len(set(labels)) < len(labels):
        node, labels = _diagonal(call, node, labels)
    return _Term(node, labels)


def _diagonal(call: Call, node: Node, labels: tuple[str, ...]) -> tuple[Node, tuple[str, ...]]:
    """Of the first label that two axes have, their diagonal as the last axis."""
    twice = next(label for label in labels if labels.count(label) > 1)
    pair = [i for i, label in enumerate(labels) if label == twice][:2]
    rest = [i for i in range(len(labels)) if i not in pair]
    first, second = (static_size(node.type.shape[i], "an axis of a diagonal") for i in pair)
    if first != second:
        raise ModelError(f"{twice} stands for sizes {first} and {second} of %{node.name}", hint="check the exporter")
    moved = call.emit("transpose", node, perm=(*rest, *pair))
    flat = call.emit("reshape", moved, shape=(*moved.type.shape[:-2], first * first))
    places = call.constant(np.arange(first, dtype=np.int64) * (first + 1))
    return call.emit("gather", flat, places, axis=len(rest)), (*(labels[i] for i in rest), twice)


def _ordered(call: Call, term: _Term, labels: Sequence[str]) -> _Term:
    """The axes in another order."""
    perm = tuple(term.labels.index(label) for label in labels)
    if perm == tuple(range(len(perm))):
        return term
    return _Term(call.emit("transpose", term.node, perm=perm), tuple(labels))


def _summed(call: Call, term: _Term, kept: Collection[str]) -> _Term:
    """Axes that are not kept are summed."""
    axes = tuple(i for i, label in enumerate(term.labels) if label not in kept)
    if not axes:
        return term
    node = call.emit("reduce_sum", term.node, axes=axes, keepdims=False)
    return _Term(node, tuple(label for label in term.labels if label in kept))


def _product(call: Call, a: _Term, b: _Term, kept: Collection[str]) -> _Term:
    """The product of two terms, summed over what they share and what is not kept."""
    a, b = _summed(call, a, {*kept, *b.labels}), _summed(call, b, {*kept, *a.labels})
    shared = [label for label in a.labels if label in b.labels]
    batch, inner = [s for s in shared if s in kept], [s for s in shared if s not in kept]
    for label in shared:
        sizes = {term.node.type.shape[term.labels.index(label)] for term in (a, b)}
        if len(sizes) > 1 and not (label in batch and label.isdigit() and 1 in sizes):
            raise ModelError(f"{label} stands for sizes {listed(sorted(sizes, key=str))}", hint="check the exporter")
    rows, columns = ([label for label in t.labels if label not in shared] for t in (a, b))
    a, b = _ordered(call, a, [*batch, *rows, *inner]), _ordered(call, b, [*batch, *inner, *columns])
    outer, high, wide = len(batch), a.node.type.shape, b.node.type.shape
    row_sizes, column_sizes = high[outer : outer + len(rows)], wide[outer + len(inner) :]
    depth = product(high[outer + len(rows) :])
    left = call.emit("reshape", a.node, shape=(*high[:outer], product(row_sizes), depth))
    right = call.emit("reshape", b.node, shape=(*wide[:outer], depth, product(column_sizes)))
    shape = (*broadcast_shapes(high[:outer], wide[:outer]), *row_sizes, *column_sizes)
    return _Term(
        call.emit("reshape", call.emit("matmul", left, right), shape=shape), (*batch, *rows, *columns)
    )  # fmt: skip


EINSUM: dict[str, Importer] = {"Einsum": _einsum}
"""By ONNX operator."""
