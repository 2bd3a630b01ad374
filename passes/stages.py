"""What the graph looked like before the first pass and after each: outlines of its nodes, without weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from convc.dims import concrete
from convc.ir.graph import Graph, Node, Output
from convc.ir.printer import INLINE_ELEMENTS, print_tensor, print_value
from convc.passes.base import Pass, PassRecord
from convc.passes.manager import Hooks


@dataclass(frozen=True, slots=True)
class Outline:
    """A node without its elements. Attributes are texts; shape and MACs are those at nominal sizes."""

    name: str
    op: str
    inputs: tuple[str | None, ...]
    attrs: Mapping[str, str]
    type: str
    shape: tuple[int, ...]
    source: tuple[str, ...]
    macs: int

    @staticmethod
    def of(graph: Graph, node: Node) -> Outline:
        """The outline of a node of `graph`; a constant's elements are shown where they are few."""
        attrs: dict[str, str] = {}
        if node.op == "constant":
            if node.value.present and node.array.size <= INLINE_ELEMENTS:
                attrs["value"] = print_tensor(node.value)
        elif node.op != "input":
            attrs = {name: print_value(value) for name, value in node.attrs.items()}
        macs = concrete(graph.node_macs(node), graph.nominal)
        shape = node.type.concrete(graph.nominal)
        return Outline(node.name, node.op, node.inputs, attrs, str(node.type), shape, node.source, macs)

    def __str__(self) -> str:
        return f"{self.op} %{self.name}"


@dataclass(frozen=True)
class Stage:
    """One graph: its nodes in order, as indices into the outlines, and its outputs."""

    nodes: tuple[int, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Stages:
    """The graphs of a pipeline. Record i went from `graphs[at[i]]` to `graphs[at[i + 1]]`.

    Outlines are shared between stages, and a pass that changed nothing shares its stage.
    """

    outlines: tuple[Outline, ...]
    graphs: tuple[Stage, ...]
    at: tuple[int, ...]

    def nodes(self, stage: int) -> Iterator[Outline]:
        """The nodes of a stage, in order."""
        return (self.outlines[index] for index in self.graphs[stage].nodes)

    @staticmethod
    def of(graph: Graph, records: int = 0) -> Stages:
        """The stages of `records` passes of which nothing but the last graph is known."""
        found = Recorder(graph).stages
        return Stages(found.outlines, found.graphs, (0,) * (records + 1))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return {
            "outlines": [
                [o.name, o.op, o.inputs, dict(o.attrs), o.type, o.shape, o.source, o.macs] for o in self.outlines
            ],
            "graphs": [[stage.nodes, [[o.name, o.node] for o in stage.outputs]] for stage in self.graphs],
            "at": self.at,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Stages:
        """What `to_json` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        outlines = tuple(_outline(*fields) for fields in values["outlines"])
        graphs = tuple(
            Stage(tuple(map(_int, nodes)), tuple(Output(str(name), str(node)) for name, node in outputs))
            for nodes, outputs in values["graphs"]
        )
        at = tuple(map(_int, values["at"]))
        for stage in graphs:
            _check_stage(stage, outlines)
        if not at or not set(at) <= set(range(len(graphs))):
            raise ValueError("a pass names a graph that is not there")
        return Stages(outlines, graphs, at)


@dataclass
class Recorder(Hooks):
    """An instrument that keeps the graphs of the passes it watches, from `graph` on."""

    graph: Graph
    _known: dict[str, tuple[Node, int]] = field(default_factory=dict, init=False)
    _outlines: list[Outline] = field(default_factory=list, init=False)
    _graphs: list[Stage] = field(default_factory=list, init=False)
    _at: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._keep(self.graph)

    def after(self, index: int, one: Pass, before: Graph, after: Graph, record: PassRecord) -> None:
        if after is self.graph:
            self._at.append(self._at[-1])
        else:
            self._keep(after)

    @property
    def stages(self) -> Stages:
        """What has been seen so far."""
        return Stages(tuple(self._outlines), tuple(self._graphs), tuple(self._at))

    def _keep(self, graph: Graph) -> None:
        found = []
        for node in graph.nodes:
            known, index = self._known.get(node.name, (None, -1))
            if known is not node:
                index = len(self._outlines)
                self._outlines.append(Outline.of(graph, node))
                self._known[node.name] = (node, index)
            found.append(index)
        self._at.append(len(self._graphs))
        self._graphs.append(Stage(tuple(found), graph.outputs))
        self.graph = graph


def _outline(
    name: Any, op: Any, inputs: Any, attrs: Any, type: Any, shape: Any, source: Any, macs: Any
) -> Outline:  # fmt: skip
    return Outline(
        str(name),
        str(op),
        tuple(None if i is None else str(i) for i in inputs),
        {str(k): str(v) for k, v in attrs.items()},
        str(type),
        tuple(map(_int, shape)),
        tuple(map(str, source)),
        _int(macs),
    )


def _int(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _check_stage(stage: Stage, outlines: tuple[Outline, ...]) -> None:
    """Raise ValueError unless every node comes after what it reads, and the outputs are there."""
    seen: set[str | None] = {None}
    for index in stage.nodes:
        if not 0 <= index < len(outlines) or outlines[index].name in seen:
            raise ValueError("a stage names a node twice, or one that is not there")
        if not seen.issuperset(outlines[index].inputs):
            raise ValueError(f"{outlines[index]} of a stage reads what is not there")
        seen.add(outlines[index].name)
    if not seen.issuperset(output.node for output in stage.outputs):
        raise ValueError("an output of a stage is not there")
