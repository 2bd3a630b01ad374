"""The vocabulary of the driver that walks a Program: calls through addresses, atomics, waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from convc.backends.cpu.primitives import I64, Value, function, pointer


@intrinsic
def call_kernel(typingctx: Any, address: Any, arguments: Any, thread: Any, threads: Any) -> Any:
    """Call the kernel at `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        kind = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1], args[2], args[3]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def atomic_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at `address`; returns what was there."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return builder.atomic_rmw("add", pointer(builder, args[0], I64), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx: Any, address: Any) -> Any:
    """The int64 at `address`; what its writer did before is visible after."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return builder.load_atomic(pointer(builder, args[0], I64), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write the int64 at `address`; what was done before is visible to its readers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        builder.store_atomic(args[1], pointer(builder, args[0], I64), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def cpu_pause(typingctx: Any) -> Any:
    """Tell the core that this is a spin loop."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        triple = builder.module.triple
        if triple.startswith(("x86_64", "i686", "amd64")):
            builder.call(function(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        elif triple.startswith(("aarch64", "arm64")):
            builder.call(function(builder, "llvm.aarch64.hint", ir.VoidType(), [ir.IntType(32)]), [ir.IntType(32)(1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def yield_thread(typingctx: Any) -> Any:
    """Let another thread of this core run."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        builder.call(function(builder, "sched_yield", ir.IntType(32), []), [])
        return context.get_dummy_value()

    return types.void(), codegen


VOCABULARY: dict[str, Any] = {
    "call_kernel": call_kernel, "atomic_add": atomic_add, "atomic_load": atomic_load, "atomic_store": atomic_store,
    "cpu_pause": cpu_pause, "yield_thread": yield_thread,
}  # fmt: skip
