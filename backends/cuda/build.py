"""Sources to cubins: from the store where it has them, else compiled and kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from convc.backends.cuda.compile import CompiledKernel, require
from convc.backends.store import Store
from convc.backends.workers import Compiler, Progress, build

GENERATOR_FILES = (
    "primitives_ptx.py",
    "primitives_types.py",
    "primitives_tiles.py",
    "primitives_math.py",
    "primitives_extra_ptx.py",
    "scalar_functions.py",
    "vocabulary.py",
    "compile.py",
    "machines.py",
)
TOOLS = ("numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink")


@cache
def generator_digest() -> str:
    """Digest of what makes a cubin of a source: the vocabulary, the compiler driver, Numba, NVVM, the assembler."""
    state = hashlib.sha256(" ".join(f"{name} {_version(name)}" for name in TOOLS).encode())
    for name in GENERATOR_FILES:
        state.update((Path(__file__).parent / name).read_bytes())
    return state.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def kernel_key(name: str, source: str, arch: str) -> str:
    """The store's key of a kernel."""
    return hashlib.sha256("\0".join(("cuda", generator_digest(), arch, name, source)).encode()).hexdigest()


def build_cubins(
    kernels: Mapping[str, str],
    arch: str,
    store: Store,
    progress: Progress | None = None,
    given: Mapping[str, bytes] | None = None,
) -> tuple[dict[str, CompiledKernel], int]:
    """Machine code of every kernel, and how many had to be compiled. `given` holds trusted code by key."""

    def key_of(name: str, source: str) -> str:
        return kernel_key(name, source, arch)

    compiler = Compiler("convc.backends.cuda.compile", arch)
    if any(store.get(key_of(n, s)) is None and key_of(n, s) not in (given or {}) for n, s in kernels.items()):
        require()
    made, compiled = build(kernels, key_of, compiler, store, _processors(), progress, given)
    if compiled:
        store.warn()
    return {name: CompiledKernel.from_bytes(code) for name, code in made.items()}, compiled


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
