"""Depthwise convolutions by rows of taps: the same bits as lane by lane, and the interpreter's answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS

import convc
from convc.backends.cpu import conv_append
from convc.backends.cpu.conv_window import row_of_taps
from convc.interp import run_graph

CASES: list[tuple[int, int, dict[str, Any]]] = [
    (33, 1, {"kernel": 3, "padding": 1}),
    (16, 1, {"kernel": 3, "padding": 1, "stride": 2}),
    (40, 1, {"kernel": 5, "padding": 2}),
    (7, 1, {"kernel": 7, "padding": 3, "stride": (1, 2)}),
    (20, 1, {"kernel": (3, 2), "padding": (0, 1, 1, 0), "dilation": (1, 3)}),
    (18, 1, {"kernel": (1, 4), "padding": 0}),
    (16, 1, {"kernel": (4, 1), "padding": 0}),
    (17, 2, {"kernel": 3, "padding": 1}),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("channels", "multiplier", "attrs"), CASES)
def test_the_same_bits_as_lane_by_lane(
    channels: int, multiplier: int, attrs: dict[str, Any], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = convc.Builder("depthwise", seed=1)
    x = b.input("x", (2, channels, 11, 19))
    y = b.relu(b.conv(x, channels * multiplier, groups=channels, **attrs))
    graph = b.finish(b.relu(b.conv(y, channels * multiplier, kernel=3, padding=1, groups=channels * multiplier) + y))
    given = np.random.default_rng(0).standard_normal((2, channels, 11, 19)).astype(np.float32)
    by_rows = convc.compile(graph, threads=2, target=target)
    modes = [step.params["call"].spec.mode for step in by_rows.program.steps if step.family == "conv"]
    (expected,) = run_graph(graph, {"x": given}, dtype="float64").values()
    found = by_rows(given)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert modes[-1] == "window" and (modes[0] == "window") == (multiplier == 1 and attrs["kernel"] != (4, 1))
    monkeypatch.setattr(conv_append, "windowed", lambda spec, *_: spec)
    by_lane = convc.compile(graph, threads=1, target=target)
    assert "window" not in {step.params["call"].spec.mode for step in by_lane.program.steps if step.family == "conv"}
    np.testing.assert_array_equal(by_lane(given), found)


def test_only_even_rows_of_taps_are_rows() -> None:
    def found(*taps: tuple[int, int]) -> tuple[int, int]:
        dy, dx = np.array(taps, np.int64).reshape(-1, 2).T
        return row_of_taps(dy, dx)

    assert found((-1, -1), (-1, 1), (0, -1), (0, 1)) == (2, 2)
    assert found((0, 0)) == found((0, 0), (1, 0)) == found() == (0, 0)
    assert found((0, 0), (0, 1), (0, 3)) == found((0, 0), (0, 1), (1, 0)) == (0, 0)
    assert found((0, 0), (0, 1), (1, 1), (1, 2)) == found((0, 1), (0, 0)) == (0, 0)
