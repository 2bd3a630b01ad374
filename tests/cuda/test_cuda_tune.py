"""Measured choices on a GPU, with a device whose clock the test keeps: what is tried, what wins, where it is kept."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_support import assert_close, expected_outputs
from cuda_support import LockstepDevice, run_lockstep
from support import random_inputs

from convc.backends.choice_file import choice_file
from convc.backends.cuda import tune, winners
from convc.backends.cuda.compile import CompiledKernel
from convc.backends.cuda.driver import Node
from convc.backends.cuda.lower import lower, lower_with
from convc.backends.cuda.winners import Shape, Winner, project_winners, read_winners
from convc.backends.program import Program
from convc.backends.store import Store
from convc.errors import TargetError
from convc.frontends.builder import Builder
from convc.ir.graph import Graph
from convc.limits import Limits


def network(batch: int | str = 1) -> Graph:
    b = Builder("tuned", seed=2)
    y = b.relu(b.conv(b.input("x", (batch, 64, 12, 12)), 96, kernel=3, padding=1))
    y = b.relu(b.conv(y, 96, kernel=3, padding=1, stride=2))
    y = b.conv(y, 160, kernel=1)
    y = b.conv_transpose2d(y, np.ones((160, 8, 2, 2), np.float32) / 640, stride=2)
    return b.finish(b.linear(b.flatten(y), 10))


class Clock(LockstepDevice):
    """Kernels run in no time but what `takes` says of the tile in their name; nothing is computed."""

    def __init__(self, takes: Mapping[str, float], room: int = 1 << 40) -> None:
        super().__init__({})
        self.takes, self.room = takes, room
        self.timed: list[str] = []
        self.ran_and_waited = False

    def record(self, event: list[float], stream: Any) -> None:
        assert self.ran_and_waited, "what runs on other streams must have ended"
        super().record(event, stream)

    def synchronise(self, stream: Any) -> None:
        super().synchronise(stream)
        self.ran_and_waited = bool(self.timed)

    def execute(self, node: Node) -> None:
        self.timed.append(node.function)
        self.clock += next((seconds for tile, seconds in self.takes.items() if tile in node.function), 1.0)

    def allocate(self, count: int) -> int:
        if count > self.room:
            raise TargetError("cuMemAlloc failed: out_of_memory")
        return super().allocate(count)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store; kernels are not compiled."""

    def built(sources: Mapping[str, str], *_: Any) -> tuple[dict[str, CompiledKernel], int]:
        return {name: CompiledKernel(b"\x7fELF", 32, 0, 0, 0) for name in sources}, 0

    monkeypatch.setattr(tune, "build_cubins", built)
    monkeypatch.setattr(tune, "FLUSH_BYTES", 256)
    return Store(tmp_path)


def kernels_of(program: Program) -> set[str]:
    return {launch for step in program.steps if step.family == "conv" for launch in (step.kernel,)}


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_the_fastest_of_each_class_wins_and_is_kept(store: Store, precision: str) -> None:
    graph, told = network(), []
    _, layers = lower_with(graph, precision, "sm_90a")
    kinds = sorted(layer.shape.kind for layer in layers.values())
    assert kinds == ["plain", "scatter", *(["square"] if precision == "float32" else ["window"]), "window", "window"]
    last = {key: tune.candidates(layer.shape, "sm_90a")[-1] for key, layer in layers.items()}
    for key, wanted in last.items():
        device = Clock({"reduce": 0.0, "winograd": 2.0, f"_{wanted.tile}": 0.25})
        found = tune.tuned(graph, precision, "sm_90a", device, store, Limits(), lambda *step: told.append(step))
        assert set(found) <= set(layers) and device.timed
        gc.collect()
        assert not device.kept and not device.blocks, "what was measured with is given back"
        if not wanted.winograd:
            assert found[key].tile == wanted.tile and not found[key].winograd
        program = lower(graph, precision, "sm_90a", winners=found)
        assert program.choices == {key: winner.to_json() for key, winner in found.items()}
        device.timed.clear()
        assert tune.tuned(graph, precision, "sm_90a", device, store, Limits()) == found and not device.timed
        (file,) = (store.folder.parent / "choices").iterdir()
        assert file.name.startswith("cuda-sm_90a-Lock_step-")
        file.unlink()
    assert any("kinds of layers" in text and " s for all" in text for text, _, _ in told)


def test_winners_decide_kernels_splits_and_winograd() -> None:
    graph = network()
    given = random_inputs(graph, 0)
    expected = expected_outputs(graph, given)
    _, layers = lower_with(graph, "float32", "sm_90a")
    seen: set[str] = set()
    for turn in range(4):
        chosen = {key: tune.candidates(layer.shape, "sm_90a") for key, layer in layers.items()}
        forced = {key: several[-1 - min(turn, len(several) - 1)] for key, several in chosen.items()}
        program, found = lower_with(graph, "float32", "sm_90a", winners=forced)
        plan = tune.Executable(program, {}, {}, Limits(), lambda: LockstepDevice({})).plan({})
        for key, layer in found.items():
            (index,) = (i for i, step in enumerate(program.steps) if step.params.get("call") is layer.call)
            launches = [launch for launch in plan.launches if launch.step == index]
            names = [launch.kernel for launch in launches]
            assert forced[key].winograd == any("winograd" in name for name in names)
            if not forced[key].winograd:
                assert str(forced[key].tile) in names[0] and (len(names) == 2) == (forced[key].splits > 1)
                assert launches[0].grid[2] == layer.shape.groups * forced[key].splits
            seen.update(names)
        assert_close(run_lockstep(program, graph, given), expected, graph, 1e-5)
    assert any("winograd" in name for name in seen) and any("reduce" in name for name in seen)


def test_a_batch_that_does_not_fit_is_left_to_the_model(store: Store) -> None:
    graph = network("N")
    _, layers = lower_with(graph, "tf32", "sm_90a")
    small = {key for key, layer in layers.items() if layer.sizes == graph.nominal}
    assert set(layers) > small
    found = tune.tuned(graph, "tf32", "sm_90a", Clock({}, room=3 << 20), store, Limits())
    assert set(found) == {key for key in small if len(tune.candidates(layers[key].shape, "sm_90a")) > 1}
    with pytest.raises(TargetError, match="out_of_memory"):
        tune.tuned(network(1), "tf32", "sm_90a", Clock({}, room=1 << 10), Store(store.folder / "other"), Limits())


def test_only_what_kernels_can_do_is_read() -> None:
    tile = [64, 64, 32, 32, 32, 4]
    found: dict[Any, Any] = {
        "tf32 plain 20 12 14 1": [*tile, 2, 0], "tf32 scatter 20 12 14 1": [*tile, 1, 0],
        "tf32 scatter 21 12 14 1": [*tile, 2, 0], "tf32 square 20 12 14 1": [*tile, 1, 1],
        "tf32 plain 20 12 14": [*tile, 1, 0], "tf32 plain 21 12 14 1": [*tile, 5, 0],
        "tf32 plain 22 12 14 1": [65, *tile[1:], 1, 0], "int8 plain 20 12 14 1": [*tile, 1, 0],
        "tf32 plain 23 12 14 1": [*tile, 1.0, 0], "tf32 plain 24 12 14 1": "fast", 3: [*tile, 1, 0],
    }  # fmt: skip
    assert sorted(read_winners(found)) == ["tf32 plain 20 12 14 1", "tf32 scatter 20 12 14 1"]
    assert read_winners(None) == read_winners([]) == {}
    winner = Winner(tune.choice.CANDIDATES["f32"][0], 4, True)
    key = Shape("f32", "square", 100, 64, 576, 1).key
    assert read_winners(json.loads(json.dumps({key: winner.to_json()}))) == {key: winner}


def test_classes_take_neighbours_together() -> None:
    key = Shape("f16", "plain", 196, 256, 1024, 1).key
    assert key == Shape("f16", "plain", 200, 256, 1000, 1).key
    others = [(392, 256, 1024, 1), (196, 512, 1024, 1), (196, 256, 2048, 1), (196, 256, 1024, 2)]
    assert all(Shape("f16", "plain", *numbers).key != key for numbers in others)


def test_the_projects_table_is_read_where_nothing_else_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = network()
    _, layers = lower_with(graph, "tf32", "sm_90a", winners={})
    key, layer = next(iter(layers.items()))
    winner = tune.candidates(layer.shape, "sm_90a")[-1]
    monkeypatch.setattr(winners, "__file__", str(tmp_path / "winners.py"))
    (tmp_path / "winners_sm_90.json").write_text(json.dumps({key: winner.to_json()}))
    project_winners.cache_clear()
    try:
        assert lower(graph, "tf32", "sm_90a").choices == {key: winner.to_json()}
        assert lower(graph, "tf32", "sm_80").choices == {}
        assert lower(graph, "tf32", "sm_90a", winners={}).choices == {}
    finally:
        project_winners.cache_clear()


def test_a_damaged_file_costs_measuring_again(store: Store) -> None:
    graph = network()
    found = tune.tuned(graph, "tf32", "sm_90a", Clock({}), store, Limits())
    (file,) = (store.folder.parent / "choices").iterdir()
    assert file == choice_file(store, *file.stem.split("-"))
    for text in ("{", "[]", json.dumps({key: [1, 2, 3] for key in found})):
        file.write_text(text, "utf-8")
        device = Clock({})
        assert tune.tuned(graph, "tf32", "sm_90a", device, store, Limits()) == found and device.timed
