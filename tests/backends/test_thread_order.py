"""Threads between two waits depend on nothing that another does: any order of them gives the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cpu_support import run_in_order
from support import random_inputs

import convc
from convc.frontends.builder import Builder, Value

ORDERS = [(0, 1, 2), (2, 1, 0), (1, 2, 0)]


def regions(b: Builder, x: Value) -> Any:
    y = b.conv(x, 64, kernel=1)
    return b.conv(y, 40, kernel=3, dilation=12, padding=12) + b.conv(y, 40, kernel=1)


def phases(b: Builder, x: Value) -> Any:
    y = b.conv(x, 48, kernel=1)
    z = b.conv_transpose2d(y, np.random.default_rng(0).standard_normal((48, 20, 4, 4)).astype(np.float32), stride=2)
    return b.conv_transpose2d(z, np.ones((20, 3, 4, 4), np.float32), stride=2)


def winograd(b: Builder, x: Value) -> Any:
    y = b.relu(b.conv(x, 64, kernel=3, padding=1))
    y = b.conv(y, 64, kernel=3, padding=1) + y
    return b.max_pool2d(b.relu(b.conv(y, 64, kernel=(1, 7), padding=(0, 3, 0, 3))), kernel=2, stride=2)


def moves(b: Builder, x: Value) -> Any:
    y = b.op("transpose", [b.conv(x, 24, kernel=1)], perm=(0, 2, 3, 1))
    z = b.concat([y, b.op("exp", [y]), b.op("slice", [y], axis=3, start=3, stop=9)], axis=3)
    return b.op("softmax", [z], axis=3), b.resize(x, size=(2, 17, 28, 30), scales=(1.0, 1.0, 2.0, 2.0), mode="linear")


def gates(b: Builder, x: Value) -> Any:
    y = b.conv(x, 48, kernel=3, padding=1, groups=1)
    y = b.conv(y, 48, kernel=5, padding=2, groups=48)
    y = y * b.op("sigmoid", [b.conv(b.global_avg_pool(y), 48, kernel=1)])
    gamma, beta = b.constant(np.ones(48, np.float32)), b.constant(np.zeros(48, np.float32))
    return b.batch_norm(b.channel_shuffle(y, groups=4)), b.op("group_norm", [y, gamma, beta], groups=6)


@pytest.mark.parametrize("make", [regions, phases, winograd, moves, gates], ids=lambda made: made.__name__)
def test_any_order_of_threads(make: Callable[[Builder, Value], Any]) -> None:
    b = Builder("order", seed=0)
    made = make(b, b.input("x", (2, 17, 14, 15)))
    graph = b.finish(list(made) if isinstance(made, tuple) else made)
    model = convc.compile(graph, threads=3)
    given = random_inputs(graph, 0)
    found = model.run(given)
    for order in ORDERS:
        for name, array in run_in_order(model, given, order).items():
            np.testing.assert_array_equal(array, found[name], err_msg=f"threads in order {order}")


def test_a_thread_that_reads_what_another_writes_is_found() -> None:
    """Without the waits between a convolution and the next, orders differ."""
    b = Builder("race", seed=0)
    y = b.conv(b.conv(b.input("x", (1, 17, 14, 15)), 32, kernel=3, padding=1), 32, kernel=3, padding=1)
    graph = b.finish(y)
    model = convc.compile(graph, threads=3)
    given = random_inputs(graph, 0)
    executable: Any = model.runnable
    executable.plan({}).waits[:] = 0
    found = [run_in_order(model, given, order)[graph.outputs[0].name] for order in ORDERS[:2]]
    assert not np.array_equal(*found, equal_nan=True)
