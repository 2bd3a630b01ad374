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

COLS = 2
"""Vectors of columns of a tile."""


def emit_matmul(isa: Isa) -> tuple[str, str]:
    """y[b, m, n] = sum over k of p[b, m, k] * q[b, k, n]. `batches` holds the byte offsets of p and q in each batch.

    Tiles of rows x `COLS` vectors; what is left over of the rows goes by half as many and one by one, of the columns by
    one vector and by the first lanes of one. Each sum runs over k in order.
    """
    lanes, rows = isa.lanes, isa.registers // 4
    out = Writer(
        f"f32_matmul_{rows}x{COLS}__{isa.name}", ["p", "q", "y", "batches", "count", "M", "N", "K"], "plain"
    )
    out(f"blocks = (N + {COLS * lanes - 1}) // {COLS * lanes}", f"strips = (M + {rows - 1}) // {rows}")
    with out.share("count * blocks * strips", "item"):  # a block's columns stay in a cache for all strips of rows
        out("part = item // strips", f"m = (item - part * strips) * {rows}")
        out("b = part // blocks", f"n = (part - b * blocks) * {COLS * lanes}", "left = N - n", "high = M - m")
        out("pp = p + load_i64(batches, b * 2) + m * K * 4", "qp = q + load_i64(batches, b * 2 + 1) + n * 4")
        out("to = y + ((b * M + m) * N + n) * 4", f"if high > {rows}: high = {rows}")
        for height in (rows, rows // 2, 1):
            with out.block(f"while high >= {height}"):
                with out.block(f"if left >= {COLS * lanes}"):
                    _tile(out, isa, height, COLS, "0", None)
                with out.block("else"):
                    out("done = 0")
                    with out.block(f"if left >= {lanes}"):
                        _tile(out, isa, height, 1, "0", None)
                        out(f"done = {lanes}")
                    with out.block("if done < left"):
                        _tile(out, isa, height, 1, "done * 4", "left - done")
                out(f"pp += {height} * K * 4", f"to += {height} * N * 4", f"high -= {height}")
    return out.finish()


def _tile(out: Writer, isa: Isa, rows: int, cols: int, offset: str, count: str | None) -> None:
    """Sums of one tile whose columns begin `offset` bytes on; of one vector, `count` columns where it is given."""
    acc = f"acc{rows}x{cols}"
    out(f"{acc} = tile_zero({rows}, {cols}, {isa.lanes})", "at_p = pp", f"at_q = qp + {offset}", "end_p = pp + K * 4")
    with out.block("while at_p < end_p"):
        if count is None:
            out(f"{acc} = tile_fma({acc}, at_p, K * 4, at_q, None, None)")
        else:
            out(f"{acc} = tile_fma_first({acc}, at_p, K * 4, at_q, {count})")
        out("at_p += 4", "at_q += N * 4")
    out(f"tile_rows_store({acc}, to + {offset}, N * 4, {count})")


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
        left[-1],
    ]  # fmt: skip
