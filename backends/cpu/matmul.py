"""Matrix products of two computed tensors, in batches."""

from __future__ import annotations

from collections.abc import Sequence

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.operands import batch_offsets
from convc.backends.program import Plain, Step
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import DType

ROWS = 4


def emit_matmul(isa: Isa) -> tuple[str, str]:
    """y[b, m, n] = sum over k of p[b, m, k] * q[b, k, n]. `batches` holds the byte offsets of p and q in each batch."""
    lanes = isa.lanes
    out = Writer(
        f"f32_matmul_{ROWS}x{lanes}__{isa.name}", ["p", "q", "y", "batches", "count", "M", "N", "K", "zeros"], "plain"
    )
    out(f"blocks = (N + {lanes - 1}) // {lanes}", f"strips = (M + {ROWS - 1}) // {ROWS}")
    with out.share("count * strips * blocks", "item"):
        out(
            "part = item // blocks",
            f"n = (item - part * blocks) * {lanes}",
            "b = part // strips",
            f"m = (part - b * strips) * {ROWS}",
        )
        out("pp = p + load_i64(batches, b * 2) + m * K * 4", "qp = q + load_i64(batches, b * 2 + 1) + n * 4")
        out("to = y + ((b * M + m) * N + n) * 4", "left = N - n")
        with out.block(f"if left >= {lanes} and M - m >= {ROWS}"):
            for row in range(ROWS):
                out(f"c{row} = vec_of(0.0, {lanes})")
            with out.block("for k in range(K)"):
                out(f"v = vec_load(qp + k * N * 4, {lanes})")
                for row in range(ROWS):
                    out(f"c{row} = vec_fma(vec_splat(pp + (K * {row} + k) * 4, {lanes}), v, c{row})")
            for row in range(ROWS):
                out(f"vec_store(to + {row} * N * 4, c{row})")
        with out.block("else"):
            out("rows = M - m", f"if rows > {ROWS}: rows = {ROWS}")
            with out.block("for row in range(rows)"):
                out(f"c = vec_of(0.0, {lanes})")
                with out.block("for k in range(K)"):
                    out(
                        f"v = vec_load_first(qp + k * N * 4, left, {lanes})",
                        f"c = vec_fma(vec_splat(pp + (K * row + k) * 4, {lanes}), v, c)",
                    )
                out("vec_store_first(to + row * N * 4, c, left)")
    return out.finish()


def lower_matmul(asm: Assembler, node: Node, isa: Isa) -> None:
    """Matmul with NumPy's meaning: vectors get an axis of size 1, batches broadcast."""
    if node.type.dtype is not DType.F32:
        raise TargetError(f"{node}: the CPU multiplies float32, found {node.type}", hint="cast it to float32")
    a, b = (asm.plain(str(name)) for name in node.inputs)
    y = asm.new_plain(node.name, node.type)
    asm.step(emit_matmul(isa), "matmul", node.name, (a, b), (y,))
    asm.define(y)


def matmul_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_matmul`."""
    (p, q), y = step.reads, step.writes[0]
    assert isinstance(p, Plain) and isinstance(q, Plain) and isinstance(y, Plain)
    left, right = bound.shape(p), bound.shape(q)
    left = (1, *left) if len(left) == 1 else left
    right = (*right, 1) if len(right) == 1 else right
    offsets = batch_offsets(left, right) * 4
    return [
        bound.address(p), bound.address(q), bound.address(y), bound.table(offsets), len(offsets), left[-2], right[-1],
        left[-1], 0,
    ]  # fmt: skip
