"""Sources to linked functions: from the store where it has them, else compiled and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from convc.backends.cpu.isa import Isa
from convc.backends.cpu.link import link
from convc.backends.store import Store

Progress = Callable[[str, int, int], None]
GENERATOR_FILES = ("primitives.py", "tiles.py", "vecmath.py", "runtime_primitives.py", "jit.py")


@cache
def generator_digest() -> str:
    """Digest of what turns a source into code: the vocabulary, the compiler driver, llvmlite."""
    import llvmlite

    state = hashlib.sha256(llvmlite.__version__.encode())
    for name in GENERATOR_FILES:
        state.update((Path(__file__).parent / name).read_bytes())
    return state.hexdigest()


def kernel_key(name: str, source: str, isa: Isa) -> str:
    """The store's key of a kernel."""
    facts = "\0".join((generator_digest(), isa.name, isa.cpu, _triple(), name, source))
    return hashlib.sha256(facts.encode()).hexdigest()


@cache
def _triple() -> str:
    import llvmlite.binding as llvm

    return str(llvm.get_default_triple())


def build_objects(
    kernels: Mapping[str, str],
    isa: Isa,
    store: Store,
    progress: Progress | None = None,
    given: Mapping[str, bytes] | None = None,
) -> tuple[dict[str, bytes], int]:
    """Object code of every kernel, and how many had to be compiled. `given` holds trusted code by key."""
    objects: dict[str, bytes] = {}
    keys = {name: kernel_key(name, source, isa) for name, source in kernels.items()}
    missing: list[str] = []
    for name, key in keys.items():
        code = (given or {}).get(key) or store.get(key)
        if code is None:
            missing.append(name)
        else:
            objects[name] = code
    for index, name in enumerate(missing):
        from convc.backends.cpu.jit import compile_object

        if progress is not None:
            progress(name, index, len(missing))
        objects[name] = compile_object(name, kernels[name], isa)
        store.put(keys[name], objects[name])
    if progress is not None and missing:
        progress("", len(missing), len(missing))
    return objects, len(missing)


def link_objects(objects: Mapping[str, bytes]) -> dict[str, int]:
    """Addresses of the kernels in this process."""
    return {name: link(name, code, hashlib.sha256(code).digest()) for name, code in objects.items()}
