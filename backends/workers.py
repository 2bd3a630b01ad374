"""Kernels from the store, or compiled here and, where there are many, in further processes at the same time.

A compiler is a module with `compile_one(name, source, target) -> bytes`; a further process imports it by name, reads
JSON lines {"name", "source"} and answers {"name", "code"} in base64. It only ever sees emitted source.
"""

from __future__ import annotations

import base64
import gc
import json
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from threading import Thread

from convc.backends.store import Store
from convc.interrupts import held

Progress = Callable[[str, int, int], None]
Ask = Callable[[str, str], bytes]
KERNELS_A_PROCESS = 4
"""A further process takes as long to start as two or three kernels take to compile."""
MOST_PROCESSES = 7


@dataclass(frozen=True)
class Compiler:
    """`module.compile_one` for a target, an instruction set or architecture by name."""

    module: str
    target: str

    def __call__(self, name: str, source: str) -> bytes:
        code: bytes = import_module(self.module).compile_one(name, source, self.target)
        return code


def build(
    kernels: Mapping[str, str],
    key_of: Callable[[str, str], str],
    compiler: Compiler,
    store: Store,
    processes: int,
    progress: Progress | None = None,
    given: Mapping[str, bytes] | None = None,
) -> tuple[dict[str, bytes], int]:
    """Code of every kernel, and how many had to be compiled. `given` holds trusted code by key.

    Each is kept as soon as it is there: what an interruption leaves undone is all that is lost.
    """
    found: dict[str, bytes] = {}
    keys = {name: key_of(name, source) for name, source in kernels.items()}
    missing: list[str] = []
    for name, key in keys.items():
        code = (given or {}).get(key) or store.get(key)
        if code is None:
            missing.append(name)
        else:
            found[name] = code
    if missing:
        keep = _keeper(store, keys)
        found.update(_compile(missing, kernels, compiler, min(processes - 1, MOST_PROCESSES), progress, keep))
    return found, len(missing)


def _keeper(store: Store, keys: Mapping[str, str]) -> Callable[[str, bytes], None]:
    return lambda name, code: store.put(keys[name], code)


def _compile(
    names: Sequence[str],
    kernels: Mapping[str, str],
    compiler: Compiler,
    most: int,
    progress: Progress | None,
    keep: Callable[[str, bytes], None],
) -> dict[str, bytes]:
    waiting = deque(sorted(names, key=lambda name: -len(kernels[name])))
    made: dict[str, bytes] = {}

    def here(name: str, source: str) -> bytes:
        if progress is not None:
            progress(name, len(made), len(names))
        with held():
            return compiler(name, source)

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

    with workers(min(most, (len(names) - 1) // KERNELS_A_PROCESS), compiler) as asks:
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


def serve(module: str, target: str) -> None:
    """Answer requests until the input ends."""
    gc.disable()  # a tenth of the time, and the process is short-lived
    compiler = Compiler(module, target)
    for line in sys.stdin:
        request = json.loads(line)
        code = compiler(request["name"], request["source"])
        print(json.dumps({"name": request["name"], "code": base64.b64encode(code).decode()}), flush=True)


_early: dict[Compiler, subprocess.Popen[str]] = {}


@contextmanager
def begun_early(compiler: Compiler) -> Iterator[None]:
    """Start one further process now: what is compiled within finds it ready. It ends unused where nothing is."""
    mine: subprocess.Popen[str] | None = None
    if compiler not in _early:
        with suppress(OSError):
            mine = _early[compiler] = _start(compiler)
    try:
        yield
    finally:
        if mine is not None and _early.get(compiler) is mine:  # another thread's process is not ours to end
            _early.pop(compiler, None)
            _end(mine)


@contextmanager
def workers(count: int, compiler: Compiler) -> Iterator[list[Ask]]:
    """Functions that compile (name, source) in processes of their own; they raise OSError where theirs has ended."""
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            with suppress(OSError):
                ready = _early.pop(compiler, None)
                started.append(_start(compiler) if ready is None else ready)
        yield [_asker(process) for process in started]
    finally:
        for process in started:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _start(compiler: Compiler) -> subprocess.Popen[str]:
    call = f"serve({compiler.module!r}, {compiler.target!r})"
    begin = f"import sys; sys.path[:] = {sys.path!r}; from convc.backends.workers import serve; {call}"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", begin], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    )


def _asker(process: subprocess.Popen[str]) -> Ask:
    def ask(name: str, source: str) -> bytes:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"name": name, "source": source}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise OSError("the compiling process has ended")
        return base64.b64decode(json.loads(line)["code"])

    return ask
