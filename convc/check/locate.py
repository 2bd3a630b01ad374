"""From wrong outputs to the smallest part of the graph that is wrong, and to the pass and the kernel that make it so.

1. The shortest beginning of the graph whose values are wrong ends in the first node that is off. It is found by
   bisection: a beginning that is right holds up to its own end, since its last values are outputs, which nothing fuses.
2. What leads there is cut away from the front, values of the interpreter taking its place, for as long as the rest
   stays wrong; then node by node. So a wrong fused kernel keeps the operators that are fused, and nothing else.
3. On that part, passes are added one by one until it turns wrong: the last one made what is wrong. If the interpreter
   finds the part wrong after it, the pass changed its meaning, else the kernels that run the part are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convc.backends.program import node_of
from convc.check.subgraph import extract, frontier, given
from convc.errors import Error
from convc.interp import bind_sizes, run_nodes
from convc.ir.graph import Graph
from convc.measure.accuracy import Difference, difference, reference, wide
from convc.model import CompiledModel
from convc.passes.base import Pass
from convc.types import Array

Compile = Callable[[Graph, Sequence[Pass]], CompiledModel]
"""A graph and passes to a compiled model, as the model in question was compiled."""
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Fault:
    """The smallest part found that is wrong when compiled.

    `node` is the first node of the description that is off, by `error`; `part` holds all nodes that it takes.
    `made_by` is the pass without which the part is right, None where it is wrong without any; `pass_index` its number.
    `cause` is "pass" where that pass changes what the part means, "kernel" where one node's kernels compute it wrongly,
    "program" where each node by itself is right. `culprits` are the nodes after the pass, `kernels` what runs them,
    without those that also ran where all was right.
    """

    node: str
    operator: str
    error: Difference
    cause: str
    made_by: str | None
    pass_index: int | None
    culprits: tuple[str, ...]
    kernels: tuple[str, ...]
    part: Graph
    inputs: Mapping[str, Array] = field(repr=False)
    expected: Mapping[str, Array] = field(repr=False)
    found: Mapping[str, Array] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the arrays."""
        return {
            "node": self.node,
            "operator": self.operator,
            "error": self.error.to_json(),
            "cause": self.cause,
            "made_by": self.made_by,
            "pass_index": self.pass_index,
            "culprits": list(self.culprits),
            "kernels": list(self.kernels),
            "part": [f"{node}: {node.type}" for node in self.part.operators],
            "text": str(self.part),
        }


class Locator:
    """Compiles parts of one graph, with its sizes bound, and compares them with the interpreter.

    `passes` are those to go through, with their numbers in the pipeline.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, Array],
        compile: Compile,
        passes: Sequence[tuple[int, Pass]],
        tolerance: float,
        tell: Tell | None = None,
    ) -> None:
        sizes = bind_sizes(graph.inputs, {name: array.shape for name, array in inputs.items()})
        self.graph = graph.bind(**sizes) if sizes else graph
        self.numbers = tuple(number for number, _ in passes)
        self.passes = tuple(one for _, one in passes)
        self.tolerance = tolerance
        self.trials = 0
        self._compile = compile
        self._tell = tell
        self._acquitted: set[str] = set()
        self._values = run_nodes(self.graph, wide(inputs), dtype="float64")

    def wrong(self, part: Graph, passes: Sequence[Pass] | None = None) -> dict[str, Difference]:
        """The outputs of a part that are off once it is compiled; a part that does not compile is not wrong."""
        self.trials += 1
        if self._tell is not None:
            self._tell(f"trial {self.trials}, {len(part.operators)} operators", min(self.trials, 99), 100)
        inputs = given(part, self._values)
        try:
            model = self._compile(part, self.passes if passes is None else passes)
            found = model.run(inputs)
        except Error:
            return {}
        apart = {name: difference(found[name], want) for name, want in reference(part, inputs).items()}
        off = {name: one for name, one in apart.items() if not one.within(self.tolerance)}
        if not off:
            self._acquitted.update(model.sources)
        return off

    def locate(self) -> Fault | None:
        """The fault; None where no beginning of the graph with its sizes bound is wrong."""
        operators = self.graph.operators
        if not self.wrong(extract(self.graph, frontier(self.graph, operators, len(operators)))):
            return None
        right, bad = 0, len(operators)
        while bad - right > 1:
            middle = (right + bad) // 2
            if self.wrong(extract(self.graph, frontier(self.graph, operators, middle))):
                bad = middle
            else:
                right = middle
        ends = frontier(self.graph, operators, bad)
        off = list(self.wrong(extract(self.graph, ends)))
        first = next((name for name in off if self.wrong(extract(self.graph, [name]))), None)
        part = self._shrunk([first] if first is not None else ends)
        return self._explained(part, first or off[0])

    def _shrunk(self, ends: Sequence[str]) -> Graph:
        """The smallest part that ends in `ends` and is wrong."""
        members = [node.name for node in extract(self.graph, ends).operators]
        low, high = 0, len(members)  # cutting the first `low` leaves it wrong
        while high - low > 1:
            middle = (low + high) // 2
            if self._wrong_without(ends, members[:middle]):
                low = middle
            else:
                high = middle
        cut = set(members[:low])
        for name in [node.name for node in extract(self.graph, ends, cut).operators]:
            if name not in ends and self._wrong_without(ends, cut | {name}):
                cut.add(name)
        return extract(self.graph, ends, cut)

    def _wrong_without(self, ends: Sequence[str], cut: Collection[str]) -> bool:
        kept = [name for name in ends if name not in cut]
        return bool(kept) and bool(self.wrong(extract(self.graph, kept, cut)))

    def _explained(self, part: Graph, off: str) -> Fault:
        made_by = self._pass_that_turns(part)
        passes = self._least() if made_by is None else (*self.passes[: made_by + 1], *self._least())
        inputs = given(part, self._values)
        expected = reference(part, inputs)
        model = self._compile(part, passes)
        found = model.run(inputs)
        off = off if off in found else next(iter(found))
        meant = reference(model.graph, inputs)
        bent = any(not difference(meant[name], want).within(self.tolerance) for name, want in expected.items())
        culprits = [] if bent else self._culprits(model.graph, inputs)
        cause = "pass" if bent else "kernel" if culprits else "program"
        names = culprits or [node.name for node in model.graph.operators]
        kernels = () if bent else self._suspects(model, names)
        return Fault(
            off, self.graph[off].op, difference(found[off], expected[off]), cause,
            None if made_by is None else self.passes[made_by].name, None if made_by is None else self.numbers[made_by],
            tuple(str(model.graph[name]) for name in names), kernels, part, inputs, expected, found,
        )  # fmt: skip

    def _suspects(self, model: CompiledModel, names: Collection[str]) -> tuple[str, ...]:
        """Kernels that run the given nodes or bring what they read; those that also ran in a part that was right only
        where no other is left.
        """
        steps = model.program.steps
        near = {*names, *(operand for name in names for operand in model.graph[name].operands)}
        every = list(dict.fromkeys(step.kernel for step in steps))
        own = list(dict.fromkeys(step.kernel for step in steps if node_of(model.graph, step.node) in near)) or every
        left = [kernel for kernel in own if kernel not in self._acquitted]
        return tuple(left or [kernel for kernel in every if kernel not in self._acquitted] or own)

    def _least(self) -> tuple[Pass, ...]:
        """The least that makes a graph runnable, which fuses nothing."""
        from convc.passes.manager import resolve

        return resolve("none")

    def _pass_that_turns(self, part: Graph) -> int | None:
        """Index of the first pass after which the part is wrong; None where it is so without any."""
        if self.wrong(part, self._least()):
            return None
        for index in self._that_rewrite(part):
            if self.wrong(part, (*self.passes[: index + 1], *self._least())):
                return index
        return len(self.passes) - 1 if self.passes else None

    def _that_rewrite(self, part: Graph) -> list[int]:
        """Indices of the passes that change anything in a part."""
        records = self._compile(part, self.passes).records
        ahead = len(records) - len(self.passes)  # passes that the compiler puts before all others
        return [record.index - 1 - ahead for record in records if record.rewrites and record.index > ahead]

    def _culprits(self, graph: Graph, inputs: Mapping[str, Array]) -> list[str]:
        """Nodes of a graph that has been through its passes that are wrong by themselves."""
        values = run_nodes(graph, wide(inputs), dtype="float64")
        found = []
        for node in graph.operators:
            outside = {name for name in node.operands if graph[name].op != "constant"}
            alone = extract(graph, [node.name], outside)
            fed = given(alone, values)
            try:
                result = self._compile(alone, ()).run(fed)
            except Error:
                continue
            want = reference(alone, fed)
            if any(not difference(result[name], want[name]).within(self.tolerance) for name in want):
                found.append(node.name)
        return found


__all__ = ["Compile", "Fault", "Locator"]
