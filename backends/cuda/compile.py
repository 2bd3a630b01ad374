"""Emitted source to PTX and cubin, without a GPU: Numba lowers, NVVM makes PTX, nvJitLink assembles.

numba-cuda is imported inside the functions alone, so a machine without the `cuda` extra never meets it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from convc.backends.cuda.machines import machine
from convc.backends.cuda.writer import interface
from convc.backends.locks import ForkLock
from convc.errors import TargetError

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100a", "sm_120a")
LOCK = ForkLock()
"""Numba's CUDA compiler is not for many threads at once."""
HINT = "pip install 'convc[cuda]'"


@dataclass(frozen=True)
class CompiledKernel:
    """Machine code of one kernel, with what the assembler reports."""

    cubin: bytes
    registers: int
    spills: int
    """Bytes stored and loaded for want of registers."""
    stack: int
    shared: int
    """Shared memory of fixed size; that of a launch comes on top."""
    ptx: str = ""

    def to_bytes(self) -> bytes:
        """A line of figures and the machine code."""
        figures = {"registers": self.registers, "spills": self.spills, "stack": self.stack, "shared": self.shared}
        return json.dumps(figures).encode() + b"\n" + self.cubin

    @staticmethod
    def from_bytes(data: bytes) -> CompiledKernel:
        """What `to_bytes` made."""
        head, _, code = data.partition(b"\n")
        try:
            figures = json.loads(head)
            kernel = CompiledKernel(
                code, int(figures["registers"]), int(figures["spills"]), int(figures["stack"]), int(figures["shared"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TargetError("a kept kernel cannot be read", hint="convc cache --clear") from error
        if not code.startswith(b"\x7fELF"):
            raise TargetError("a kept kernel is no machine code", hint="convc cache --clear")
        return kernel


def missing() -> str:
    """What of the `cuda` extra is not installed; nothing where all is there."""
    for module, package in (("numba_cuda", "numba-cuda"), ("cuda.bindings", "cuda-bindings")):
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return package
    return ""


def require() -> None:
    """Raise unless kernels can be compiled here."""
    lacking = missing()
    if lacking:
        raise TargetError(f"compiling for CUDA needs {lacking}, which is not installed", hint=HINT)


def capability(arch: str) -> tuple[Any, ...]:
    """`sm_90a` as (9, 0, "a")."""
    found = re.fullmatch(r"sm_(\d+)(\d)(a?)", arch)
    if found is None:
        raise TargetError(f"unknown CUDA architecture {arch!r}", hint=f"use one of {', '.join(ARCHITECTURES)}")
    major, minor, special = found.groups()
    return (int(major), int(minor), special) if special else (int(major), int(minor))


@cache
def _numba() -> Any:
    require()
    import numpy as np

    if not hasattr(np, "row_stack"):
        np.row_stack = np.vstack  # numba-cuda 0.30 looks for it when it is imported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from numba import cuda

            from convc.backends.cuda import primitives_extra_ptx, primitives_ptx, primitives_tiles, primitives_types
    except Exception as error:
        raise TargetError(f"numba-cuda cannot be imported: {error}", hint=HINT) from error
    extra = primitives_extra_ptx.vocabulary(primitives_types)
    return cuda, primitives_types.KINDS, {**primitives_ptx.VOCABULARY, **primitives_tiles.VOCABULARY, **extra}


def compile_ptx(source: str, arch: str) -> str:
    """The PTX of a kernel, its entry under the kernel's own name."""
    facts = interface(source)
    version = capability(arch)
    with LOCK:
        cuda, types, vocabulary = _numba()
        space: dict[str, Any] = dict(vocabulary)
        exec(compile(source, f"<kernel {facts.name}>", "exec"), space)
        kinds = [types["ptr" if kind.endswith("*") else kind] for kind in facts.kinds]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text, _ = cuda.compile(
                space[facts.name], cuda.types.void(*kinds), cc=version, device=False, abi="numba",
                launch_bounds=(facts.threads, _blocks(source, arch)),
            )  # fmt: skip
    entry = re.search(r"\.entry (\w+)", text)
    assert entry is not None
    text = re.sub(r"^\.common .*NumbaEnv.*\n", "", str(text), flags=re.MULTILINE)
    text = re.sub(rf"\b{entry[1]}(?=\w*\b)", facts.name, text)
    foreign = re.findall(r"\.extern \.func.*?(\w+)\s*\n?\(", text, re.DOTALL)
    if foreign:
        raise TargetError(f"kernel {facts.name} calls {', '.join(foreign)}, which no library has", hint="report this")
    return text


def _blocks(source: str, arch: str) -> int:
    """Blocks that a multiprocessor shall hold, by the kernel's annotation: what bounds the registers."""
    found = re.search(r'-> "(\d+) threads, (\d+) registers, (\d+) bytes":', source)
    return max(machine(arch).resident(*map(int, found.groups())), 1) if found else 1


def assemble(ptx: str, arch: str) -> CompiledKernel:
    """Machine code from PTX."""
    require()
    capability(arch)
    from cuda.bindings import nvjitlink

    options = [f"-arch={arch}", "-verbose"]
    handle = nvjitlink.create(len(options), options)
    try:
        try:
            data = ptx.encode()
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), "kernel")
            nvjitlink.complete(handle)
        except nvjitlink.nvJitLinkError as error:
            log = _log(nvjitlink.get_error_log_size, nvjitlink.get_error_log, handle)
            first = (log or str(error)).splitlines()[0]
            raise TargetError(f"PTX for {arch} was refused: {first}", hint="report this") from error
        info = _log(nvjitlink.get_info_log_size, nvjitlink.get_info_log, handle)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
    finally:
        nvjitlink.destroy(handle)

    def figure(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, info)))

    return CompiledKernel(
        bytes(code),
        figure(r"Used (\d+) registers"),
        figure(r"(\d+) bytes spill"),
        figure(r"(\d+) bytes stack frame"),
        figure(r"(\d+) bytes smem"),
        ptx,
    )


def compile_kernel(source: str, arch: str) -> CompiledKernel:
    """Emitted source to machine code, with its PTX."""
    return assemble(compile_ptx(source, arch), arch)


def compile_one(name: str, source: str, target: str) -> bytes:
    """`compile_kernel` as bytes: what another process calls."""
    return compile_kernel(source, target).to_bytes()


def _log(size: Any, read: Any, handle: Any) -> str:
    text = bytearray(size(handle))
    read(handle, text)
    return bytes(text).rstrip(b"\0").decode(errors="replace").strip()


def disassemble(code: bytes) -> str:
    """SASS of a cubin, to read."""
    tool = _tool("nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(code)
        done = subprocess.run([tool, "-c", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TargetError(f"nvdisasm failed: {done.stderr.strip()[:200]}", hint="update nvidia-cuda-nvdisasm")
    return done.stdout


def opcodes(sass: str) -> dict[str, int]:
    """How often each instruction occurs."""
    counts: dict[str, int] = {}
    for name in re.findall(r"/\*[0-9a-f]{4,6}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", sass):
        counts[name] = counts.get(name, 0) + 1
    return counts


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        spec = find_spec("nvidia")
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        for path in (p for folder in folders for p in Path(folder).glob(f"*/bin/{name}")):
            return str(path)
        raise TargetError(f"showing SASS needs {name}, which is not installed", hint=f"pip install nvidia-cuda-{name}")
    return found
