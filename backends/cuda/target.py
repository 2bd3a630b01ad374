"""The CUDA target: a Graph to something that runs on a GPU, compiled with or without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from convc.backends.cuda.build import build_cubins, kernel_key
from convc.backends.cuda.compile import ARCHITECTURES
from convc.backends.cuda.cost import CudaCost
from convc.backends.cuda.driver import Device, this_device
from convc.backends.cuda.executable import Executable
from convc.backends.cuda.lower import STORAGE, lower
from convc.backends.store import store
from convc.errors import InputError, TargetError
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.types import Array

PRECISIONS = tuple(STORAGE)
Progress = Callable[[str, int, int], None]


class CudaTarget:
    """Kernels for one architecture (by default that of this machine's GPU) in one precision."""

    def __init__(self, arch: str = "", precision: str = "float32") -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision={precision!r} is not known", hint=f"use one of {', '.join(PRECISIONS)}")
        if arch and arch not in ARCHITECTURES:
            raise TargetError(f"unknown CUDA architecture {arch!r}", hint=f"use one of {', '.join(ARCHITECTURES)}")
        self.arch = arch or this_device().arch
        self.precision = precision
        self.cost = CudaCost(self.arch, precision)

    def build(
        self,
        graph: Graph,
        limits: Limits,
        *,
        progress: Progress | None = None,
        packed: Mapping[str, Array] | None = None,
        objects: Mapping[str, bytes] | None = None,
        edit: Callable[[str, str], str] | None = None,
    ) -> Executable:
        """The executable. `packed` and `objects` (trusted, by key) come from an artifact; `edit` maps a kernel's name
        and source to the source that is compiled. Nothing here needs a GPU; running does.
        """
        program = lower(graph, self.precision, self.arch, packed)
        if edit is not None:
            program = replace(program, kernels={name: edit(name, one) for name, one in program.kernels.items()})
        kernels, _ = build_cubins(program.kernels, self.arch, store(), progress, objects)
        keyed = {kernel_key(n, program.kernels[n], self.arch): one.to_bytes() for n, one in kernels.items()}
        return Executable(program, kernels, keyed, limits, self._device)

    def _device(self) -> Device:
        """This machine's GPU. Raises TargetError where kernels for the architecture do not run on it."""
        found = this_device()
        if found.arch != self.arch and (self.arch.endswith("a") or self.arch[:4] != found.arch[:4]):
            raise TargetError(
                f"the model was compiled for {self.arch}, this GPU is {found.arch}", hint="compile with target='cuda'"
            )
        return found
