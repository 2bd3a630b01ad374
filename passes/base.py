"""What a pass is, and what it reports: rewrites, refusals with their reasons, and a record of both."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from convc.ir.graph import Graph
from convc.passes.context import Context


class Numerics(str, enum.Enum):
    """What a pass may do to the numbers; tests hold it to that.

    `exact`: outputs are equal bit for bit. `reassociates`: the same mathematics in another order.
    `approximate`: another function, under a budget, with a certificate for each rewrite. Equal to its name as a string.
    """

    EXACT = "exact"
    REASSOCIATES = "reassociates"
    APPROXIMATE = "approximate"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Reject:
    """A rule that looked applicable at `node` and is not, and why. The driver fills in the rule's name."""

    node: str
    reason: str
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.rule} at %{self.node}: {self.reason}"


@dataclass(frozen=True)
class Rewrite:
    """One rewrite: where it matched, nodes that are gone, nodes that are new or redefined.

    Approximate rewrites carry a certificate: figures by name, such as the relative weight error.
    """

    rule: str
    node: str
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    note: str = ""
    certificate: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.rule} at %{self.node}" + (f": {self.note}" if self.note else "")


@dataclass(frozen=True)
class PassResult:
    """A pass's graph, which is the one it got where nothing changed, and what it did."""

    graph: Graph
    rewrites: tuple[Rewrite, ...] = ()
    refusals: tuple[Reject, ...] = ()


@dataclass(frozen=True)
class PassRecord:
    """The account of one pass over one graph. Operator counts leave inputs and constants out; MACs are nominal."""

    name: str
    numerics: Numerics
    seconds: float
    rewrites: tuple[Rewrite, ...]
    refusals: tuple[Reject, ...]
    ops_before: Mapping[str, int]
    ops_after: Mapping[str, int]
    macs_before: int
    macs_after: int
    options: Mapping[str, Any] = field(default_factory=dict)
    index: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.rewrites)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return {**asdict(self), "numerics": self.numerics.value}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> PassRecord:
        """The record that `to_json` wrote."""
        rewrites = (
            Rewrite(**{**r, "removed": tuple(r["removed"]), "added": tuple(r["added"])}) for r in values["rewrites"]
        )
        return PassRecord(
            **{
                **values,
                "numerics": Numerics(values["numerics"]),
                "rewrites": tuple(rewrites),
                "refusals": tuple(Reject(**r) for r in values["refusals"]),
            }
        )

    def __str__(self) -> str:
        counts = f"{len(self.rewrites)} rewrites, {len(self.refusals)} refusals"
        return f"{self.name} ({self.numerics}): {counts}, {sum(self.ops_after.values())} operators"


@runtime_checkable
class Pass(Protocol):
    """A graph in, a graph out, and an account. Passes hold options only: no state between runs."""

    @property
    def name(self) -> str: ...
    @property
    def numerics(self) -> Numerics: ...
    @property
    def doc(self) -> str: ...
    @property
    def options(self) -> Mapping[str, Any]: ...

    def run(self, graph: Graph, context: Context) -> PassResult:
        """The rewritten graph and the account. Raises LimitError where it would exceed `context.limits`."""
        ...


def operator_counts(graph: Graph) -> dict[str, int]:
    """How many nodes of each operator, by name; inputs and constants left out."""
    return dict(sorted(Counter(node.op for node in graph.operators).items()))
