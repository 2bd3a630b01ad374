"""Small questions that rules ask of a draft, and the patches that many of them end in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convc.ir.graph import Node, constant, make_node
from convc.ir.patch import Draft, Patch
from convc.ops import OPS
from convc.types import Array

SOURCES = frozenset({"input", "constant"})
CONVOLUTIONS = frozenset({"conv2d", "conv_transpose2d", "linear"})
"""Operators with the slots x, w, b?, residual? and an activation."""


def operand(draft: Draft, node: Node, slot: str) -> Node | None:
    """The node in a slot, None where the slot was left out."""
    name = node.input(slot)
    return draft[name] if name is not None else None


def required(draft: Draft, node: Node, slot: str) -> Node:
    """The node in a slot that is always filled."""
    found = operand(draft, node, slot)
    assert found is not None, f"{node} has nothing in slot {slot}"
    return found


def is_known(node: Node | None) -> bool:
    """Whether the node is a constant whose elements are at hand."""
    return node is not None and node.op == "constant" and node.value.present


def unknown_slots(draft: Draft, node: Node, slots: Iterable[str]) -> str:
    """Why the node's slots are not all constants with elements; '' where they are. Slots left out do not count."""
    for slot in slots:
        found = operand(draft, node, slot)
        if found is not None and not is_known(found):
            what = "has no data" if found.op == "constant" else f"is computed by {found.op}"
            return f"{slot} of %{node.name}, %{found.name}, {what}"
    return ""


def array(draft: Draft, node: Node, slot: str) -> Array:
    """The elements of the constant in a slot."""
    return required(draft, node, slot).array


def not_exclusive(draft: Draft, node: Node, user: Node) -> str:
    """Why `user` is not the only one that sees `node`; '' where it is."""
    if draft.is_output(node.name):
        return f"%{node.name} is an output of the graph"
    others = [other.name for other in draft.users(node.name) if other.name != user.name]
    return f"%{node.name} also feeds {', '.join('%' + name for name in others[:3])}" if others else ""


def sources(*nodes: Node) -> tuple[str, ...]:
    """The sources of several nodes, each once."""
    return tuple(dict.fromkeys(name for node in nodes for name in node.source))


def remade(
    draft: Draft,
    node: Node,
    *,
    slots: Mapping[str, Node] | None = None,
    attrs: Mapping[str, Any] | None = None,
    absorbed: Iterable[Node] = (),
    name: str | None = None,
) -> Node:
    """`node` with some slots and attributes replaced, and with the sources of what it absorbed; its name stays."""
    operator = OPS[node.op]
    inputs = list(draft.operands(node))
    for slot, new in (slots or {}).items():
        index = operator.slot_index(slot)
        inputs += [None] * (index + 1 - len(inputs))
        inputs[index] = new
    return make_node(
        node.op, name or node.name, inputs, {**node.attrs, **(attrs or {})}, source=sources(node, *absorbed)
    )  # fmt: skip


def new_constants(draft: Draft, node: Node, values: Mapping[str, Array], *absorbed: Node) -> dict[str, Node]:
    """Constants for some of a node's slots, named after what was there, with the sources of what they came from."""
    made: dict[str, Node] = {}
    for slot, value in values.items():
        old = operand(draft, node, slot)
        name = draft.fresh_name(old.name if old is not None else f"{node.name}.{slot}")
        made[slot] = constant(name, value, source=sources(*filter(None, [old]), *absorbed))
    return made


def replace_by(draft: Draft, node: Node, value: Node) -> Patch:
    """Users of `node` read `value` instead.

    An output that would be an input or a constant itself becomes an identity of it: outputs are computed.
    """
    if draft.is_output(node.name) and value.op in SOURCES:
        return Patch(nodes=(make_node("identity", node.name, [value], source=node.source),))
    return Patch(redirect={node.name: value.name})
