"""x @ v = linear(x, v^T), and linear(x, w) + c = linear(x, w, c): Gemm from MatMul and Add.

v [I, O] is a constant, x [..., I] of rank 2 or more, c one value for each of the O outputs, or for all. A bias that is
there already adds up. Numerics: reassociates. Rejects: v that is computed or of another rank, c that varies by row, a
sum of a value that others read or that has an epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convc.ir.graph import Node, constant, make_node
from convc.ir.patch import Draft, Patch
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import (
    array,
    is_known,
    new_constants,
    not_exclusive,
    operand,
    remade,
    required,
    unknown_slots,
)  # fmt: skip
from convc.types import Array


@dataclass(frozen=True)
class Biased:
    """An addition, the linear that it adds to, and that one's new bias."""

    add: Node
    linear: Node
    bias: Array


def match_matmul(draft: Draft, node: Node) -> Node | Reject | None:
    """A product with a constant on the right."""
    a, b = required(draft, node, "a"), required(draft, node, "b")
    if not node.type.dtype.is_float:
        return None
    if b.op != "constant":
        return Reject(node.name, f"%{a.name}: {a.type} is multiplied with %{b.name}, which is computed by {b.op}")
    if not is_known(b):
        return Reject(node.name, f"constant %{b.name} has no data")
    if b.type.rank != 2 or a.type.rank < 2:
        return Reject(node.name, f"%{a.name}: {a.type} and %{b.name}: {b.type} are no rows and no matrix")
    return node


def _linear(draft: Draft, node: Node) -> Patch:
    b = required(draft, node, "b")
    w = constant(draft.fresh_name(b.name), np.ascontiguousarray(b.array.T), source=b.source)
    linear = make_node("linear", node.name, [required(draft, node, "a"), w], source=node.source)
    return Patch(nodes=(w, linear))


def match_bias(draft: Draft, node: Node) -> Biased | Reject | None:
    """An addition of a constant to a linear."""
    a, b = required(draft, node, "a"), required(draft, node, "b")
    linear, c = (a, b) if a.op == "linear" else (b, a)
    if linear.op != "linear" or c.op != "constant":
        return None
    reason = not_exclusive(draft, linear, node) or unknown_slots(draft, linear, ("b",))
    if not reason and linear.attrs["activation"] is not None:
        reason = f"%{linear.name} applies {linear.attrs['activation']} in between"
    if not reason and not is_known(c):
        reason = f"constant %{c.name} has no data"
    outputs = node.type.shape[-1]
    if not reason and (linear.type != node.type or c.array.size not in {1, *c.type.shape[-1:]}):
        reason = f"%{c.name}: {c.type} is not one value for each of the {outputs} outputs of %{linear.name}"
    if reason:
        return Reject(node.name, reason)
    count = required(draft, linear, "w").type.concrete({})[0]
    bias = np.broadcast_to(c.array.reshape(-1).astype(np.float64), (count,))
    if operand(draft, linear, "b") is not None:
        bias = bias + array(draft, linear, "b").astype(np.float64)
    return Biased(node, linear, bias.astype(linear.type.dtype.numpy))


def _bias(draft: Draft, match: Biased) -> Patch:
    made = new_constants(draft, match.linear, {"b": match.bias}, match.add)
    linear = remade(draft, match.linear, slots=made, absorbed=[match.add])
    return Patch(nodes=(*made.values(), linear), redirect={match.add.name: linear.name})


RECOGNISE_LINEAR = RewritePass(
    "recognise_linear",
    Numerics.REASSOCIATES,
    "finds linear layers in products with constant matrices and additions",
    (
        Rule("recognise_matmul", frozenset({"matmul"}), match_matmul, _linear,
             lambda node: f"%{node.inputs[1]} transposed"),
        Rule("recognise_bias", frozenset({"add"}), match_bias, _bias, lambda match: f"bias of %{match.linear.name}"),
    ),
)  # fmt: skip
