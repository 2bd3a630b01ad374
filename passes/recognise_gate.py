"""x * expand(g) = x * g, where g broadcasts to x anyway: the squeeze-and-excite gate without a tensor of copies.

For every elementwise operator of two values, and `where`. Exporters write `gate.expand_as(x)`. Numerics: exact.
Rejects: a result that is as large as it is because of the expansion. Source: Hu et al. 2018, arXiv:1709.01507.
"""

from __future__ import annotations

from dataclasses import dataclass

from convc.ir.graph import Node, make_node
from convc.ir.patch import Draft, Patch
from convc.ops import OPS
from convc.passes.base import Numerics, Reject
from convc.passes.driver import RewritePass, Rule
from convc.passes.pattern import required, sources

BROADCASTING = frozenset(
    name for name, operator in OPS.items() if "elementwise" in operator.traits and len(operator.slots) > 1
) - {"prelu"}


@dataclass(frozen=True)
class Gated:
    """The operator reading what was expanded."""

    node: Node
    expanded: tuple[Node, ...]


def match_expand(draft: Draft, node: Node) -> Gated | Reject | None:
    """An elementwise operator of an expanded value."""
    operands = [one for one in draft.operands(node) if one is not None]
    expanded = [one for one in operands if one.op == "expand"]
    if not expanded:
        return None
    for wanted in (expanded, *([one] for one in expanded)):
        inputs = [required(draft, one, "x") if one in wanted else one for one in operands]
        made = make_node(node.op, node.name, inputs, node.attrs, source=sources(node, *wanted))
        if made.type == node.type:
            return Gated(made, tuple(wanted))
    return Reject(node.name, f"it is {node.type} because %{expanded[0].name} is expanded")


RECOGNISE_GATE = RewritePass(
    "recognise_gate",
    Numerics.EXACT,
    "lets elementwise operators broadcast, in place of an expand before them",
    (
        Rule("drop_expand", BROADCASTING, match_expand, lambda draft, match: Patch(nodes=(match.node,)),
             lambda match: ", ".join(f"%{one.name}" for one in match.expanded)),
    ),
)  # fmt: skip
