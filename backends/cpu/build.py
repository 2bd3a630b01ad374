"""Sources to linked functions: from the store where it has them, else compiled and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

from convc.backends.cpu.driver import DRIVERS
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.link import link
from convc.backends.store import Store
from convc.backends.store import store as default_store
from convc.backends.workers import Compiler, Progress, begun_early, build
from convc.processors import default_threads

GENERATOR_FILES = (
    "primitives.py",
    "tiles.py",
    "squares.py",
    "vecexp.py",
    "vecmath.py",
    "winograd_primitives.py",
    "winograd_points.py",
    "runtime_primitives.py",
    "numba_ir.py",
    "jit.py",
)


@cache
def generator_digest() -> str:
    """Digest of what turns a source into code: the vocabulary, the compiler driver, Numba, llvmlite."""
    state = hashlib.sha256(f"{version('numba')} {version('llvmlite')}".encode())
    for name in GENERATOR_FILES:
        state.update((Path(__file__).parent / name).read_bytes())
    return state.hexdigest()


def kernel_key(name: str, source: str, isa: Isa) -> str:
    """The store's key of a kernel."""
    facts = "\0".join((generator_digest(), isa.name, isa.cpu, isa.tune, _triple(), name, source))
    return hashlib.sha256(facts.encode()).hexdigest()


@cache
def _triple() -> str:
    import llvmlite.binding as llvm

    return str(llvm.get_default_triple())


MANY_OPERATORS = 16
"""Where a graph has as many, its kernels are worth a further process."""


@contextmanager
def ahead_of(operators: int, isa: Isa) -> Iterator[None]:
    """What is compiled within takes less time: where the store is empty, a further process starts before passes run."""
    many = operators >= MANY_OPERATORS and default_threads() > 1
    if many and all(default_store().get(kernel_key(*driver, isa)) is None for driver in DRIVERS.items()):
        with begun_early(_compiler(isa)):
            yield
    else:
        yield


def _compiler(isa: Isa) -> Compiler:
    return Compiler("convc.backends.cpu.jit", isa.name)


def build_objects(
    kernels: Mapping[str, str],
    isa: Isa,
    store: Store,
    progress: Progress | None = None,
    given: Mapping[str, bytes] | None = None,
) -> tuple[dict[str, bytes], int]:
    """Object code of every kernel, and how many had to be compiled. `given` holds trusted code by key."""
    compiler = _compiler(isa)
    objects, compiled = build(
        kernels, lambda name, source: kernel_key(name, source, isa), compiler, store, default_threads(), progress, given
    )
    if compiled:
        from convc.backends.cpu.jit import WARNINGS

        with WARNINGS:
            store.warn()
    return objects, compiled


def link_objects(objects: Mapping[str, bytes]) -> dict[str, int]:
    """Addresses of the kernels in this process."""
    return {name: link(name, code, hashlib.sha256(code).digest()) for name, code in objects.items()}
