"""Approximate rewrites under a budget: what they promise is measured again, from the two graphs."""

from __future__ import annotations

import numpy as np
import pytest
from support import graph_of

import convc
from convc.backends.cpu.cost import CpuCost
from convc.backends.cpu.isa import ISAS
from convc.data import load_digits_test, load_digits_train
from convc.errors import InputError
from convc.interp import run_graph
from convc.ir.graph import Graph, constant
from convc.passes import PASSES, run_passes
from convc.passes.base import PassRecord, PassResult
from convc.passes.calibration import calibrate
from convc.passes.chain import Layer, composed
from convc.passes.context import Context
from convc.passes.manager import resolve
from convc.passes.spend_budget import SpendBudget, with_budget
from convc.zoo import build

NET = """
    %x = input : f32[N, 8, 10, 10]
    %v = constant normal(seed=2, std=0.1) : f32[12, 8, 5, 5]
    %u = constant normal(seed=2, std=0.1) : f32[12, 12, 5, 5]
    %b = constant normal(seed=3) : f32[12]
    %c = conv2d(%x, %v, %b) {padding=[2, 2, 2, 2]}
    %r = relu(%c)
    %d = conv2d(%r, %u, %b) {padding=[2, 2, 2, 2]}
    %s = relu(%d)
    %y = global_avg_pool(%s)
    return %y, %s
    """


def smooth() -> Graph:
    """A network whose kernels are near low rank, so that there is something to gain."""
    graph = graph_of(NET, "(N=1)")
    random = np.random.default_rng(0)
    nodes = []
    for node in graph.nodes:
        if node.name in {"u", "v"}:
            out, channels = node.array.shape[:2]
            pair = [Layer(random.normal(size=(3, channels, 1, 5))), Layer(random.normal(size=(out, 3, 5, 1)))]
            low = composed(pair, channels, 1)
            noise = random.normal(size=low.shape) * low.std() * 0.01
            node = constant(node.name, ((low + noise) / 40).astype(np.float32))
        nodes.append(node)
    return Graph.build("smooth", nodes, graph.outputs, {"N": 1})


def images(count: int = 24) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, 8, 10, 10)).astype(np.float32)


def error(before: Graph, after: Graph, x: np.ndarray) -> float:
    """The largest difference of an output as a share of its largest value."""
    name = before.inputs[0].name
    expected, found = run_graph(before, {name: x}), run_graph(after, {name: x})
    return max(float(np.abs(found[k] - y).max() / np.abs(y).max()) for k, y in expected.items())


def weights_of(graph: Graph, last: str) -> np.ndarray:
    """The kernel that the chain ending in `last` makes up, multiplied out tap by tap; dense layers only."""
    layers, node = [], graph[last]
    while True:
        layers.insert(0, Layer(graph[node.inputs[1]].array, node.attrs["groups"]))
        node = graph[node.inputs[0]]
        if not (node.op == "conv2d" and node.name.startswith(f"{last}.")):
            break
    channels = layers[0].w.shape[1] * layers[0].groups
    return composed(layers, channels, 1)


def spend(graph: Graph, budget: float, calibration=None) -> PassResult:
    return SpendBudget(budget, calibration).run(graph, Context())


def test_it_ends_under_the_budget_with_fewer_multiply_adds() -> None:
    graph = smooth()
    x = images()
    result = spend(graph, 0.03, x)
    assert result.graph.macs() < graph.macs()
    assert 0 < error(graph, result.graph, x) <= 0.03
    assert {r.node for r in result.rewrites} <= {"c", "d"}
    assert result.graph.outputs == graph.outputs and result.graph.dims == graph.dims


def test_certificates_hold() -> None:
    graph = smooth()
    x = images()
    result = spend(graph, 0.03, x)
    for index, rewrite in enumerate(result.rewrites):
        figures = rewrite.certificate
        w, near = graph[graph[rewrite.node].inputs[1]].array.astype(np.float64), weights_of(result.graph, rewrite.node)
        assert figures["weight_error"] == pytest.approx(np.linalg.norm(near - w) / np.linalg.norm(w), rel=1e-5)
        chain = [n for n in result.graph.operators if n.name.split(".")[0] == rewrite.node]
        assert figures["macs_before"] == graph.node_macs(graph[rewrite.node]).bind({"N": 1})
        assert figures["macs_after"] == sum(result.graph.node_macs(n).bind({"N": 1}) for n in chain)
        assert figures["seconds_after"] < figures["seconds_before"]
        assert figures["seconds_after"] == pytest.approx(Context().seconds(result.graph, chain, graph.nominal))
        if index == len(result.rewrites) - 1:
            assert figures["output_error"] == pytest.approx(error(graph, result.graph, x), rel=1e-3, abs=1e-6)
        assert rewrite.rule.startswith("near_") and "24 examples of calibration data" in rewrite.note


def test_a_smaller_budget_gains_less_and_none_gains_nothing() -> None:
    graph = smooth()
    x = images()
    macs = [spend(graph, budget, x).graph.macs() for budget in (0.2, 0.03, 1e-7)]
    assert macs[0] <= macs[1] < macs[2] == graph.macs()
    nothing = spend(graph, 1e-7, x)
    assert nothing.graph is graph
    assert any("the nearest of its chains errs by" in r.reason and "over 1e-07" in r.reason for r in nothing.refusals)
    assert PASSES["spend_budget"].run(graph, Context()) == PassResult(graph)


def test_what_overshoots_is_taken_out_again() -> None:
    alone = spend(smooth(), 0.3, images()).rewrites
    budget = 1.05 * max(r.certificate["alone"] for r in alone)
    result = spend(smooth(), budget, images())
    reasons = [r.reason for r in result.refusals]
    assert any("taken out again: output error" in r and "is over the budget of" in r for r in reasons), reasons
    assert error(smooth(), result.graph, images()) <= budget


def test_without_data_it_says_so() -> None:
    graph = smooth()
    result = spend(graph, 0.05)
    assert result.rewrites
    assert all(
        "32 examples of seeded normal inputs, as no calibration data was given" in r.note for r in result.rewrites
    )
    assert error(graph, result.graph, calibrate(graph, None).inputs["x"]) <= 0.05


def test_the_same_twice() -> None:
    first, second = (spend(smooth(), 0.03, images()) for _ in range(2))
    assert str(first.graph) == str(second.graph)
    assert first.rewrites == second.rewrites


def test_records_go_through_json() -> None:
    _, records = run_passes(smooth(), [SpendBudget(0.03, images())])
    assert records[0].options == {"budget": 0.03}
    assert PassRecord.from_json(records[0].to_json()) == records[0]


def test_outputs_that_are_nothing_to_measure_by() -> None:
    x = images(2)
    graph = graph_of(NET.replace("global_avg_pool(%s)", "log(%c)"), "(N=1)")
    result = spend(graph, 0.1, x)
    assert result.graph is graph and "no error is relative to them" in result.refusals[0].reason


def test_where_the_pass_goes() -> None:
    def names(*passes: str) -> list[str]:
        return [one.name for one in with_budget([PASSES[p] for p in passes], 0.1, None)]

    assert names("fold_constants") == ["fold_constants", "spend_budget"]
    assert names("fuse_batchnorm", "fuse_epilogue") == ["fuse_batchnorm", "spend_budget", "fuse_epilogue"]
    assert names("spend_budget", "fold_constants") == ["spend_budget", "fold_constants"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget=0 is no share of the largest output"),
        ({"budget": -0.1}, "give a number between 0 and 1"),
        ({"budget": True}, "budget=True is no share"),
        ({"budget": float("nan")}, "budget=nan is no share"),
        ({"budget": "1%"}, "budget='1%' is no share"),
        ({"calibration": images()}, "calibration is given without a budget"),
        ({"budget": 0.1, "calibration": images()[:, :3]}, "calibration: input x has shape [24, 3, 10, 10]"),
        ({"budget": 0.1, "calibration": images() > 0}, "calibration of x is bool, expected f32"),
        ({"budget": 0.1, "calibration": [images(), images()]}, "calibration has 2 arrays for 1 inputs"),
        ({"budget": 0.1, "calibration": {"image": images()}}, "calibration names image"),
        ({"budget": 0.1, "calibration": images()[:0]}, "calibration of x is empty"),
        ({"budget": 0.1, "calibration": images() * np.nan}, "calibration of x holds NaN"),
    ],
)
def test_bad_calls(options: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        convc.compile(graph_of(NET, "(N=1)"), target="reference", **options)
    assert message in str(caught.value) and caught.value.hint


def test_forms_of_calibration() -> None:
    graph = graph_of(NET, "(N=1)")
    x = images(3)
    for given in (x, [x], (x,), {"x": x}, x.astype(np.float64), {"x": x.tolist()}):
        found = calibrate(graph, given)
        assert found.inputs["x"].dtype == np.float32 and found.inputs["x"].shape == (3, 8, 10, 10)
        assert found.note == "3 examples of calibration data" and found.sizes == {"N": 3}
    many = calibrate(graph, np.zeros((600, 8, 10, 10), np.float32) + np.arange(600)[:, None, None, None])
    assert many.note == "512 of 600 examples of calibration data"
    assert many.inputs["x"][0, 0, 0, 0] == 0 and many.inputs["x"][-1, 0, 0, 0] == 599


def test_digits() -> None:
    """Under 2 % on training images: fewer multiply-adds, as many of the others right, and that error confirmed."""
    inputs, (others, labels) = load_digits_train()[:360], load_digits_test()
    graph = build("digits")
    cost = CpuCost(ISAS["avx512"])
    exact, _ = run_passes(graph, cost=cost)
    near, records = run_passes(graph, with_budget(resolve("default"), 0.02, inputs), cost=cost)
    assert near.macs() < exact.macs()
    found = error(exact, near, inputs)
    assert 0 < found <= 0.02
    right = [int((np.argmax(run_graph(g, {"image": others})["logits"], 1) == labels).sum()) for g in (exact, near)]
    assert abs(right[0] - right[1]) <= 1
    record = next(r for r in records if r.name == "spend_budget")
    assert record.rewrites and record.macs_after < record.macs_before
    assert record.rewrites[-1].certificate["output_error"] == pytest.approx(found, rel=0.01)


def test_compile_takes_a_budget() -> None:
    graph = smooth()
    x = images()
    exact = convc.compile(graph, target="reference")
    model = convc.compile(graph, target="reference", budget=0.05, calibration=x)
    assert model.graph.macs() < exact.graph.macs()
    assert [r.name for r in model.records].index("spend_budget") < [r.name for r in model.records].index(
        "fuse_epilogue"
    )
    for expected, found in zip(exact(x), model(x), strict=True):
        assert np.abs(found - expected).max() <= 0.051 * np.abs(expected).max()
