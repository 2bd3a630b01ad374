"""The facts of this machine that decide figures: versions, processor, threads, load."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from convc import __version__

PACKAGES = (
    "numpy", "numba", "llvmlite", "networkx", "onnx", "safetensors", "rich", "pillow", "onnxruntime", "openvino",
    "ncnn", "torch", "matplotlib", "numba-cuda", "cuda-bindings",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """The facts as plain JSON values. `load` is the number of running processes over the last minute, where known."""
    from convc.backends.cpu.isa import available
    from convc.backends.cuda.driver import described
    from convc.backends.store import store
    from convc.processors import default_threads

    return {
        "convc": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "instruction_sets": list(available()),
        "gpu": described(),
        "threads": default_threads(),
        "load": load(),
        "store": str(store().folder),
        "packages": {name: version_of(name) for name in PACKAGES},
    }


class Others:
    """What other programs use of the machine, from when this is made."""

    def __init__(self) -> None:
        self._begin = time.perf_counter(), _busy_seconds(), sum(os.times()[:4])

    def processors(self) -> float:
        """Processors kept busy by other programs since then, on average; 0 where the system does not tell."""
        begin, busy, own = self._begin
        now = _busy_seconds()
        if busy is None or now is None:
            return 0.0
        return max((now - busy - (sum(os.times()[:4]) - own)) / max(time.perf_counter() - begin, 1e-9), 0.0)


def _busy_seconds() -> float | None:
    """Seconds that the system's processors were busy, or taken by others beside a virtual machine, since its start."""
    try:
        line = Path("/proc/stat").read_text("ascii", "replace").partition("\n")[0]
        user, nice, system, _idle, _wait, *interrupts = map(int, line.split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def version_of(package: str) -> str | None:
    """The installed version, None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load() -> float | None:
    """The load average of the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def peak_memory() -> int | None:
    """The most memory that this process has held, in bytes; None where the system does not tell.

    Not getrusage, whose figure a process inherits from the one that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


__all__ = ["Others", "environment", "load", "peak_memory", "processor", "version_of"]
