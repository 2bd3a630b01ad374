"""Winograd's kernel against the interpreter in float64, over sizes that tiles do not divide, and its matrices."""

from __future__ import annotations

import numpy as np
import pytest

import convc
from convc.backends.cpu import winograd
from convc.backends.cpu.winograd_points import POINTS, matrices, transform_kernels
from convc.interp import run_graph
from convc.ir.graph import Graph


def network(channels: int, out: int, padding: tuple[int, int, int, int], residual: bool) -> Graph:
    b = convc.Builder("winograd", seed=3)
    x = b.input("x", ("N", channels, "H", "W"), nominal={"H": 9, "W": 9})
    y = b.conv(x, out, kernel=3, padding=padding)
    if residual:
        y = b.op("relu", [b.op("add", [y, b.conv(x, out, kernel=1)])])
    return b.finish(y)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "pays", lambda *facts: True)


@pytest.mark.parametrize("m", sorted(POINTS))
def test_matrices_compute_the_convolution(m: int) -> None:
    at, _, bt = matrices(m)
    rng = np.random.default_rng(m)
    d, w = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((1, 1, 3, 3))
    points = transform_kernels(w.astype(np.float64), m).reshape(m + 2, m + 2).astype(np.float64)
    direct = np.array([[(d[i : i + 3, j : j + 3] * w[0, 0]).sum() for j in range(m)] for i in range(m)])
    np.testing.assert_allclose(at @ (points * (bt @ d @ bt.T)) @ at.T, direct, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "out", "padding", "residual"),
    [
        (16, 32, (1, 1, 1, 1), False),
        (17, 35, (0, 0, 0, 0), False),
        (33, 48, (1, 1, 1, 1), True),
        (20, 3, (2, 0, 1, 3), False),
    ],
)
@pytest.mark.usefixtures("always")
def test_equals_the_interpreter(channels: int, out: int, padding: tuple[int, int, int, int], residual: bool) -> None:
    graph = network(channels, out, padding, residual)
    model, team = (convc.compile(graph, threads=threads) for threads in (1, 3))
    assert [s.family for s in model.program.steps].count("winograd") == 1
    for images, height, width in ((1, 9, 9), (3, 14, 7), (2, 3, 3), (1, 40, 31)):
        x = np.random.default_rng(height).standard_normal((images, channels, height, width)).astype(np.float32)
        expected = next(iter(run_graph(graph, {"x": x}, dtype="float64").values()))
        found = model(x)
        np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())
        np.testing.assert_array_equal(team(x), found)
        np.testing.assert_array_equal(model(x[-1:]), found[-1:])


def test_is_chosen_where_it_pays_and_only_there() -> None:
    def families(kernel: int, channels: int, size: int, **options: int) -> set[str]:
        b = convc.Builder("chosen", seed=0)
        y = b.conv(b.input("x", (1, channels, size, size)), channels, kernel=kernel, padding=kernel // 2, **options)
        return {step.family for step in convc.compile(b.finish(y), threads=1).program.steps}

    assert "winograd" in families(3, 64, 28)
    for kernel, channels, size, options in (
        (3, 64, 28, {"stride": 2}), (3, 64, 28, {"dilation": 2}), (3, 64, 28, {"groups": 2}), (5, 64, 28, {}),
        (3, 16, 28, {}), (3, 512, 7, {}),
    ):  # fmt: skip
        assert "winograd" not in families(kernel, channels, size, **options)
