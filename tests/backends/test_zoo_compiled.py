"""The zoo's networks, compiled: within 1e-4 of the interpreter, with and without passes, on each instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS, assert_close, expected_outputs

import convc
from convc.backends.binding import Binding
from convc.backends.cpu import isa
from convc.backends.cpu.lower import ARGUMENTS, lower
from convc.backends.memory import buffer_bytes
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.types import Array
from convc.zoo import ZOO

SMALL: dict[str, dict[str, Any]] = {
    "alexnet": {"size": 67}, "dcgan": {}, "densenet121": {"size": 33}, "digits": {}, "effnet": {"size": 64},
    "fcn": {"size": 33}, "googlenet": {"size": 64}, "inception_v3": {"size": 80}, "mobilenet_v1": {"size": 40},
    "mobilenet_v2": {"size": 40}, "resnet18": {"size": 37}, "resnet50": {"size": 33}, "resnext50": {"size": 33},
    "se_resnet50": {"size": 33}, "shufflenet_v1": {"size": 64}, "shufflenet_v2": {"size": 40},
    "squeezenet": {"size": 48}, "squeezenet1_0": {"size": 48}, "vgg16": {"size": 32}, "vgg16_bn": {"size": 32},
    "xception": {"size": 71},
}  # fmt: skip
QUICK = ["digits", "mobilenet_v2", "shufflenet_v2", "squeezenet"]


def test_every_network_is_here() -> None:
    assert set(SMALL) == set(ZOO)


def build(name: str, nominal: bool) -> Graph:
    return convc.zoo.build(name) if nominal else convc.zoo.build(name, **SMALL[name])


def images(graph: Graph, batch: int) -> dict[str, Array]:
    (port,) = graph.inputs
    shape = port.type.concrete({**graph.nominal, "N": batch})
    return {port.name: np.random.default_rng(batch).normal(size=shape).astype(np.float32)}


def compare(name: str, *, nominal: bool = False, targets: list[str], batches: tuple[int, ...] = (1, 3)) -> None:
    graph = build(name, nominal)
    given = {batch: images(graph, batch) for batch in batches}
    wanted = {batch: expected_outputs(graph, given[batch]) for batch in batches}
    for target in targets:
        bits: dict[str, list[bytes]] = {"default": [], "none": []}
        for passes, threads in (("default", 1), ("default", 2), ("none", 2)):
            model = convc.compile(graph, target=target, passes=passes, threads=threads)
            for batch in batches:
                found = model.run(given[batch])
                assert_close(found, wanted[batch], graph, 1e-4)
                bits[passes].append(b"".join(array.tobytes() for array in found.values()))
        assert bits["default"][: len(batches)] == bits["default"][len(batches) :], f"{name} depends on threads"


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SMALL])
def test_small_images(name: str) -> None:
    compare(name, targets=TARGETS[:1])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_small_images_on_other_instruction_sets(name: str) -> None:
    compare(name, targets=TARGETS[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_nominal_images(name: str) -> None:
    compare(name, nominal=True, targets=TARGETS[:2], batches=(1,))


@pytest.mark.parametrize("name", QUICK)
def test_buffers_that_live_together_do_not_overlap(name: str) -> None:
    """Of every two buffers in use at one moment: disjoint ranges of the arena."""
    graph = build(name, nominal=True)
    program = lower(graph, isa.choose())
    bound = Binding(program, graph.nominal, ARGUMENTS, Limits())
    memory = bound.memory
    starts = sorted((offset, index) for index, offset in memory.offsets.items())
    sides = {i: program.sides(i, graph.nominal) for i in memory.offsets}
    ends = {i: o + buffer_bytes(program.buffers[i], sides[i], graph.nominal) for i, o in memory.offsets.items()}
    assert max(ends.values()) <= memory.total
    for position, (_, one) in enumerate(starts):
        for offset, other in starts[position + 1 :]:
            if offset >= ends[one]:
                break
            (first, last), (begin, end) = memory.lives[one], memory.lives[other]
            assert last < begin or end < first, f"%{program.buffers[one].name} and %{program.buffers[other].name}"
