"""Random small networks through each pass and pipeline: still well formed, still the same function, then stable."""

from __future__ import annotations

import random

import numpy as np
import pytest
from support import assert_same_outputs

from convc.errors import ModelError
from convc.ir.graph import Graph, Node, constant, graph_input, make_node
from convc.ir.parser import parse
from convc.ir.verify import verify
from convc.passes import PASSES, PIPELINES, Numerics, run_passes
from convc.passes.context import Context
from convc.passes.fuse_epilogue import EPILOGUES
from convc.types import DType

SEEDS = [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 400))]
ORDERS = [*range(200), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(200, 2000))]
EXACT = [name for name, one in PASSES.items() if one.numerics is Numerics.EXACT]


class Maker:
    """Grows a graph node by node, mostly on what came last, sometimes on something older."""

    def __init__(self, seed: int, most: int = 30) -> None:
        self.random = random.Random(seed)
        self.most = most
        self.nodes: list[Node] = []
        self.values: list[Node] = []
        self.weights: list[Node] = []

    def graph(self) -> Graph:
        channels = self.random.choice([2, 4])
        batch = self.random.choice([1, 2])
        self.values.append(self.keep(graph_input("x", DType.F32, (batch, channels, 7, 6))))
        wanted = self.random.randint(5, self.most)
        while len(self.values) < wanted:
            try:
                self.values.append(self.keep(self.operator()))
            except ModelError:
                continue
        read = {name for node in self.nodes for name in node.operands}
        ends = [n.name for n in self.values if n.name not in read and self.random.random() < 0.9]
        outputs = {self.values[-1].name, self.random.choice(self.values[1:]).name, *ends}
        return Graph.build("random", self.nodes, sorted(outputs))

    def keep(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def any_value(self) -> Node:
        return self.values[-1] if self.random.random() < 0.7 else self.random.choice(self.values)

    def weight(self, shape: tuple[int, ...], *, positive: bool = False) -> Node:
        """A constant, sometimes one that is used already, sometimes a plain number."""
        twins = [w for w in self.weights if w.type.shape == shape]
        if twins and self.random.random() < 0.3 and not positive:
            return self.random.choice(twins)
        kind = self.random.choice(["normal(seed={s}, std=0.5)"] * 3 + ["full({v})"])
        if positive:
            kind = "uniform(seed={s}, low=0.5, high=1.5)"
        value = kind.format(s=self.random.randint(0, 3), v=self.random.choice([0.0, -0.0, 1.0]))
        array = parse(f'graph "w" {{ %w = constant {value} : f32[{", ".join(map(str, shape))}] return %w }}')["w"].array
        self.weights.append(constant(f"w{len(self.nodes)}", array))
        return self.keep(self.weights[-1])

    def operator(self) -> Node:
        make = self.random.choice(
            [self.conv, self.conv, self.conv, self.transposed, self.norm, self.norm, self.activation, self.activation,
             self.addition, self.addition, self.scale, self.pad, self.pool, self.nothing, self.move, self.arithmetic,
             self.select, self.select, self.shuffle, self.shuffle, self.join, self.join, self.depthwise, self.gate]
        )  # fmt: skip
        return make(f"v{len(self.nodes)}", self.any_value())

    def conv(self, name: str, x: Node) -> Node:
        channels, out = self.sizes(x)[1], self.random.choice([2, 4])
        groups = self.random.choice([g for g in (1, 2, 4) if channels % g == 0 and out % g == 0])
        kernel = self.random.choice([1, 3])
        pads = self.random.choice([0, kernel // 2])
        inputs = [x, self.weight((out, channels // groups, kernel, kernel))]
        inputs += [self.weight((out,))] if self.random.random() < 0.5 else []
        return make_node("conv2d", name, inputs, {"groups": groups, "padding": (pads,) * 4})

    def transposed(self, name: str, x: Node) -> Node:
        channels = self.sizes(x)[1]
        groups = self.random.choice([1, 2])
        w = self.weight((channels, 2, 2, 2))
        return make_node("conv_transpose2d", name, [x, w], {"groups": groups, "padding": (1, 0, 0, 1)})

    def norm(self, name: str, x: Node) -> Node:
        shape = (self.sizes(x)[1],)
        inputs = [x, self.weight(shape), self.weight(shape), self.weight(shape), self.weight(shape, positive=True)]
        return make_node("batch_norm", name, inputs)

    def activation(self, name: str, x: Node) -> Node:
        return make_node(self.random.choice([*sorted(EPILOGUES), "neg", *["relu"] * 5]), name, [x])

    def addition(self, name: str, x: Node) -> Node:
        others = [v for v in self.values if v.type == x.type]
        return make_node("add", name, self.random.sample([x, self.random.choice(others)], 2))

    def scale(self, name: str, x: Node) -> Node:
        c = self.weight(self.random.choice([(self.sizes(x)[1], 1, 1), (), (1,)]))
        pair = [x, c] if self.random.random() < 0.7 else [c, x]
        return make_node(self.random.choice(["mul", "add", "sub"]), name, pair)

    def pad(self, name: str, x: Node) -> Node:
        edges = [0, 0, self.random.choice([0, 1]), 1]
        attrs = {"value": self.random.choice([0.0, 0.0, 1.0]), "mode": self.random.choice(["constant"] * 3 + ["edge"])}
        return make_node("pad", name, [x], {"before": edges, "after": [0, 0, 0, 1], **attrs})

    def pool(self, name: str, x: Node) -> Node:
        attrs = {"kernel": (2, 2), "padding": self.random.choice([(0, 0, 0, 0), (1, 0, 0, 1)])}
        return make_node(self.random.choice(["max_pool2d", "avg_pool2d"]), name, [x], attrs)

    def nothing(self, name: str, x: Node) -> Node:
        axis = self.random.randrange(4)
        op, attrs = self.random.choice(
            [("identity", {}), ("dropout", {}), ("reshape", {"shape": x.type.shape}), ("cast", {"to": DType.F32}),
             ("slice", {"axis": axis, "start": 0, "stop": x.type.shape[axis]}), ("concat", {"axis": 1})]
        )  # fmt: skip
        return make_node(op, name, [x], attrs)

    def move(self, name: str, x: Node) -> Node:
        n, c, h, w = self.sizes(x)
        if self.random.random() < 0.5:
            return make_node("transpose", name, [x], {"perm": (0, 1, 3, 2)})
        return make_node("reshape", name, [x], {"shape": (n, c, w, h)})

    def arithmetic(self, name: str, x: Node) -> Node:
        a = self.weight((self.sizes(x)[1], 1, 1))
        product = self.keep(make_node("mul", f"{name}.c", [a, a]))
        return make_node("mul", name, [x, product])

    def select(self, name: str, x: Node) -> Node:
        """Some channels of x, in some order, by a slice or by indices."""
        channels = self.sizes(x)[1]
        if self.random.random() < 0.4:
            start, step = self.random.randrange(channels), self.random.choice([1, 1, 2, -1])
            stop = self.random.randint(start + 1, channels) if step > 0 else -1
            return make_node("slice", name, [x], {"axis": 1, "start": start, "stop": stop, "step": step})
        index = self.random.sample(range(-channels, 0) if self.random.random() < 0.2 else range(channels), channels)
        index = index[: self.random.choice([channels, channels, 2])]
        if self.random.random() < 0.1:
            index.append(index[0])
        indices = self.keep(constant(f"{name}.i", np.array(index, np.int64)))
        return make_node("gather", name, [x, indices], {"axis": self.random.choice([1, -3])})

    def shuffle(self, name: str, x: Node) -> Node:
        channels = self.sizes(x)[1]
        groups = self.random.choice([g for g in range(1, channels + 1) if channels % g == 0])
        return make_node("channel_shuffle", name, [x], {"groups": groups})

    def join(self, name: str, x: Node) -> Node:
        others = [v for v in self.values if v.type.shape[2:] == x.type.shape[2:] and self.sizes(v)[1] <= 6]
        parts = self.random.sample([x, *self.random.choices(others or [x], k=self.random.choice([1, 1, 2]))], 2)
        return make_node("concat", name, parts, {"axis": 1})

    def depthwise(self, name: str, x: Node) -> Node:
        channels = self.sizes(x)[1]
        twice = self.random.choice([1, 1, 2]) if channels <= 4 else 1
        inputs = [x, self.weight((channels * twice, 1, 3, 3))]
        inputs += [self.weight((channels * twice,))] if self.random.random() < 0.5 else []
        return make_node("conv2d", name, inputs, {"groups": channels, "padding": (1, 1, 1, 1)})

    def gate(self, name: str, x: Node) -> Node:
        """x times a sigmoid of its means."""
        mean = self.keep(make_node("global_avg_pool", f"{name}.mean", [x]))
        if self.random.random() < 0.5:
            channels = self.sizes(x)[1]
            mean = self.keep(make_node("conv2d", f"{name}.fc", [mean, self.weight((channels, channels, 1, 1))]))
        return make_node("mul", name, [x, self.keep(make_node("sigmoid", f"{name}.gate", [mean]))])

    @staticmethod
    def sizes(x: Node) -> tuple[int, int, int, int]:
        n, c, h, w = (int(str(size)) for size in x.type.shape)
        return n, c, h, w


@pytest.mark.parametrize("seed", SEEDS)
def test_each_pass(seed: int) -> None:
    graph = Maker(seed).graph()
    assert parse(str(graph), weights=graph.weights()) == graph
    for name, one in PASSES.items():
        result = one.run(graph, Context())
        verify(result.graph, known=graph)
        assert (result.graph is graph) == (not result.rewrites), name
        assert_same_outputs(graph, result.graph, one.numerics, seed)
        again = one.run(result.graph, Context())
        assert not again.rewrites, f"{name} goes on: {again.rewrites}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pipeline", [*PIPELINES, "exact"])
def test_pipelines(pipeline: str, seed: int) -> None:
    graph = Maker(1000 + seed).graph()
    result, records = run_passes(graph, EXACT * 2 if pipeline == "exact" else pipeline)
    numerics = Numerics.REASSOCIATES if pipeline == "default" else Numerics.EXACT
    assert_same_outputs(graph, result, numerics, seed)
    assert parse(str(result), weights=result.weights()) == result
    for record in records:
        for refusal in record.refusals:
            assert refusal.rule and refusal.reason
    for _ in range(2):
        result, records = run_passes(result, pipeline if pipeline != "exact" else EXACT)
    assert not any(record.changed for record in records)
    assert_same_outputs(graph, result, numerics, seed)


@pytest.mark.parametrize("seed", ORDERS)
def test_every_pass_in_random_order(seed: int) -> None:
    graph = Maker(2000 + seed, most=60).graph()
    order = list(PASSES)
    random.Random(seed).shuffle(order)
    result = graph
    for name in order:
        one = PASSES[name].run(result, Context())
        verify(one.graph, known=result)
        assert_same_outputs(result, one.graph, PASSES[name].numerics, seed)
        result = one.graph
