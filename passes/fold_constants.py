"""op(constants) = constant, evaluated in the operator's own dtype by its NumPy meaning.

Numerics: exact. Rejects: results larger than the limits allow or far larger than what they are made of; constants
without data; what fails when evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convc.dims import concrete
from convc.errors import Error
from convc.interp import evaluate_node
from convc.ir.graph import Graph, Node, constant, make_node
from convc.ir.patch import Draft, Patch
from convc.limits import Limits
from convc.ops import OPS
from convc.passes.base import Numerics, PassResult, Reject
from convc.passes.context import Context
from convc.passes.driver import Rule, rewrite_to_fixed_point
from convc.passes.pattern import SOURCES, is_known
from convc.types import Array

GROWTH_FREE_BYTES = 16 << 20
GROWTH_FACTOR = 8
MACS = 10**10


@dataclass(frozen=True)
class Folded:
    """An operator of constants, and its value."""

    node: Node
    value: Array


class _Budget:
    """Bytes that one run has folded so far."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.used = 0

    def match(self, draft: Draft, node: Node) -> Folded | Reject | None:
        operands = [n for n in draft.operands(node) if n is not None]
        if node.op in SOURCES or not operands or any(n.op != "constant" for n in operands):
            return None
        if node.op == "identity" and draft.is_output(node.name):
            return None
        missing = [n.name for n in operands if not is_known(n)]
        if missing:
            return Reject(node.name, f"constant %{missing[0]} has no data")
        if not node.type.is_static:
            return Reject(node.name, f"{node.type} has symbolic sizes")
        size = node.type.dtype.bytes * concrete(node.type.elements, {})
        before = sum(n.array.nbytes for n in operands)
        if size > GROWTH_FREE_BYTES and size > GROWTH_FACTOR * before:
            return Reject(node.name, f"its {size} bytes are made of {before}: cheaper to compute than to keep")
        if size > self.limits.tensor_bytes:
            return Reject(node.name, f"its {size} bytes exceed limits.tensor_bytes={self.limits.tensor_bytes}")
        if self.used + size > self.limits.folded_bytes:
            return Reject(node.name, f"with its {size} bytes, folding exceeds {self.limits.folded_bytes} bytes")
        types = [n.type if n is not None else None for n in draft.operands(node)]
        if concrete(OPS[node.op].macs(types, node.type, node.attrs), {}) > MACS:
            return Reject(node.name, f"it takes more than {MACS} multiply-adds to evaluate")
        return self.evaluate(draft, node)

    def evaluate(self, draft: Draft, node: Node) -> Folded | Reject:
        arrays = [n.array if n is not None else None for n in draft.operands(node)]
        try:
            value = np.array(evaluate_node(node, arrays))
        except Error as error:
            return Reject(node.name, f"it cannot be evaluated: {error.message}")
        self.used += value.nbytes
        return Folded(node, value)


def _rewrite(draft: Draft, match: Folded) -> Patch:
    node = match.node
    if not draft.is_output(node.name):
        return Patch(nodes=(constant(node.name, match.value, source=node.source),))
    value = constant(draft.fresh_name(node.name), match.value, source=node.source)
    return Patch(nodes=(value, make_node("identity", node.name, [value], source=node.source)))


@dataclass(frozen=True)
class FoldConstants:
    """Evaluates operators whose inputs are all constants."""

    name: str = "fold_constants"
    numerics: Numerics = Numerics.EXACT
    doc: str = "evaluates operators whose inputs are all constants"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        rule = Rule("fold_constant_operator", frozenset(OPS) - SOURCES, _Budget(context.limits).match, _rewrite, _note)
        return rewrite_to_fixed_point(graph, (rule,))


def _note(match: Folded) -> str:
    return f"{match.node.op} of constants, {match.value.nbytes} bytes"


FOLD_CONSTANTS = FoldConstants()
