"""What a precision costs, as the record states it."""

from __future__ import annotations

import numpy as np
import pytest

from convc.frontends.builder import Builder
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.passes.base import Numerics
from convc.passes.context import Context
from convc.passes.state_precision import StatePrecision, rounding


def network() -> Graph:
    b = Builder("net", seed=2)
    y = b.relu(b.conv(b.input("x", ("N", 5, 8, 8)), 9, kernel=3, padding=1))
    return b.finish(b.linear(b.flatten(b.global_avg_pool(y)), 6))


def error(precision: str) -> float:
    graph = network()
    result = StatePrecision(precision).run(graph, Context(Limits()))
    assert result.graph is graph
    (rewrite,) = result.rewrites
    assert f"precision {precision}" in rewrite.note
    return rewrite.certificate["output_error"]


def test_errors_follow_the_precision() -> None:
    found = {p: error(p) for p in ("float32", "tf32", "float16", "bfloat16")}
    assert 0 < found["float32"] < 1e-6
    assert 1e-5 < found["tf32"] < 2e-3 and 1e-5 < found["float16"] < 2e-3
    assert 1e-4 < found["bfloat16"] < 2e-2
    assert StatePrecision("tf32").numerics is Numerics.APPROXIMATE


def test_networks_too_large_to_estimate_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convc.passes.state_precision.MOST_MACS", 10)
    (refusal,) = StatePrecision("float16").run(network(), Context(Limits())).refusals
    assert refusal.node == "linear" and "too many" in refusal.reason


@pytest.mark.parametrize(("precision", "bits"), [("tf32", 10), ("bfloat16", 7), ("float16", 10)])
def test_rounding_is_to_the_nearest_and_to_even(precision: str, bits: int) -> None:
    to, unit = rounding(precision), 2.0**-bits
    halves = [1 + unit / 2, 1 + 3 * unit / 2, 1 + unit * 0.51, -1 - unit * 0.49]
    given = np.array([*halves, np.inf, np.nan, 0.0], np.float32)
    want = np.array([1, 1 + 2 * unit, 1 + unit, -1, np.inf, np.nan, 0.0], np.float32)
    np.testing.assert_array_equal(to(given), want)
