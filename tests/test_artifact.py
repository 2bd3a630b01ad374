"""Saved models: the same answers and account after loading; files that are wrong, foreign, or from elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.artifact import load, save
from convc.container import Container, write_container
from convc.errors import Error, InputError, LimitError, ModelError
from convc.limits import Limits
from convc.model import CompiledModel
from convc.tensors import read_tensors, write_tensors

X = np.random.default_rng(5).standard_normal((2, 3, 12, 12), np.float32)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    b = convc.Builder(".padding.net", seed=2)
    x = b.input("x", ("N", 3, "H", "W"), nominal={"N": 1, "H": 12, "W": 12})
    y = b.relu(b.batch_norm(b.conv(x, 20, kernel=3, name=".padding.1")))
    y = b.conv(y, 20, kernel=3, groups=20, name="depth") * np.linspace(0, 1, 20, dtype=np.float32).reshape(20, 1, 1)
    return convc.compile(b.finish({"y": b.linear(b.flatten(b.global_avg_pool(y)), 7)}), threads=1)


@pytest.fixture
def saved(model: CompiledModel, tmp_path: Path) -> Path:
    path = tmp_path / "net.convc"
    save(model, path)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Write the file again, digests and all, after `change` has had its way with members and facts."""
    found = Container.open(path)
    members: dict[str, Any] = {name: bytes(found.member(name)) for name in found.names}
    facts = dict(found.facts)
    change(members, facts)
    write_container(path, members, facts)


def test_a_loaded_model_answers_and_tells_the_same(model: CompiledModel, saved: Path) -> None:
    for options in ({}, {"threads": 2}, {"trust_code": True}):
        again = load(saved, **options)
        assert again(X).tobytes() == model(X).tobytes()
        assert str(again.graph) == str(model.graph)
        assert [r.to_json() for r in again.records] == [r.to_json() for r in model.records]
        assert again.sources == model.sources
        assert again.options.target == "cpu"
        weights = again.graph.weights()
        assert {name: a.tobytes() for name, a in weights.items()} == {
            name: a.tobytes() for name, a in model.graph.weights().items()
        }


def test_a_model_for_the_interpreter_is_saved_too(model: CompiledModel, tmp_path: Path) -> None:
    slow = convc.compile(model.graph, target="reference", passes="none")
    slow.save(tmp_path / "slow.convc")
    assert load(tmp_path / "slow.convc")(X).tobytes() == slow(X).tobytes()


def test_loading_twice_and_saving_again_makes_the_same_file(saved: Path) -> None:
    save(load(saved, trust_code=True), saved.with_name("again.convc"))
    assert saved.with_name("again.convc").read_bytes() == saved.read_bytes()


def test_arrays_are_mapped_not_copied(saved: Path) -> None:
    large = [array for array in load(saved).graph.weights().values() if array.size > 16]
    assert large and not any(array.flags.owndata or array.flags.writeable for array in large)


def test_loading_needs_no_compiler(saved: Path) -> None:
    code = (
        "import sys, convc, numpy\n"
        f"convc.load({str(saved)!r}, trust_code=True)(numpy.zeros((1, 3, 12, 12), numpy.float32))\n"
        "assert not {'numba', 'onnx', 'networkx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_code_in_a_file_is_not_linked_unless_trusted(model: CompiledModel, saved: Path) -> None:
    def spoil(members: dict[str, Any], facts: dict[str, Any]) -> None:
        for name in members:
            if name.startswith("kernels/"):
                members[name] = b"not object code"

    rewrite(saved, spoil)
    assert load(saved)(X).tobytes() == model(X).tobytes()


def test_packed_constants_of_other_backends_are_made_again(model: CompiledModel, saved: Path) -> None:
    def blank(members: dict[str, Any], facts: dict[str, Any]) -> None:
        packed = read_tensors(members["packed.safetensors"])
        members["packed.safetensors"] = b"".join(write_tensors({k: np.zeros_like(v) for k, v in packed.items()}))

    def age(members: dict[str, Any], facts: dict[str, Any]) -> None:
        facts["backends"] = "other"

    rewrite(saved, blank)
    assert not np.array_equal(load(saved)(X), model(X))
    rewrite(saved, age)
    assert load(saved)(X).tobytes() == model(X).tobytes()


def test_packed_constants_of_the_wrong_size_are_not_used(model: CompiledModel, saved: Path) -> None:
    def cut(members: dict[str, Any], facts: dict[str, Any]) -> None:
        packed = read_tensors(members["packed.safetensors"])
        short = {name: array.reshape(-1)[: array.size // 2] for name, array in packed.items()}
        members["packed.safetensors"] = b"".join(write_tensors(short))

    rewrite(saved, cut)
    assert load(saved)(X).tobytes() == model(X).tobytes()


def without(*names: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(members: dict[str, Any], facts: dict[str, Any]) -> None:
        for name in names:
            members.pop(name, None)
            facts.pop(name, None)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("graph.txt"), "has no member graph.txt"),
        (without("records.json"), "has no member records.json"),
        (without("packed.safetensors"), "has no member packed.safetensors"),
        (without("target"), "was not written by convc .*target"),
        (lambda members, facts: members.update({"graph.txt": b"\xff"}), "was not written by convc"),
        (lambda members, facts: members.update({"graph.txt": b"graph"}), "line 1"),
        (lambda members, facts: members.update({"records.json": b"[1]"}), "was not written by convc"),
        (lambda members, facts: members.update({"records.json": b"[{}]"}), "was not written by convc"),
        (lambda members, facts: members.update({"records.json": b"3"}), "was not written by convc"),
        (lambda members, facts: members.update({"weights.safetensors": b"12345678"}), "not a safetensors file"),
        (lambda members, facts: facts.update({"target": "cpu:nothing"}), "'nothing' is not known"),
        (lambda members, facts: facts.update({"target": "tpu"}), "target='tpu' is not known"),
    ],
)
def test_files_with_the_wrong_members_are_refused(saved: Path, change: Any, message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(Error, match=message):
        load(saved)


def test_weights_that_are_missing_are_named(saved: Path) -> None:
    rewrite(saved, lambda members, facts: members.update({"weights.safetensors": b"".join(write_tensors({}))}))
    with pytest.raises(ModelError, match="has no data"):
        load(saved)(X)


def test_limits_hold_for_files_too(saved: Path) -> None:
    with pytest.raises(LimitError, match="limits.model_bytes"):
        load(saved, limits=Limits(model_bytes=1000))


def test_damage_anywhere_is_found(saved: Path) -> None:
    whole = saved.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 200)):
        saved.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(ModelError):
            load(saved)
        saved.write_bytes(whole[:at])
        with pytest.raises(ModelError):
            load(saved)


def test_what_is_no_path_is_refused(model: CompiledModel) -> None:
    for call in (lambda: load(3), lambda: save(model, 3)):  # type: ignore[arg-type]
        with pytest.raises(InputError, match="3 is no path. Hint: give the name of a .convc file"):
            call()


def test_an_input_beyond_the_limits_is_refused_before_it_is_copied() -> None:
    b = convc.Builder("wide", seed=0)
    graph = b.finish(b.relu(b.input("x", ("N", 3, "H", "W"))))
    model = convc.compile(graph, target="reference", limits=Limits(tensor_bytes=1 << 20))
    wide = np.broadcast_to(np.float32(1), (1, 3, 200_000, 200_000))
    with pytest.raises(LimitError, match="input x takes 480000000000 bytes"):
        model(wide)
