"""Halos that are not cleared, because nothing else was there, are zero whenever a step would have cleared them."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_support import check, halos

import convc
from convc import zoo
from convc.backends.cpu import lower
from convc.backends.cpu.isa import choose
from convc.backends.halo import Sides
from convc.backends.program import Planes, Step


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121", "shufflenet_v1"])
def test_halos_that_are_not_cleared_are_zero(name: str) -> None:
    graph = zoo.build(name)
    model = convc.compile(graph, threads=1)
    bound = model.runnable.plan(graph.nominal).bound  # type: ignore[attr-defined]
    clean = bound.clean
    assert clean and all(bound.program.steps[index].family == "clear_halo" for index in clean)
    inputs = [np.ones(port.type.concrete(graph.nominal), np.float32) for port in model.graph.inputs]
    stepper = model.runnable.stepper(inputs, graph.nominal)  # type: ignore[attr-defined]
    arena = stepper._context.arena
    for _ in range(2):
        for index in range(stepper.steps):
            if index in clean:
                assert not any(arena[begin:end].any() for begin, end in halos(bound, index)), index
            stepper.run(index, 1)


@pytest.mark.parametrize("processor", ["generic", "znver4"])
def test_a_halo_has_what_windows_touch_at_each_size_and_no_more(
    monkeypatch: pytest.MonkeyPatch, processor: str
) -> None:
    """Direct convolutions touch their windows; Winograd's, which Zen 4 takes for the strided one, whole tiles."""
    monkeypatch.setattr(lower, "host_processor", lambda: processor)
    b = convc.Builder("halos", seed=1)
    x = b.input("x", ("N", 32, "H", "W"), nominal={"H": 56, "W": 56})
    y = b.conv(b.conv(x, 32, kernel=1), 32, kernel=3, padding=1, name="tiled")
    graph = b.finish(b.conv(b.conv(y, 32, kernel=1), 32, kernel=3, stride=2, padding=1, name="strided"))
    model = convc.compile(graph, threads=1, passes="none")
    program = model.program
    tiled, strided = (next(step for step in program.steps if step.node == name) for name in ("tiled", "strided"))
    down, across = (tiled.params["call"].spec.form.down, tiled.params["call"].spec.form.across)
    tile = strided.params["call"].spec.form.down if strided.family == "winograd" else 0
    assert tile == (3 if choose().name == "avx512" and processor == "znver4" else 0)

    def sides(step: Step, size: int) -> Sides:
        (layout,) = step.reads
        assert isinstance(layout, Planes)
        return program.sides(layout.planes[0][0], {"N": 1, "H": size, "W": size})

    for size in (4, 7, 9, 56, 57, 58, 59):
        assert sides(tiled, size) == (1, 1, 1 + -size % down, 1 + -size % across)
        outputs = (size + 1) // 2
        touched = 2 * (-(-outputs // tile) * tile) + 1 if tile else 2 * outputs
        assert sides(strided, size) == (1, 1, touched - size, touched - size)
        check(graph, N=1, H=size, W=size)
