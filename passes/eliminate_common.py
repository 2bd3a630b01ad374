"""f(x, attrs) computed twice is computed once; constants of equal type and bytes are one.

Numerics: exact. The first node in order stays. Constants are compared by a few sampled bytes first, and byte by byte
only where those agree: nothing is hashed whole.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convc.ir.graph import Graph, Node
from convc.ir.patch import Draft, Patch
from convc.ir.printer import print_value
from convc.passes.base import Numerics, PassResult, Rewrite
from convc.passes.context import Context
from convc.passes.pattern import sources
from convc.types import Tensor

SAMPLES = 64


@dataclass(frozen=True)
class EliminateCommon:
    """Merges nodes that compute the same."""

    name: str = "eliminate_common"
    numerics: Numerics = Numerics.EXACT
    doc: str = "merges operators and constants that are equal"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        draft = Draft(graph)
        first: dict[Hashable, list[str]] = {}
        rewrites: list[Rewrite] = []
        for name in draft.names:
            if name not in draft or draft[name].op == "input":
                continue
            node = draft[name]
            candidates = first.setdefault(_key(node), [])
            twin = next((draft[c] for c in candidates if c in draft and _equal(draft[c], node)), None)
            if twin is None:
                candidates.append(name)
                continue
            applied = draft.apply(_merge(twin, node))
            note = f"the same as %{twin.name}"
            rewrites.append(Rewrite("merge_equal", name, applied.removed, applied.added, note))
        return PassResult(draft.freeze(), tuple(rewrites))


def _key(node: Node) -> Hashable:
    if node.op == "constant":
        return ("constant", node.type, _sample(node.value))
    # As text, so that 0.0 and -0.0 differ and NaN equals itself.
    attrs = tuple((key, print_value(value)) for key, value in node.attrs.items())
    return (node.op, node.inputs, attrs)


def _sample(tensor: Tensor) -> bytes:
    if not tensor.present:
        return tensor.digest.encode()
    flat = tensor.array.reshape(-1)
    return flat[:: max(1, flat.size // SAMPLES)].tobytes()


def _equal(a: Node, b: Node) -> bool:
    if a.op != "constant":
        return True
    if not a.value.present or not b.value.present:
        return a.value.present == b.value.present and a.value.digest == b.value.digest
    x, y = a.array.reshape(-1), b.array.reshape(-1)
    return x is y or bool(np.array_equal(x.view(f"u{x.itemsize}"), y.view(f"u{y.itemsize}")))


def _merge(twin: Node, node: Node) -> Patch:
    kept = Node(twin.name, twin.op, twin.inputs, twin.attrs, twin.type, sources(twin, node))
    return Patch(nodes=(kept,), redirect={node.name: twin.name})


ELIMINATE_COMMON = EliminateCommon()
