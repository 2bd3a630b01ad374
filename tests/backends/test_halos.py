"""Halos that are not cleared, because nothing else was there, are zero whenever a step would have cleared them."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_support import halos

import convc
from convc import zoo


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121", "dcgan"])
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
