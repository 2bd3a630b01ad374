"""The kernel of linear layers against float64: sums in parts, alone and in batches, with what parts leave over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cpu_support import TARGETS

import convc
from convc.backends.cpu import linear_call
from convc.interp import run_graph

PROCESSORS = ("sapphirerapids", "znver4")
"""They take weights in several streams, and in one."""


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("features", "out"), [(1, 1), (7, 5), (64, 33), (129, 40), (1000, 17), (70, 90)])
def test_equals_the_interpreter_alone_and_in_a_batch(
    target: str, features: int, out: int, processor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_call, "host_processor", lambda: processor)
    b = convc.Builder("linear", seed=features)
    x, r = b.input("x", ("N", features)), b.input("r", ("N", out))
    y = b.linear(x, out)
    graph = b.finish({"y": b.relu(y), "sum": b.relu(b.linear(x, out) + r)})
    model, team = (convc.compile(graph, target=target, threads=threads) for threads in (1, 3))
    assert [step.family for step in model.program.steps].count("linear") == 2
    random = np.random.default_rng(out)
    for images in (1, 3, 4, 9):
        given = {"x": random.standard_normal((images, features)), "r": random.standard_normal((images, out))}
        given = {name: array.astype(np.float32) for name, array in given.items()}
        expected = run_graph(graph, given, dtype="float64")
        found = model.run(given)
        alone = model.run({name: array[-1:] for name, array in given.items()})
        for name, want in expected.items():
            np.testing.assert_allclose(found[name], want, atol=2e-6 * np.abs(want).max() + 1e-7)
            np.testing.assert_array_equal(alone[name][0], found[name][-1])
            np.testing.assert_array_equal(team.run(given)[name], found[name])


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_file_of_another_processor(processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights lie in the file as the machine that wrote it reads them; another one puts them in its own order."""
    b = convc.Builder("elsewhere", seed=0)
    graph = b.finish(b.linear(b.input("x", ("N", 70)), 90))
    x = np.random.default_rng(1).standard_normal((5, 70)).astype(np.float32)
    (expected,) = run_graph(graph, {"x": x}, dtype="float64").values()
    monkeypatch.setattr(linear_call, "host_processor", lambda: processor)
    convc.compile(graph, threads=1).save(tmp_path / "one.convc")
    for other in PROCESSORS:
        monkeypatch.setattr(linear_call, "host_processor", lambda other=other: other)
        found = convc.load(tmp_path / "one.convc", threads=1)(x)
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_reads_the_planes_of_a_convolution_in_their_order() -> None:
    b = convc.Builder("flat", seed=0)
    y = b.conv(b.input("x", ("N", 3, 6, 5)), 19, kernel=3)
    graph = b.finish(b.linear(b.flatten(y), 21))
    x = np.random.default_rng(1).standard_normal((5, 3, 6, 5)).astype(np.float32)
    (expected,) = run_graph(graph, {"x": x}, dtype="float64").values()
    np.testing.assert_allclose(convc.compile(graph, threads=1)(x), expected, atol=2e-6 * np.abs(expected).max())
