"""Saved networks: the same bits, packed constants and object code of strangers, other instruction sets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS

import convc
from convc.backends.cpu import jit
from convc.container import Container, write_container
from convc.errors import ModelError, TargetError
from convc.frontends.builder import Builder
from convc.model import CompiledModel
from convc.tensors import read_tensors, write_tensors
from convc.types import Array

X = np.random.default_rng(5).standard_normal((2, 3, 12, 12), np.float32)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    b = Builder("net", seed=2)
    x = b.input("x", ("N", 3, "H", "W"), nominal={"N": 1, "H": 12, "W": 12})
    y = b.relu(b.batch_norm(b.conv(x, 20, kernel=3)))
    y = b.conv(y, 20, kernel=3, groups=20) * np.linspace(0, 1, 20, dtype=np.float32).reshape(20, 1, 1) + y
    y = b.pad(y, before=(0, 0, 1, 1), after=(0, 0, 1, 1), value=0.25)
    pooled = b.reshape(b.global_avg_pool(y), ("N", 20))
    return convc.compile(b.finish({"scores": b.softmax(b.linear(pooled, 7)), "map": y}), threads=1)


@pytest.fixture
def saved(model: CompiledModel, tmp_path: Path) -> Path:
    path = tmp_path / "net.convc"
    model.save(path)
    return path


def same(one: CompiledModel, other: CompiledModel, *shapes: tuple[int, ...]) -> bool:
    """Whether both give the same bits, at the sizes of X and at others."""
    arrays = [X, *(np.random.default_rng(1).standard_normal(shape, np.float32) for shape in shapes)]
    return all(a.tobytes() == b.tobytes() for x in arrays for a, b in zip(one(x), other(x), strict=True))


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Write the file again with digests that fit, after `change` has had its way with members and facts."""
    found = Container.open(path)
    members: dict[str, Any] = {name: bytes(found.member(name)) for name in found.names}
    facts = dict(found.facts)
    change(members, facts)
    write_container(path, members, facts)


@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("passes", ["default", "none"])
@pytest.mark.parametrize("target", [TARGETS[0], pytest.param(TARGETS[-1], marks=pytest.mark.slow)])
def test_symbolic_sizes_make_the_round_trip(
    model: CompiledModel, tmp_path: Path, trust: bool, passes: str, target: str
) -> None:
    one = convc.compile(model.graph, passes=passes, target=target, threads=1)
    one.save(tmp_path / "net.convc")
    other = convc.load(tmp_path / "net.convc", threads=2, trust_code=trust)
    assert same(one, other, (1, 3, 12, 12), (3, 3, 9, 31), (1, 3, 3, 5))
    assert other.inputs == one.inputs and other.outputs == one.outputs
    assert str(other.program) == str(one.program)


def test_a_warm_store_needs_no_compiler_and_no_trust(saved: Path) -> None:
    code = (
        "import sys, convc, numpy\n"
        f"convc.load({str(saved)!r}, trust_code=False)(numpy.zeros((1, 3, 12, 12), numpy.float32))\n"
        "assert not {'numba', 'onnx', 'networkx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_trusted_code_serves_where_the_store_is_empty(
    model: CompiledModel, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> bytes:
        raise AssertionError("a kernel is compiled")

    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setattr(jit, "compile_object", refuse)
    assert same(convc.load(saved, trust_code=True), model)
    with pytest.raises(AssertionError, match="a kernel is compiled"):
        convc.load(saved)


def test_packed_constants_are_used_as_they_are(saved: Path) -> None:
    program = convc.load(saved).program
    large = [array for array in program.packed.values() if array.size > 100]
    assert large and not any(array.flags.owndata and array.flags.writeable for array in large)


@pytest.mark.skipif(len(TARGETS) < 2, reason="this machine has one instruction set")
def test_a_file_built_for_another_instruction_set_is_packed_again(model: CompiledModel, tmp_path: Path) -> None:
    """A file for `cpu` that was made with AVX2, as if on another machine."""
    other = convc.compile(model.graph, passes="none", target=TARGETS[1], threads=1)
    other.save(tmp_path / "net.convc")
    rewrite(tmp_path / "net.convc", lambda members, facts: facts.update({"target": "cpu"}))
    here = convc.load(tmp_path / "net.convc", threads=1)
    assert here.program.target == TARGETS[0]
    assert same(here, convc.compile(model.graph, passes="none", threads=1))


def test_a_file_for_an_instruction_set_that_is_not_here_is_refused(saved: Path) -> None:
    foreign = {"cpu:avx512": "cpu:neon", "cpu:avx2": "cpu:neon", "cpu:neon": "cpu:avx2"}.get(TARGETS[0], "cpu:avx2")
    rewrite(saved, lambda members, facts: facts.update({"target": foreign}))
    with pytest.raises(TargetError, match="this machine does not run"):
        convc.load(saved)


def longer(array: Array) -> Array:
    return np.concatenate([array.reshape(-1), array.reshape(-1)])


HOSTILE: dict[str, Callable[[dict[str, Array]], dict[str, Array]]] = {
    "short": lambda packed: {k: v.reshape(-1)[: v.size // 2] for k, v in packed.items()},
    "one element": lambda packed: {k: v.reshape(-1)[:1] for k, v in packed.items()},
    "empty": lambda packed: {k: v.reshape(-1)[:0] for k, v in packed.items()},
    "long": lambda packed: {k: longer(v) for k, v in packed.items()},
    "other types": lambda packed: {k: v.astype(np.float64) for k, v in packed.items()},
    "bytes": lambda packed: {k: v.reshape(-1).view(np.uint8) for k, v in packed.items()},
    "none": lambda packed: {},
    "other names": lambda packed: {f"%{k}": v for k, v in packed.items()},
    "more": lambda packed: {**packed, "%more": np.zeros(3, np.float32)},
    "other shapes": lambda packed: {k: v.reshape(1, -1, 1) for k, v in packed.items()},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_packed_constants_of_strangers_do_no_harm(model: CompiledModel, saved: Path, kind: str) -> None:
    def change(members: dict[str, Any], facts: dict[str, Any]) -> None:
        packed = HOSTILE[kind](dict(read_tensors(members["packed.safetensors"])))
        members["packed.safetensors"] = b"".join(write_tensors(packed))

    rewrite(saved, change)
    assert same(convc.load(saved, threads=1), model)


def test_weights_of_the_wrong_size_are_refused(saved: Path) -> None:
    def change(members: dict[str, Any], facts: dict[str, Any]) -> None:
        weights = {k: v.reshape(-1)[:1] for k, v in read_tensors(members["weights.safetensors"]).items()}
        members["weights.safetensors"] = b"".join(write_tensors(weights))

    rewrite(saved, change)
    with pytest.raises(convc.Error):
        convc.load(saved)(X)


def test_trusted_code_without_the_kernel_is_an_error(saved: Path) -> None:
    """Object code of one kernel under the key of another."""

    def swap(members: dict[str, Any], facts: dict[str, Any]) -> None:
        names = sorted(name for name in members if name.startswith("kernels/"))
        codes = [members[name] for name in names]
        for name, code in zip(names, codes[1:] + codes[:1], strict=True):
            members[name] = code

    rewrite(saved, swap)
    with pytest.raises(ModelError, match="has no function.*Hint: load the file without trust_code"):
        convc.load(saved, trust_code=True)
