"""The default pipeline on whole networks: what it must leave behind nowhere, and what it finds where."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from convc import zoo
from convc.backends.cpu.cost import CpuCost
from convc.backends.cpu.isa import ISAS
from convc.frontends.onnx import load_onnx
from convc.ir.graph import Graph
from convc.passes import PIPELINES, run_passes

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
FOUND = {
    "densenet121": {"fuse_prologue": 58, "pool_ahead": 3, "lower_batchnorm": 4},
    "light_densenet121": {"fuse_prologue": 58, "pool_ahead": 3, "lower_batchnorm": 4},
    "googlenet": {"merge_siblings": 9},
    "inception_v3": {"merge_siblings": 7},
    "shufflenet_v1": {"recognise_shuffle": 16},
    "shufflenet_v2": {"recognise_shuffle": 16},
    "light_shufflenet": {"recognise_shuffle": 16, "recognise_window": 1},
}
"""Rewrites by rule, of the rules named here."""
QUICK = {*FOUND, "digits", "light_inception_v2", "light_resnet50"} - {"inception_v3", "shufflenet_v1"}
WEIGHTS = {"separate_depthwise", "stack_conv5x5", "bottleneck", "separate_kernels"}
"""Passes over the values of weights: they take seconds where kernels are dense, and are tested by themselves."""


def network(name: str) -> Graph:
    return load_onnx(LIGHT / f"{name}.onnx") if name.startswith("light_") else zoo.build(name)


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in [*zoo.ZOO, *sorted(path.stem for path in LIGHT.glob("light_*.onnx"))]
    ],
)
def test_no_batchnorm_is_left_and_no_multiply_add_comes_in(name: str) -> None:
    graph = network(name)
    passes = [name for name in PIPELINES["default"] if name not in WEIGHTS]
    found, records = run_passes(graph, passes, cost=CpuCost(ISAS["avx512"]))
    assert not [node.name for node in found.operators if node.op == "batch_norm"]
    assert found.macs() <= graph.macs()
    counts = Counter(rewrite.rule for record in records for rewrite in record.rewrites)
    wanted = FOUND.get(name, {})
    assert {rule: counts[rule] for rule in wanted} == wanted
