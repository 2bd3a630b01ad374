"""The CUDA target: a Graph to something that runs on a GPU, compiled with or without one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from convc.backends.cuda.build import build_cubins, kernel_key
from convc.backends.cuda.compile import ARCHITECTURES, CompiledKernel
from convc.backends.cuda.cost import CudaCost
from convc.backends.cuda.driver import Device, this_device
from convc.backends.cuda.executable import Executable
from convc.backends.cuda.lower import STORAGE, lower
from convc.backends.cuda.tune import tuned
from convc.backends.cuda.winners import project_winners, read_winners
from convc.backends.program import Program
from convc.backends.store import store
from convc.errors import InputError, TargetError
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.types import Array

PRECISIONS = tuple(STORAGE)
Progress = Callable[[str, int, int], None]


class CudaTarget:
    """Kernels for some architectures, joined by commas (by default that of this machine's GPU), in one precision.

    Where there are several, all are compiled, for an artifact to carry; `arch` is the one that runs here.
    """

    def __init__(self, archs: str = "", precision: str = "float32") -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision={precision!r} is not known", hint=f"use one of {', '.join(PRECISIONS)}")
        listed = tuple(dict.fromkeys(a.strip() for a in archs.split(","))) if archs else (this_device().arch,)
        for arch in listed:
            if arch not in ARCHITECTURES:
                raise TargetError(f"unknown CUDA architecture {arch!r}", hint=f"use one of {', '.join(ARCHITECTURES)}")
        self.archs = listed
        self.arch = _that_runs_here(listed) if len(listed) > 1 else listed[0]
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
        choices: Any = None,
        tune: bool = False,
    ) -> Executable:
        """The executable. `packed`, `objects` (trusted, by key) and `choices` come from an artifact; `edit` maps a
        kernel's name and source to the source that is compiled; `tune` measures what to choose, which needs the GPU.
        Nothing else here does; running does.
        """
        winners = read_winners(choices) if choices is not None else project_winners(self.arch)
        if tune:
            winners = tuned(graph, self.precision, self.arch, self._device(), store(), limits, progress)
        kept: dict[str, bytes] = {}
        for arch in self.archs:
            if arch != self.arch and objects is None:
                _build(lower(graph, self.precision, arch, packed), arch, kept, progress, None)
        program = lower(graph, self.precision, self.arch, packed, winners)
        if edit is not None:
            program = replace(program, kernels={name: edit(name, one) for name, one in program.kernels.items()})
        kernels = _build(program, self.arch, kept, progress, objects)
        return Executable(program, kernels, {**(objects or {}), **kept}, limits, self._device)

    def _device(self) -> Device:
        """This machine's GPU. Raises TargetError where kernels for the architecture do not run on it."""
        found = this_device()
        if not _runs_on(self.arch, found.arch):
            raise TargetError(
                f"the model was compiled for {self.arch}, this GPU is {found.arch}", hint="compile with target='cuda'"
            )
        return found


def artifact_key(name: str, source: str, arch: str) -> str:
    """Under which an artifact keeps a kernel: unlike the store's key, it does not depend on who compiled."""
    return hashlib.sha256("\0".join(("cuda", arch, name, source)).encode()).hexdigest()


def _build(
    program: Program, arch: str, kept: dict[str, bytes], progress: Progress | None, given: Mapping[str, bytes] | None
) -> dict[str, CompiledKernel]:
    """Machine code of a Program's kernels, also entered into `kept` by the artifact's key."""
    keys = {name: artifact_key(name, source, arch) for name, source in program.kernels.items()}
    known = {
        kernel_key(name, program.kernels[name], arch): (given or {})[key]
        for name, key in keys.items()
        if key in (given or {})
    }
    kernels, _ = build_cubins(program.kernels, arch, store(), progress, known)
    kept.update({keys[name]: one.to_bytes() for name, one in kernels.items()})
    return kernels


def _that_runs_here(archs: Sequence[str]) -> str:
    """The architecture of this machine's GPU among those listed; the first where there is none."""
    try:
        found = this_device().arch
    except TargetError:
        return archs[0]
    return next((a for a in archs if _runs_on(a, found)), archs[0])


def _runs_on(arch: str, gpu: str) -> bool:
    """Machine code runs on its own architecture, and, without a letter, on later ones of the same generation."""
    if arch == gpu or arch == gpu.rstrip("a"):
        return True
    return not arch.endswith("a") and arch[:-1] == gpu.rstrip("a")[:-1] and arch <= gpu
