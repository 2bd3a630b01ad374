"""The CPU target: a Graph to something that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from convc.backends.cpu import isa as isas
from convc.backends.cpu.build import build_objects, kernel_key, link_objects
from convc.backends.cpu.choice import read_choices
from convc.backends.cpu.cost import CpuCost
from convc.backends.cpu.driver import DRIVERS
from convc.backends.cpu.executable import Executable
from convc.backends.cpu.lower import lower_with
from convc.backends.cpu.tune import tuned
from convc.backends.store import store
from convc.backends.workers import Progress
from convc.errors import InputError
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.processors import default_threads
from convc.types import Array


class CpuTarget:
    """Kernels for one instruction set of this machine, run by `threads` threads (None: what the process may use)."""

    def __init__(self, isa: str = "", threads: int | None = None) -> None:
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise InputError(f"threads={threads!r} is no positive number", hint="leave it out to use all processors")
        self.isa = isas.choose(isa)
        self.threads = threads or default_threads()
        self.cost = CpuCost(self.isa)

    def build(
        self,
        graph: Graph,
        limits: Limits,
        *,
        progress: Progress | None = None,
        packed: Mapping[str, Array] | None = None,
        objects: Mapping[str, bytes] | None = None,
        edit: Callable[[str, str], str] | None = None,
        choices: Any = None,
        processor: str | None = None,
        tune: bool = False,
    ) -> Executable:
        """The executable. `packed`, `objects` (trusted, by key), `choices` and the `processor` that others were
        predicted for come from an artifact; `edit` maps a kernel's name and source to the source that is compiled;
        `tune` measures what to choose.
        """
        chosen = read_choices(choices, self.isa)
        if tune:
            chosen = tuned(graph, self.isa, store(), limits, progress)
        program, _ = lower_with(graph, self.isa, packed, chosen, processor)
        if edit is not None:
            program = replace(program, kernels={name: edit(name, one) for name, one in program.kernels.items()})
        sources = {**program.kernels, **DRIVERS}
        code, _ = build_objects(sources, self.isa, store(), progress, objects)
        keyed = {kernel_key(name, sources[name], self.isa): one for name, one in code.items()}
        return Executable(program, link_objects(code), keyed, self.threads, limits)
