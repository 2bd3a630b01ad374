"""The CUDA driver, through cuda.bindings: a device, memory, kernels, streams, graphs. Not run on a GPU yet.

This is all that the runtime knows of the machine, so another object with these methods can stand in for it: tests run
the runtime on one that executes launches in lock step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from convc.backends.cuda.compile import ARCHITECTURES, HINT
from convc.errors import TargetError
from convc.types import Array

SHARED_WITHOUT_ASKING = 48 << 10


@dataclass(frozen=True, eq=False)
class Node:
    """A kernel call of a graph: function, grid, threads, bytes of dynamic shared memory, a word for each argument."""

    function: Any
    grid: tuple[int, int, int]
    threads: int
    shared: int
    words: Array


class Graph(Protocol):
    """A graph of kernel calls, one after the other."""

    def launch(self, stream: Any) -> None:
        """Run it on a stream."""

    def update(self, index: int, node: Node) -> None:
        """Give a call other arguments, for launches from now on."""


class Device(Protocol):
    """A GPU, or what stands in for one."""

    arch: str
    name: str

    def enter(self) -> None: ...
    def allocate(self, count: int) -> int: ...
    def release(self, pointer: int) -> None: ...
    def allocate_on(self, count: int, stream: Any) -> int: ...
    def release_on(self, pointer: int, stream: Any) -> None: ...
    def fill(self, pointer: int, byte: int, count: int, stream: Any) -> None: ...
    def upload(self, pointer: int, array: Array, stream: Any) -> None: ...
    def download(self, array: Array, pointer: int, stream: Any) -> None: ...
    def load(self, name: str, code: bytes, shared: int) -> tuple[Any, Any]: ...
    def unload(self, module: Any) -> None: ...
    def stream(self) -> Any: ...
    def end_stream(self, stream: Any) -> None: ...
    def given_stream(self, pointer: int) -> Any: ...
    def synchronise(self, stream: Any) -> None: ...
    def event(self) -> Any: ...
    def end_event(self, event: Any) -> None: ...
    def record(self, event: Any, stream: Any) -> None: ...
    def elapsed(self, first: Any, second: Any) -> float: ...
    def graph(self, nodes: Sequence[Node]) -> Graph: ...


def driver() -> Any:
    """cuda.bindings.driver. Raises TargetError that names what is missing."""
    try:
        from cuda.bindings import driver as found
    except ImportError as error:
        raise TargetError("target 'cuda' needs cuda-bindings, which is not installed", hint=HINT) from error
    return found


def call(function: Any, *args: Any) -> Any:
    """Call the driver; the result, or several as a tuple. Raises TargetError with the driver's word for the failure."""
    try:
        code, *results = function(*args)
    except Exception as error:
        if "not found" in type(error).__name__.lower() or "notfound" in type(error).__name__.lower():
            raise no_driver("libcuda cannot be found") from error
        raise
    if int(code) != 0:
        name = function.__name__
        if name == "cuInit":
            raise no_driver(f"the driver says {code.name.removeprefix('CUDA_ERROR_').lower()}")
        raise TargetError(f"{name} failed: {code.name.removeprefix('CUDA_ERROR_').lower()}", hint="see nvidia-smi")
    return results[0] if len(results) == 1 else tuple(results)


def no_driver(what: str) -> TargetError:
    """The error of a machine that cannot run kernels."""
    return TargetError(
        f"target 'cuda' needs an NVIDIA driver and a GPU to run: {what}",
        hint="install the driver, use target='cpu', or save a model compiled for target='cuda:sm_90a' and run it where "
        "there is a GPU",
    )


def described() -> str:
    """Name and architecture of the first GPU, or why there is none. No context is made."""
    try:
        cu = driver()
        call(cu.cuInit, 0)
        if not call(cu.cuDeviceGetCount):
            raise no_driver("the driver finds no device")
        handle = call(cu.cuDeviceGet, 0)
        name = call(cu.cuDeviceGetName, 128, handle).split(b"\0")[0].decode()
        kind = cu.CUdevice_attribute
        major = call(cu.cuDeviceGetAttribute, kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, handle)
        minor = call(cu.cuDeviceGetAttribute, kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, handle)
    except TargetError as error:
        return f"none: {error.message.rpartition(': ')[2]}"
    return f"{name}, sm_{major}{minor}"


@cache
def device(ordinal: int = 0, process: int = 0) -> CudaDevice:
    """The device. `process` keeps what a fork inherited apart: a context does not survive one."""
    return CudaDevice(ordinal)


def this_device() -> CudaDevice:
    """The first device of this process. Raises TargetError where there is none."""
    return device(0, os.getpid())


class CudaDevice:
    """A GPU and its primary context, which PyTorch and CuPy use, too."""

    def __init__(self, ordinal: int = 0) -> None:
        self.cu = driver()
        call(self.cu.cuInit, 0)
        if call(self.cu.cuDeviceGetCount) <= ordinal:
            raise no_driver("the driver finds no device")
        self.handle = call(self.cu.cuDeviceGet, ordinal)
        kind = self.cu.CUdevice_attribute
        major, minor, self.processors, self.shared = (
            call(self.cu.cuDeviceGetAttribute, attribute, self.handle)
            for attribute in (
                kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                kind.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                kind.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )
        )
        if major < 8:
            raise TargetError(
                f"the GPU has compute capability {major}.{minor}, kernels need 8.0 or more", hint="use target='cpu'"
            )
        name = f"sm_{major}{minor}"
        self.arch = next((a for a in (f"{name}a", name) if a in ARCHITECTURES), name)
        self.name = call(self.cu.cuDeviceGetName, 128, self.handle).split(b"\0")[0].decode()
        self.context = call(self.cu.cuDevicePrimaryCtxRetain, self.handle)
        self.enter()

    def enter(self) -> None:
        """Make the context this thread's."""
        call(self.cu.cuCtxSetCurrent, self.context)

    def allocate(self, count: int) -> int:
        return int(call(self.cu.cuMemAlloc, max(count, 1)))

    def release(self, pointer: int) -> None:
        call(self.cu.cuMemFree, pointer)

    def allocate_on(self, count: int, stream: Any) -> int:
        """Memory in the order of a stream, without waiting for the device."""
        return int(call(self.cu.cuMemAllocAsync, max(count, 1), stream))

    def release_on(self, pointer: int, stream: Any) -> None:
        """Give memory back once the stream has done what it was given."""
        call(self.cu.cuMemFreeAsync, pointer, stream)

    def fill(self, pointer: int, byte: int, count: int, stream: Any) -> None:
        if count:
            call(self.cu.cuMemsetD8Async, pointer, byte, count, stream)

    def upload(self, pointer: int, array: Array, stream: Any) -> None:
        if array.nbytes:
            call(self.cu.cuMemcpyHtoDAsync, pointer, array.ctypes.data, array.nbytes, stream)

    def download(self, array: Array, pointer: int, stream: Any) -> None:
        if array.nbytes:
            call(self.cu.cuMemcpyDtoHAsync, array.ctypes.data, pointer, array.nbytes, stream)

    def load(self, name: str, code: bytes, shared: int) -> tuple[Any, Any]:
        """The module of a cubin, and its function, allowed `shared` bytes of dynamic shared memory."""
        module = call(self.cu.cuModuleLoadData, code)
        function = call(self.cu.cuModuleGetFunction, module, name.encode())
        if shared > SHARED_WITHOUT_ASKING:
            limit = self.cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            call(self.cu.cuFuncSetAttribute, function, limit, shared)
        return module, function

    def unload(self, module: Any) -> None:
        call(self.cu.cuModuleUnload, module)

    def stream(self) -> Any:
        return call(self.cu.cuStreamCreate, self.cu.CUstream_flags.CU_STREAM_NON_BLOCKING.value)

    def end_stream(self, stream: Any) -> None:
        call(self.cu.cuStreamDestroy, stream)

    def given_stream(self, pointer: int) -> Any:
        return self.cu.CUstream(pointer)

    def event(self) -> Any:
        return call(self.cu.cuEventCreate, 0)

    def end_event(self, event: Any) -> None:
        call(self.cu.cuEventDestroy, event)

    def record(self, event: Any, stream: Any) -> None:
        call(self.cu.cuEventRecord, event, stream)

    def elapsed(self, first: Any, second: Any) -> float:
        """Seconds between two recorded events, once both have happened."""
        call(self.cu.cuEventSynchronize, second)
        return float(call(self.cu.cuEventElapsedTime, first, second)) / 1000.0

    def synchronise(self, stream: Any) -> None:
        call(self.cu.cuStreamSynchronize, stream)

    def graph(self, nodes: Sequence[Node]) -> CudaGraph:
        return CudaGraph(self.cu, nodes)


class CudaGraph:
    """An instantiated CUDA graph: kernel nodes in a chain."""

    def __init__(self, cu: Any, nodes: Sequence[Node]) -> None:
        self.cu = cu
        self.graph = call(cu.cuGraphCreate, 0)
        self.nodes: list[Any] = []
        for node in nodes:
            before = self.nodes[-1:]
            parameters, _words = self._parameters(node)
            self.nodes.append(call(cu.cuGraphAddKernelNode, self.graph, before, len(before), parameters))
        self.executable = call(cu.cuGraphInstantiate, self.graph, 0)

    def _parameters(self, node: Node) -> tuple[Any, Array]:
        """The driver's description; it copies the words while it is called, so these must live until then."""
        found = self.cu.CUDA_KERNEL_NODE_PARAMS()
        found.func = node.function
        found.gridDimX, found.gridDimY, found.gridDimZ = node.grid
        found.blockDimX, found.blockDimY, found.blockDimZ = node.threads, 1, 1
        found.sharedMemBytes = node.shared
        addresses = node.words.ctypes.data + 8 * np.arange(len(node.words), dtype=np.uint64)
        found.kernelParams = addresses.ctypes.data
        return found, addresses

    def launch(self, stream: Any) -> None:
        call(self.cu.cuGraphLaunch, self.executable, stream)

    def update(self, index: int, node: Node) -> None:
        parameters, _words = self._parameters(node)
        call(self.cu.cuGraphExecKernelNodeSetParams, self.executable, self.nodes[index], parameters)

    def __del__(self) -> None:
        try:
            self.cu.cuGraphExecDestroy(self.executable)
            self.cu.cuGraphDestroy(self.graph)
        except Exception:  # the driver may be gone before the last graph
            return
