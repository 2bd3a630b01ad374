"""The vocabulary of emitted kernels, bound to PTX: the sums of a warp's tile.

The sums are one value of many registers, so that a step of k is one call: Numba's time goes by calls. `warp_tiles` says
which lane holds which sum, and binds the same names to NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from convc.backends.cuda.primitives_types import FLOAT, I32, VOCABULARY, Value, asm, f32, i32, struct, unpack

__all__ = ["VOCABULARY"]

LDMATRIX = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4];"
DEPTH = {"tf32": 8, "f16": 16, "bf16": 16}
Step = Callable[[Any, list[Value], Value, Value, int, int, int], list[Value]]


def _literals(given: Sequence[Any]) -> list[int] | None:
    """Values of literal operands, None where one is not."""
    if all(isinstance(one, types.IntegerLiteral) for one in given):
        return [int(one.literal_value) for one in given]
    return None


def _add(builder: Any, at: Value, offset: int) -> Value:
    return builder.add(at, ir.Constant(I32, offset)) if offset else at


def _load_matrix(builder: Any, at: Value) -> list[Value]:
    return unpack(builder, asm(builder, struct(I32, 4), LDMATRIX, "=r,=r,=r,=r,r,~{memory}", [at]), 4)


def _mma(builder: Any, kind: str, a: Sequence[Value], b: Sequence[Value], c: Sequence[Value]) -> list[Value]:
    names = [f"${i}" for i in range(14)]
    text = (
        f"mma.sync.aligned.m16n8k{DEPTH[kind]}.row.col.f32.{kind}.{kind}.f32 {{{', '.join(names[:4])}}}, "
        f"{{{', '.join(names[4:8])}}}, {{{', '.join(names[8:10])}}}, {{{', '.join(names[10:])}}};"
    )
    constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)
    return unpack(builder, asm(builder, struct(FLOAT, 4), text, constraints, [*a, *b, *c], effect=False), 4)


def _tensor_step(kind: str) -> Step:
    def step(builder: Any, c: list[Value], a: Value, b: Value, rows: int, columns: int, pitch: int) -> list[Value]:
        left = [_load_matrix(builder, _add(builder, a, i * 16 * pitch)) for i in range(rows)]
        right: list[list[Value]] = []
        for j in range(0, columns, 2):
            four = _load_matrix(builder, _add(builder, b, j * 8 * pitch))
            right += [four[:2], four[2:]]
        for j in range(columns):
            for i in range(rows):
                at = (i * columns + j) * 4
                c[at : at + 4] = _mma(builder, kind, left[i], right[j], c[at : at + 4])
        return c

    return step


def _plain_step(builder: Any, c: list[Value], a: Value, b: Value, rows: int, columns: int, pitch: int) -> list[Value]:
    def four(at: Value) -> list[Value]:
        text = "ld.shared.v4.f32 {$0, $1, $2, $3}, [$4];"
        return unpack(builder, asm(builder, struct(FLOAT, 4), text, "=f,=f,=f,=f,r,~{memory}", [at]), 4)

    left = [four(_add(builder, a, i * 8 * pitch)) for i in range(rows)]
    for j in range(columns):
        right = four(_add(builder, b, j * 4 * pitch))
        for q in range(4):
            for i in range(rows):
                args = [left[i][q], right[q], c[i * columns + j]]
                text = "fma.rn.f32 $0, $1, $2, $3;"
                c[i * columns + j] = asm(builder, FLOAT, text, "=f,f,f,f", args, effect=False)
    return c


def _define_zeros() -> Any:
    def zeros(context: Any, count: Any) -> Any:
        if (found := _literals([count])) is None:
            return None
        kind = types.UniTuple(f32, found[0])

        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
            return context.make_tuple(builder, kind, [ir.Constant(FLOAT, 0.0)] * found[0])

        return kind(count), codegen

    return intrinsic(zeros)


def _define_multiply(step: Step) -> Any:
    def multiply(context: Any, c: Any, a: Any, b: Any, rows: Any, columns: Any, pitch: Any) -> Any:
        if (found := _literals([rows, columns, pitch])) is None or not isinstance(c, types.UniTuple):
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
            made = step(builder, unpack(builder, args[0], c.count), args[1], args[2], *found)
            return context.make_tuple(builder, c, made)

        return c(c, i32, i32, rows, columns, pitch), codegen

    return intrinsic(multiply)


def _define_lay(words: int) -> Any:
    """Sums of `words` neighbours in a row at once: 2 of a tensor core's fragment, 1 of the plain form."""

    def lay(context: Any, c: Any, at: Any, rows: Any, columns: Any, pitch: Any) -> Any:
        if (found := _literals([rows, columns, pitch])) is None or not isinstance(c, types.UniTuple):
            return None
        down, across, step = found

        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
            sums = unpack(builder, args[0], c.count)
            for i in range(down * words):
                for j in range(across):
                    place = _add(builder, args[1], i * 8 * step + j * 16 * words)
                    if words == 1:
                        text, given = "st.shared.f32 [$0], $1;", sums[i * across + j : i * across + j + 1]
                    else:
                        first = (i // 2 * across + j) * 4 + i % 2 * 2
                        text, given = "st.shared.v2.f32 [$0], {$1, $2};", sums[first : first + 2]
                    asm(builder, ir.VoidType(), text, ",".join(["r", *"f" * words, "~{memory}"]), [place, *given])
            return context.get_dummy_value()

        return types.void(c, i32, rows, columns, pitch), codegen

    return intrinsic(lay)


VOCABULARY["zeros"] = _define_zeros()
VOCABULARY["multiply_f32"], VOCABULARY["lay_f32"] = _define_multiply(_plain_step), _define_lay(1)
VOCABULARY["lay_fragments"] = _define_lay(2)
for _kind in DEPTH:
    VOCABULARY[f"multiply_{_kind}"] = _define_multiply(_tensor_step(_kind))
