"""Matrix products of two computed plain tensors, in batches: a thread an element."""

from __future__ import annotations

from collections.abc import Sequence

from convc.backends.cuda.layout import CudaAssembler
from convc.backends.cuda.plan import Argument, Launch, LaunchPlan
from convc.backends.cuda.writer import Writer
from convc.backends.operands import batch_offsets
from convc.backends.program import Plain, Step
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import DType


def emit_matmul() -> tuple[str, str]:
    """y[b, m, n] = sum over k of p[b, m, k] * q[b, k, n]. `batches` holds where p and q begin, in elements."""
    arguments = ["p: f32*", "q: f32*", "y: f32*", "batches: i32*", "total: i32", "M: i32", "N: i32", "K: i32"]
    out = Writer("f32_matmul__cuda", arguments, "plain; p [M, K], q [K, N] by batch")
    out.item("item", "total")
    out.split("item", "N", "row", "n")
    out.split("row", "M", "b", "m")
    out("at = load_i32x2(ok, batches, b * 2)", "left = at[0] + m * K", "right = at[1] + n", "acc = f32(0.0)")
    with out.loop("k", "K"):
        out("acc = fma(load_f32(ok, p, left + k), load_f32(ok, q, right + k * N), acc)")
    out("store_f32(ok, y, item, acc)")
    return out.finish()


def lower_matmul(asm: CudaAssembler, node: Node) -> None:
    """Matmul with NumPy's meaning: vectors get an axis of size 1, batches broadcast."""
    if node.type.dtype is not DType.F32:
        raise TargetError(f"{node}: CUDA multiplies float32, found {node.type}", hint="cast it to float32")
    a, b = (asm.plain(str(name)) for name in node.inputs)
    y = asm.new_plain(node.name, node.type)
    asm.step(emit_matmul(), "matmul", node.name, (a, b), (y,))
    asm.define(y)


def matmul_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_matmul`."""
    (p, q), y = step.reads, step.writes[0]
    assert isinstance(p, Plain) and isinstance(q, Plain) and isinstance(y, Plain)
    left, right = bound.shape(p), bound.shape(q)
    left = (1, *left) if len(left) == 1 else left
    right = (*right, 1) if len(right) == 1 else right
    offsets = batch_offsets(left, right)
    total = len(offsets) * left[-2] * right[-1]
    arguments: list[Argument] = [bound.at(p), bound.at(q), bound.at(y), bound.lanes(offsets), total]
    return bound.items(step, total, [*arguments, left[-2], right[-1], left[-1]])
