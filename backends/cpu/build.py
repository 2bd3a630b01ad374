"""Sources to linked functions: from the store where it has them, else compiled and kept."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Thread

from convc.backends.cpu.isa import Isa
from convc.backends.cpu.link import link
from convc.backends.cpu.team import default_threads
from convc.backends.cpu.worker import Ask, workers
from convc.backends.store import Store
from convc.interrupts import held

Progress = Callable[[str, int, int], None]
KERNELS_A_PROCESS = 4
"""A further process takes as long to start as two or three kernels take to compile."""
MOST_PROCESSES = 7
GENERATOR_FILES = (
    "primitives.py",
    "tiles.py",
    "vecmath.py",
    "winograd_primitives.py",
    "winograd_points.py",
    "runtime_primitives.py",
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
    if missing:
        objects.update(_compile(missing, kernels, isa, progress, lambda name, code: store.put(keys[name], code)))
        from convc.backends.cpu.jit import WARNINGS

        with WARNINGS:
            store.warn()
    return objects, len(missing)


def _compile(
    names: Sequence[str],
    kernels: Mapping[str, str],
    isa: Isa,
    progress: Progress | None,
    keep: Callable[[str, bytes], None],
) -> dict[str, bytes]:
    """Object code of each kernel, compiled here and, where there are many, in other processes at the same time.

    Each is kept as soon as it is there: what an interruption leaves undone is all that is lost.
    """
    from convc.backends.cpu.jit import compile_object

    waiting = deque(sorted(names, key=lambda name: -len(kernels[name])))
    made: dict[str, bytes] = {}

    def here(name: str, source: str) -> bytes:
        if progress is not None:
            progress(name, len(made), len(names))
        with held():
            return compile_object(name, source, isa)

    def work(compile_one: Ask) -> None:
        while True:
            try:
                name = waiting.popleft()
            except IndexError:
                return
            try:
                made[name] = compile_one(name, kernels[name])
            except OSError:
                waiting.append(name)
                return
            keep(name, made[name])

    helpers = min(default_threads() - 1, (len(names) - 1) // KERNELS_A_PROCESS, MOST_PROCESSES)
    with workers(helpers, isa) as asks:
        threads = [Thread(target=work, args=(ask,), daemon=True) for ask in asks]
        for thread in threads:
            thread.start()
        work(here)
        for thread in threads:
            thread.join()
    work(here)  # what a process that ended gave back
    if progress is not None:
        progress("", len(names), len(names))
    return made


def link_objects(objects: Mapping[str, bytes]) -> dict[str, int]:
    """Addresses of the kernels in this process."""
    return {name: link(name, code, hashlib.sha256(code).digest()) for name, code in objects.items()}
