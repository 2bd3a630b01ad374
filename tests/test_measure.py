"""Figures, turns, layers with receptive fields, the story of a node, and the profile of steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from measure_support import small_graph, write_small

import convc
from convc.backends.program import node_of
from convc.errors import ModelError, TargetError
from convc.frontends.builder import Builder
from convc.frontends.value import Value
from convc.measure.accuracy import difference
from convc.measure.environment import environment, peak_memory
from convc.measure.history import History
from convc.measure.layers import WHOLE, layers
from convc.measure.profile import profile
from convc.measure.startup import starts
from convc.measure.timing import Budget, Figures, race
from convc.passes.manager import run_passes
from convc.zoo import build


def test_figures_of_known_samples() -> None:
    found = Figures.of([0.004, 0.001, 0.002, 0.003], items=8, percentiles=(50, 75, 99.5))
    assert (found.runs, found.min, found.max, found.median, found.mean) == (4, 0.001, 0.004, 0.0025, 0.0025)
    assert list(found.percentiles) == ["50", "75", "99.5"]
    assert found.percentiles["75"] == pytest.approx(0.00325) and found.throughput == pytest.approx(3200)
    json.dumps(found.to_json())


def test_contestants_run_in_turns_after_a_warm_up() -> None:
    order: list[str] = []
    samples = race({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, Budget(2, 0.0, 3))
    assert "".join(order) == "ab" * 5
    assert [len(taken) for taken in samples.values()] == [3, 3]


def test_both_seconds_and_runs_are_met() -> None:
    assert len(race({"a": lambda: None}, Budget(0, 0.02, 1))["a"]) > 10
    assert len(race({"a": lambda: None}, Budget(0, 0.0, 7))["a"]) == 7


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda b, x: b.conv(x, 4, kernel=3), (3, 3)),
        (lambda b, x: b.conv(x, 4, kernel=(3, 5), dilation=2), (5, 9)),
        (lambda b, x: b.conv(b.conv(x, 4, kernel=3, stride=2), 4, kernel=3), (7, 7)),
        (lambda b, x: b.conv(b.max_pool2d(b.conv(x, 4, kernel=3), kernel=(2, 2), stride=(2, 2)), 4, kernel=3), (8, 8)),
        (lambda b, x: b.concat([b.conv(x, 4, kernel=1), b.conv(x, 4, kernel=5)]), (5, 5)),
        (lambda b, x: b.global_avg_pool(x), WHOLE),
        (lambda b, x: b.conv(b.channel_shuffle(b.conv(x, 8, kernel=3), groups=2), 4, kernel=3), (5, 5)),
        (lambda b, x: b.linear(b.flatten(x), 3), WHOLE),
        (lambda b, x: b.flatten(x), None),
    ],
)
def test_receptive_fields(make: Callable[[Builder, Value], Value], field: object) -> None:
    b = Builder("net")
    x = b.input("x", (1, 4, 32, 32))
    assert layers(b.finish({"y": make(b, x)}))[-1].field == field


def test_layers_of_a_published_network() -> None:
    graph = build("mobilenet_v2")
    found = {layer.name: layer for layer in layers(graph)}
    assert sum(layer.parameters for layer in found.values()) == graph.parameters()
    assert sum(layer.macs for layer in found.values()) == graph.macs()
    assert found["features.0.0"].field == (3, 3) and found["classifier.1"].field == WHOLE
    assert found["features.18.0"].field == (491, 491)


def test_the_history_of_a_node_has_what_it_absorbed() -> None:
    model = convc.compile(small_graph(), target="reference")
    changes = History(model.records).of("stem")
    assert [(one.name, one.node) for one in changes] == [("fuse_batchnorm", "norm"), ("fuse_epilogue", "act")]
    assert History(model.records).of("head") == ()
    assert all(model.records[one.index - 1].rewrites[one.rewrite].node == one.node for one in changes)


def test_histories_are_those_of_walking_over_all_rewrites() -> None:
    """The same by its definition: every rewrite is looked at, backwards for the past, forwards for the future."""
    graph, records = run_passes(build("shufflenet_v2"))
    history = History(records)
    rewrites = [((i, k), one) for i, record in enumerate(records) for k, one in enumerate(record.rewrites)]
    changed = {name for _, one in rewrites for name in (*one.added, *one.removed)}
    assert len(changed) > 100
    for end in (0, len(records) // 2, len(records)):
        for node in sorted(changed)[::7]:
            wanted, past = {node}, []
            for place, one in reversed(rewrites):
                if place < (end, 0) and wanted & set(one.added):
                    past.insert(0, place)
                    wanted |= set(one.removed)
            names, future = {node}, []
            for place, one in rewrites:
                gone = names & set(one.removed)
                if place >= (end, 0) and (gone or names & set(one.added)):
                    future.append(place)
                    names = (names - gone) | set(one.added if gone else ())
            assert history.before(node, end) == tuple(past), (node, end)
            found, heirs = history.after(node, end)
            assert found == tuple(future) and set(heirs) == names, (node, end)
    stem = next(node.name for node in graph.operators)
    assert [(one.name, one.rewrite) for one in history.of(stem)] == [
        (records[i].name, k) for i, k in history.before(stem)
    ]


def test_differences_of_arrays() -> None:
    one = np.array([1.0, -4.0])
    assert difference(np.array([1.0, -4.0004], np.float32), one).error == pytest.approx(1e-4, rel=1e-2)
    assert difference(np.array([1.0, np.nan]), one).error == math.inf
    assert difference(np.array([np.inf, 2.0]), np.array([np.inf, 2.0])).error == 0
    assert difference(np.array([np.inf, 2.0]), np.array([-np.inf, 2.0])).error == math.inf
    assert difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])).error == 0.25
    assert difference(np.zeros(3), np.zeros((3, 1))).error == math.inf
    assert difference(np.zeros(0), np.zeros(0)).error == 0


def test_the_environment_is_plain() -> None:
    found = json.loads(json.dumps(environment()))
    assert {"processor", "gpu", "threads", "packages", "load", "convc"} <= set(found)
    assert found["gpu"].startswith("none: ") or ", sm_" in found["gpu"]
    peak = peak_memory()
    assert peak is None or peak > 10 << 20


# The profile


def test_the_profile_accounts_for_every_step_and_all_macs() -> None:
    model = convc.compile(small_graph(), threads=1)
    found = profile(model, seconds=0.05, rounds=5)
    assert [step.kernel for step in found.steps] == [step.kernel for step in model.program.steps]
    assert sum(step.macs for step in found.steps) == model.graph.macs() == sum(k.macs for k in found.kernels)
    stem = next(step for step in found.steps if step.node == "stem" and step.macs)
    assert stem.source == ("stem", "norm", "act") and next(change.name for change in stem.history) == "fuse_batchnorm"
    assert stem.bytes >= 4 * (3 * 256 + 8 * 256 + 8 * 27 + 8)
    assert sum(step.share for step in found.steps) == pytest.approx(1)
    assert found.total == pytest.approx(sum(kernel.seconds for kernel in found.kernels))
    assert found.limit > 1e8 and stem.limit_share == pytest.approx(stem.macs / stem.seconds / found.limit)
    assert json.loads(json.dumps(found.to_json()))["steps"][0]["kernel"] == found.steps[0].kernel


def test_the_steps_sum_to_the_latency_within_10_percent() -> None:
    """Of milliseconds: what each step costs on its own, some ten microseconds, is 10 percent of less."""
    b = Builder("wide", seed=1)
    y = b.input("x", (1, 3, 112, 112))
    for _ in range(4):
        y = b.relu(b.batch_norm(b.conv(y, 64, kernel=3)))
    model = convc.compile(b.finish({"y": b.linear(b.flatten(b.global_avg_pool(y)), 5)}), threads=1)
    found = [profile(model, seconds=0.1, rounds=10)]
    while abs(found[-1].total / found[-1].seconds - 1) > 0.1 and len(found) < 6:
        found.append(profile(model, seconds=0.3, rounds=20))
    assert found[-1].total == pytest.approx(found[-1].seconds, rel=0.1)
    assert found[-1].latency >= 0.9 * found[-1].seconds


def test_the_interpreter_has_no_steps_to_profile() -> None:
    with pytest.raises(TargetError, match="target reference runs no steps that could be timed. Hint: use target='cpu'"):
        profile(convc.compile(small_graph(), target="reference"))


def test_steps_beside_a_node_belong_to_it() -> None:
    graph = small_graph()
    assert [node_of(graph, name) for name in ("stem", "stem.rows", "nothing", "")] == ["stem", "stem", "", ""]


# The start in new processes


def test_starts_in_new_processes(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_small(tmp_path_factory.mktemp("start"))
    found = starts(path, {"x": (2, 3, 16, 16)}, target="reference")
    assert [one.kind for one in found] == ["cold", "warm", "load"]
    assert all(one.import_seconds > 0 and one.ready_seconds > 0 and one.first_seconds > 0 for one in found)
    assert [one.read_seconds is None for one in found] == [False, False, True]
    json.dumps([one.to_json() for one in found])
    convc.compile(small_graph(), target="reference").save(f"{path}.convc")
    assert [one.kind for one in starts(f"{path}.convc", {"x": (2, 3, 16, 16)})] == ["load_cold", "load"]


def test_a_start_that_fails_says_why(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_small(tmp_path_factory.mktemp("start"))
    with pytest.raises(ModelError, match="small does not take N=2|has shape"):
        starts(path, {"x": (2, 4, 16, 16)}, target="reference")


@pytest.mark.slow
def test_a_cold_start_makes_kernels_and_a_warm_one_does_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    cold, warm, load = starts(write_small(tmp_path_factory.mktemp("start")), {"x": (1, 3, 16, 16)}, threads=1)
    assert cold.kernels_made > 3 and warm.kernels_made == load.kernels_made == 0
    assert cold.ready_seconds > warm.ready_seconds
