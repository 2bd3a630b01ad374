"""Where channels lie: no step only moves channels, and few planes are worked on in vain."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from cpu_support import TARGETS, check
from support import graph_of

from convc import zoo
from convc.backends.cpu.lower import lower
from convc.backends.cpu.target import CpuTarget
from convc.backends.program import Planes, Program
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.passes import run_passes
from convc.source import read_source

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_shufflenet.onnx"
MOVES = {"index_copy", "relayout", "gather", "pack", "unpack"}
EXECUTED = [TARGETS[0], *(pytest.param(target, marks=pytest.mark.slow) for target in TARGETS[1:])]
ISAS = {target: CpuTarget(target.partition(":")[2], 1).isa for target in TARGETS}


def moves(program: Program) -> list[tuple[str, str]]:
    return [(step.family, step.node) for step in program.steps if step.family in MOVES]


def worked_on(program: Program) -> Iterator[tuple[int, int]]:
    """Planes that each step by plane writes, and the fewest that would hold its channels."""
    for step in program.steps:
        written = step.writes[0]
        by_lane = step.family == "conv" and step.params["call"].spec.mode in {"lanes", "window"}
        if isinstance(written, Planes) and (by_lane or step.family in {"map_planes", "pool", "global_pool"}):
            yield len(written.planes), -(-written.channels // written.lanes)


@functools.cache
def optimised(name: str) -> Graph:
    graph = read_source(str(LIGHT), limits=Limits()) if name == "light" else zoo.build(name)
    return run_passes(graph, "default")[0]


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "cpu:portable"])
@pytest.mark.parametrize(
    "name", ["shufflenet_v1", "shufflenet_v2", pytest.param("light", marks=pytest.mark.slow), "digits"]
)
def test_no_step_only_moves_channels(name: str, target: str) -> None:
    program = lower(optimised(name), ISAS[target])
    assert [family for family, _ in moves(program)] == ["pack", "unpack"]
    planes, fewest = np.sum(list(worked_on(program)), axis=0)
    # Groups of fewer channels than a plane has lanes leave lanes empty.
    assert planes <= 1.25 * fewest or name == "digits"


@pytest.mark.parametrize("target", EXECUTED)
def test_channels_that_leave_together_lie_together(target: str) -> None:
    """Every second channel of a convolution goes to a depthwise one, which then works on half of the planes."""
    lanes = ISAS[target].lanes
    graph = graph_of(
        f"""
        %x = input : f32[2, 3, 6, 6]
        %w = constant normal(seed=1) : f32[{4 * lanes}, 3, 1, 1]
        %d = constant normal(seed=2) : f32[{2 * lanes}, 1, 3, 3]
        %k = conv2d(%x, %w) {{activation=relu}}
        %s = slice(%k) {{axis=1, start=1, stop={4 * lanes}, step=2}}
        %y = conv2d(%s, %d) {{groups={2 * lanes}, padding=[1, 1, 1, 1]}}
        %v = constant normal(seed=3) : f32[6, {2 * lanes}, 1, 1]
        %z = conv2d(%k, %v) {{groups=2}}
        return %y, %z
        """
    )
    model = check(graph, target=target)
    assert list(worked_on(model.program)) == [(2, 2)]


@pytest.mark.parametrize("target", EXECUTED)
@pytest.mark.parametrize(
    ("groups", "parts"), [(1, (24, 40)), (2, (24, 40)), (4, (20, 44)), (4, (24, 72)), (3, (24, 72))]
)
def test_a_convolution_follows_its_residual(groups: int, parts: tuple[int, int], target: str) -> None:
    """The residual is a concat whose parts do not end where planes or groups do; three times in a row."""
    first, second = parts
    out = first + second
    graph = graph_of(
        f"""
        %x = input : f32[2, 5, 7, 6]
        %a = constant normal(seed=1) : f32[{first}, 5, 1, 1]
        %b = constant normal(seed=2) : f32[{second}, 5, 3, 3]
        %c = conv2d(%x, %a)
        %d = conv2d(%x, %b) {{padding=[1, 1, 1, 1]}}
        %r = concat(%c, %d) {{axis=1}}
        %w = constant normal(seed=3, std=0.1) : f32[{out}, {out // groups}, 1, 1]
        %v = constant normal(seed=4) : f32[{out}]
        %s = conv2d(%r, %w, %v, %r) {{groups={groups}, activation=relu}}
        %t = conv2d(%s, %w, %v, %s) {{groups={groups}}}
        %m = max_pool2d(%t) {{kernel=[2, 2]}}
        %g = global_avg_pool(%t)
        return %m, %g
        """
    )
    model = check(graph, target=target, threads=2)
    assert not [move for move in moves(model.program) if move[0] == "relayout"]


@pytest.mark.parametrize("target", EXECUTED)
def test_a_residual_that_would_cost_more_to_follow_is_moved(target: str) -> None:
    """Scattered channels: a block for each of their planes would multiply a large convolution."""
    lanes = ISAS[target].lanes
    channels = 4 * lanes
    graph = graph_of(
        f"""
        %x = input : f32[1, {channels}, 5, 5]
        %k = input : f32[1, {channels * 4}, 5, 5]
        %w = constant normal(seed=3, std=0.1) : f32[{channels}, {channels}, 3, 3]
        %a = constant full(0.5) : f32[{channels * 4}, 1, 1, 1]
        %f = conv2d(%k, %a) {{groups={channels * 4}}}
        %r = slice(%f) {{axis=1, start=0, stop={channels * 4}, step=4}}
        %o = sigmoid(%f)
        %y = conv2d(%x, %w, _, %r) {{padding=[1, 1, 1, 1]}}
        return %y, %o
        """
    )
    model = check(graph, target=target)
    assert [move for move in moves(model.program) if move[0] == "relayout"] == [("relayout", "r")]


@pytest.mark.parametrize("target", EXECUTED)
@pytest.mark.parametrize(("groups", "multiplier"), [(2, 40), (4, 28), (40, 1), (20, 3)])
def test_depthwise_with_many_outputs_a_channel(groups: int, multiplier: int, target: str) -> None:
    graph = graph_of(
        f"""
        %x = input : f32[2, {groups}, 6, 5]
        %w = constant normal(seed=1) : f32[{groups * multiplier}, 1, 3, 3]
        %k = relu(%x)
        %y = conv2d(%k, %w) {{groups={groups}, padding=[1, 1, 1, 1]}}
        return %y
        """
    )
    model = check(graph, target=target)
    (step,) = (s for s in model.program.steps if s.family == "conv")
    written = step.writes[0]
    lanes = ISAS[target].lanes
    assert isinstance(written, Planes)
    by_block, by_lane = groups * -(-multiplier // lanes), -(-groups // lanes) * multiplier
    assert len(written.planes) == min(by_block, by_lane)
