"""Measured choices: kept on disk, used again, carried by saved files, never trusted blindly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.backends.cpu import tune
from convc.backends.cpu.choice import Choice, Facts, candidates, few_tiles, read_choices
from convc.backends.cpu.isa import ISAS, host_processor, speed_of
from convc.backends.cpu.lower import lower_with
from convc.backends.cpu.winograd_points import Form, forms_of
from convc.interp import run_graph
from convc.ir.graph import Graph

X = np.random.default_rng(0).standard_normal((1, 8, 12, 12)).astype(np.float32)


def network() -> Graph:
    b = convc.Builder("tuned", seed=0)
    x = b.input("x", ("N", 8, 12, 12))
    y = b.relu(b.conv(x, 48, kernel=3, padding=1, name="first"))
    y = b.conv(y, 48, kernel=3, padding=1, name="second") + y
    return b.finish(b.conv(y, 48, kernel=3, padding=1, name="third"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tune, "RUNS", 2)
    monkeypatch.setattr(tune, "COLD_BYTES", 1 << 16)
    return tmp_path / "choices"


def test_winners_are_measured_once_and_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock under which the last candidate of each layer is the fastest."""
    turns: list[int] = []

    class Timed:
        def __init__(self, executable: Any, graph: Graph, node: str) -> None:
            turns.append(0)
            self.seconds = 1.0 / len(turns)

        def run(self) -> float:
            return self.seconds

    monkeypatch.setattr(tune, "_Timed", Timed)
    told: list[tuple[str, int, int]] = []
    graph = network()
    model = convc.compile(graph, threads=1, tune=True, progress=lambda *step: told.append(step))
    layers = {name: layer for layer in tune.layers_of(model.graph, ISAS["avx512"]) for name in layer.like}
    if model.program.target == "cpu:avx512":
        assert model.program.choices == {name: layer.candidates[-1].to_json() for name, layer in layers.items()}
    assert any(name.startswith("measuring ") and " s for all" in name for name, _, _ in told)
    (expected,) = run_graph(graph, {"x": X}, dtype="float64").values()
    np.testing.assert_allclose(model(X), expected, atol=1e-5 * np.abs(expected).max())
    measured = len(turns)
    again = convc.compile(graph, threads=1, tune=True)
    assert len(turns) == measured and again.program.choices == model.program.choices
    np.testing.assert_array_equal(again(X), model(X))


def test_choices_travel_in_saved_files(folder: Path, tmp_path: Path) -> None:
    model = convc.compile(network(), threads=1, tune=True)
    assert model.program.choices and list(folder.iterdir())
    model.save(tmp_path / "tuned.convc")
    loaded = convc.load(tmp_path / "tuned.convc", threads=1)
    assert loaded.program.choices == model.program.choices
    assert [step.kernel for step in loaded.program.steps] == [step.kernel for step in model.program.steps]
    np.testing.assert_array_equal(loaded(X), model(X))


def test_a_damaged_file_costs_measuring_again(folder: Path) -> None:
    kept = convc.compile(network(), threads=1, tune=True)
    (file,) = folder.iterdir()
    for text in ("{", "[]", json.dumps({"key": "x", "other": [9, 9, 9], "third": [0, 10**9, 2]})):
        file.write_text(text, "utf-8")
        assert convc.compile(network(), threads=1, tune=True).program.choices.keys() == kept.program.choices.keys()
        assert read_choices(json.loads(file.read_text("utf-8")), ISAS["avx512"]).keys() >= set()


def test_only_tiles_of_the_instruction_set_are_read() -> None:
    isa = ISAS["avx512"]
    f4, line = Form(4, 4, 3, 3), Form(1, 4, 1, 7)
    found = {"a": [14, 2, 0], "b": [6, 4, 0, 4, 4, 3, 3], "c": [6, 4, 0, 3, 3, 3, 3], "d": [15, 2, 0], "e": [14, 2]}
    found |= {"f": [14.0, 2, 0], "g": [4, 1, 1, 4, 4, 3, 3], "h": [5, 1, 1, 4, 4, 3, 3], "i": [4, 1, 1]}
    found |= {"j": [4, 1, 2, 4, 4, 3, 3], "k": [9, 3, 0, 1, 4, 1, 7], "l": [9, 3, 1, 1, 4, 1, 7], "m": [4, 6, 4]}
    found |= {"n": [6, 4, 0, 10**9, 4, 10**9, 3], "o": [6, 4, 0, 0, 0, 0, 0], "p": [6, 4, 0, -3, 1, 7, 1]}
    assert read_choices(found, isa) == {
        "a": Choice(None, 14, 2), "b": Choice(f4, 6, 4), "g": few_tiles(isa, f4), "k": Choice(line, 9, 3),
    }  # fmt: skip
    assert read_choices([1], isa) == read_choices(None, isa) == {}


def test_candidates_are_ranked_and_few() -> None:
    for isa in ISAS.values():
        found = candidates(isa, Facts.of((1, 64, 28, 28), 64 // isa.lanes, 64, (3, 3), 64 // isa.lanes, False, 1))
        cycles = [one[1] for one in found]
        assert 1 <= len(found) <= 5 and cycles == sorted(cycles) and found[0][0].form in forms_of((3, 3))
        flat = candidates(isa, Facts.of((1, 64, 28, 28), 64 // isa.lanes, 64, (1, 1), 64 // isa.lanes, True, 0))
        assert all(one.form is None for one, _ in flat)


def test_halos_that_come_late_are_known_to_the_choice(folder: Path) -> None:
    """A 1x1 convolution of a concatenation, one part of which another convolution wants padded."""
    b = convc.Builder("late", seed=0)
    y = b.conv(b.input("x", (1, 32, 17, 17)), 64, kernel=1, name="y")
    z = b.conv(y, 64, kernel=(1, 7), padding=(0, 3, 0, 3), name="z")
    graph = b.finish(b.conv(b.concat([y, z]), 96, kernel=1, name="last"))
    isa = ISAS["avx512"]
    program, ranked = lower_with(graph, isa)
    (kernel,) = (step.kernel for step in program.steps if step.node == "last" and step.family == "conv")
    speed = speed_of(isa, host_processor())
    by_rows = candidates(isa, Facts.of((1, 96, 17, 17), 8, 128, (1, 1), 6, False, 0), speed)
    flat = candidates(isa, Facts.of((1, 96, 17, 17), 8, 128, (1, 1), 6, True, 0), speed)
    assert list(ranked["last"]) == [one for one, _ in by_rows] != [one for one, _ in flat]
    assert f"_{by_rows[0][0].rows}x{by_rows[0][0].cols}" in kernel
    alone = next(layer for layer in tune.layers_of(graph, isa) if layer.node == "last")
    assert list(lower_with(alone.graph, isa)[1]["last"]) == list(alone.candidates)
    x = np.random.default_rng(0).standard_normal((1, 32, 17, 17)).astype(np.float32)
    (expected,) = run_graph(graph, {"x": x}, dtype="float64").values()
    for chosen in (False, True):
        found = convc.compile(graph, threads=1, tune=chosen)(x)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_kernels_that_differ_at_their_end_are_one() -> None:
    """Residual or none, relu or nothing: the same bits as kernels of their own."""
    b = convc.Builder("ends", seed=0)
    x = b.input("x", (1, 32, 14, 14))
    plain = b.conv(x, 32, kernel=1, name="plain")
    y = b.relu(b.conv(plain, 32, kernel=1, name="relu"))
    y = b.relu(b.conv(y, 32, kernel=1, name="both") + y)
    graph = b.finish([b.conv(y, 32, kernel=1, name="last") + y, plain])
    model = convc.compile(graph, threads=1)
    steps = [step for step in model.program.steps if step.family == "conv"]
    assert len(steps) == 4 and len({step.kernel for step in steps}) == 1
    assert [step.params["call"].params for step in steps] == [(-np.inf,), (0.0,), (0.0,), (-np.inf,)]
    given = np.random.default_rng(0).standard_normal((1, 32, 14, 14)).astype(np.float32)
    given[0, 3, 2, 1], given[0, 4, 5, 6] = -np.inf, np.nan
    for found, expected in zip(model(given), run_graph(graph, {"x": given}, dtype="float64").values(), strict=True):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        whole = np.isfinite(expected)
        np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
        np.testing.assert_allclose(found[whole], expected[whole], atol=1e-5 * np.abs(expected[whole]).max())
