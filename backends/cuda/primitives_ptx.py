"""The vocabulary of emitted kernels, bound to PTX. `vocabulary` says what each name means, `primitives_numpy` binds the
same names to NumPy. No part of PTX is written elsewhere than in this module and its two neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from convc.backends.cuda.primitives_math import COMPOSITES, define
from convc.backends.cuda.primitives_types import (
    FLOAT,
    I32,
    I64,
    KINDS,
    VOCABULARY,
    Emit,
    Scalar,
    Value,
    asm,
    asm_primitive,
    boolean,
    f32,
    i32,
    primitive,
    ptr,
    result_of,
    struct,
    tuple_of,
    unpack,
)
from convc.backends.cuda.vocabulary import COPIES, WIDTHS, suffix

__all__ = ["VOCABULARY"]

# ---- indices, integers, floats ---------------------------------------------------------------------------------------

for _name, _register in (("thread", "tid.x"), ("block_x", "ctaid.x"), ("block_y", "ctaid.y"), ("block_z", "ctaid.z")):
    asm_primitive(_name, i32, (), f"mov.u32 $0, %{_register};")

primitive("inside", boolean, (i32, i32), lambda c, b, x, n: b.icmp_unsigned("<", x, n))
primitive("udiv", i32, (i32, i32), lambda c, b, x, n: b.udiv(x, n))
primitive("urem", i32, (i32, i32), lambda c, b, x, n: b.urem(x, n))
primitive("negate", boolean, (boolean,), lambda c, b, p: b.not_(p))
primitive("float_bits", i32, (f32,), lambda c, b, x: b.bitcast(x, I32))
primitive("bits_float", f32, (i32,), lambda c, b, x: b.bitcast(x, FLOAT))
primitive("to_f32", f32, (i32,), lambda c, b, x: b.sitofp(x, FLOAT))


def _fastdiv(context: Any, builder: Any, n: Value, factor: Value, shift: Value) -> Value:
    wide = builder.mul(builder.zext(n, I64), builder.zext(factor, I64))
    high = builder.trunc(builder.lshr(wide, ir.Constant(I64, 31)), I32)
    return builder.lshr(high, shift)


primitive("fastdiv", i32, (i32, i32, i32), _fastdiv)


def _select(context: Any, p: Any, a: Any, b: Any) -> Any:
    kind = next((k for k in (a, b) if k in (i32, f32)), None)
    if kind is None:
        return None
    return kind(boolean, kind, kind), lambda context, builder, signature, args: builder.select(*args)


VOCABULARY["select"] = intrinsic(_select)


def _constant(kind: Scalar) -> Any:
    def constant(context: Any, x: Any) -> Any:
        return kind(kind), lambda context, builder, signature, args: args[0]

    return intrinsic(constant)


VOCABULARY["i32"], VOCABULARY["f32"] = _constant(i32), _constant(f32)

asm_primitive("to_i32", i32, (f32,), "cvt.rzi.s32.f32 $0, $1;")
asm_primitive("fma", f32, (f32, f32, f32), "fma.rn.f32 $0, $1, $2, $3;")
asm_primitive("maximum", f32, (f32, f32), "max.NaN.f32 $0, $1, $2;")
asm_primitive("minimum", f32, (f32, f32), "min.NaN.f32 $0, $1, $2;")
asm_primitive("absolute", f32, (f32,), "abs.f32 $0, $1;")
asm_primitive("floor", f32, (f32,), "cvt.rmi.f32.f32 $0, $1;")
asm_primitive("ceil", f32, (f32,), "cvt.rpi.f32.f32 $0, $1;")
asm_primitive("rint", f32, (f32,), "cvt.rni.f32.f32 $0, $1;")
asm_primitive("sqrt", f32, (f32,), "sqrt.rn.f32 $0, $1;")
asm_primitive("rsqrt", f32, (f32,), "rsqrt.approx.f32 $0, $1;")
asm_primitive("exp2", f32, (f32,), "ex2.approx.f32 $0, $1;")
asm_primitive("log2", f32, (f32,), "lg2.approx.f32 $0, $1;")


def _round_tf32(context: Any, builder: Any, x: Value) -> Value:
    return builder.bitcast(asm(builder, I32, "cvt.rna.tf32.f32 $0, $1;", "=r,f", [x], effect=False), FLOAT)


primitive("round_tf32", f32, (f32,), _round_tf32)

# ---- global memory ---------------------------------------------------------------------------------------------------

ELEMENTS = {"f32": (FLOAT, 4), "i32": (I32, 4), "f16": (I32, 2), "bf16": (I32, 2), "b16": (I32, 2)}


def _address(builder: Any, base: Value, index: Value, size: int) -> Value:
    return builder.add(base, builder.mul(builder.sext(index, I64), ir.Constant(I64, size)))


def _from_pair(builder: Any, kind: str, word: Value) -> list[Value]:
    """The two float32 in a word of two 16-bit floats."""
    if kind == "bf16":
        halves = builder.shl(word, ir.Constant(I32, 16)), builder.and_(word, ir.Constant(I32, 0xFFFF0000))
        return [builder.bitcast(half, FLOAT) for half in halves]
    text = "{ .reg .b16 l, h; mov.b32 {l, h}, $2; cvt.f32.f16 $0, l; cvt.f32.f16 $1, h; }"
    return unpack(builder, asm(builder, struct(FLOAT, 2), text, "=f,=f,r", [word], effect=False), 2)


def _to_pair(builder: Any, kind: str, low: Value, high: Value) -> Value:
    return asm(builder, I32, f"cvt.rn.{kind}x2.f32 $0, $2, $1;", "=r,f,f", [low, high], effect=False)


def _load_text(space: str, letter: str, words: int, pred: bool) -> tuple[str, str]:
    names = [f"${i}" for i in range(words)]
    listed = names[0] if words == 1 else "{" + ", ".join(names) + "}"
    vector = f".v{words}" if words > 1 else ""
    kind = {"f": "f32", "r": "b32"}[letter]
    out = ",".join([("=&" if pred else "=") + letter] * words)
    if not pred:
        return f"ld.{space}{vector}.{kind} {listed}, [${words}];", out
    clear = " ".join(f"mov.b32 {name}, 0;" for name in names)
    load = f"@p ld.{space}{vector}.{kind} {listed}, [${words + 1}];"
    return f"{{ .reg .pred p; setp.ne.b32 p, ${words}, 0; {clear} {load} }}", out


def _load(kind: str, count: int) -> Emit:
    _, size = ELEMENTS[kind]
    letter = "f" if kind == "f32" else "r"

    def emit(context: Any, builder: Any, p: Value, base: Value, index: Value) -> Value:
        at, live = _address(builder, base, index, size), builder.zext(p, I32)
        if size * count == 2:
            text = ("{ .reg .pred p; .reg .b16 h; setp.ne.b32 p, $1, 0; mov.b16 h, 0; @p ld.global.b16 h, [$2]; "
                    "cvt.u32.u16 $0, h; }")  # fmt: skip
            word = asm(builder, I32, text, "=r,r,l", [live, at])
            return word if kind == "b16" else _from_pair(builder, kind, word)[0]
        words = size * count // 4
        text, out = _load_text("global", letter, words, True)
        shape = struct(FLOAT if letter == "f" else I32, words)
        parts = unpack(builder, asm(builder, shape, text, out + ",r,l", [live, at]), words)
        if size == 2:
            parts = [half for word in parts for half in _from_pair(builder, kind, word)]
        return result_of(context, builder, tuple_of(f32 if kind != "i32" else i32, count), parts)

    return emit


def _store(kind: str, count: int) -> Emit:
    _, size = ELEMENTS[kind]

    def emit(context: Any, builder: Any, p: Value, base: Value, index: Value, value: Value) -> None:
        at, live = _address(builder, base, index, size), builder.zext(p, I32)
        parts = unpack(builder, value, count)
        if size * count == 2:
            if kind != "b16":
                parts = [_to_pair(builder, kind, parts[0], ir.Constant(FLOAT, 0.0))]
            text = "{ .reg .pred p; .reg .b16 h; setp.ne.b32 p, $0, 0; cvt.u16.u32 h, $2; @p st.global.b16 [$1], h; }"
            asm(builder, ir.VoidType(), text, "r,l,r,~{memory}", [live, at, parts[0]])
            return
        if size == 2:
            parts = [_to_pair(builder, kind, *parts[i : i + 2]) for i in range(0, count, 2)]
        words, letter = len(parts), "f" if kind == "f32" else "r"
        names = ", ".join(f"${i + 2}" for i in range(words))
        vector, listed = (f".v{words}", f"{{{names}}}") if words > 1 else ("", names)
        text = f"{{ .reg .pred p; setp.ne.b32 p, $0, 0; @p st.global{vector}.b32 [$1], {listed}; }}"
        asm(builder, ir.VoidType(), text, ",".join(["r", "l", *[letter] * words, "~{memory}"]), [live, at, *parts])

    return emit


for _kind, _counts in WIDTHS.items():
    for _count in _counts:
        _value = tuple_of(i32 if _kind in ("i32", "b16") else f32, _count)
        primitive(f"load_{suffix(_kind, _count)}", _value, (boolean, ptr, i32), _load(_kind, _count))
        primitive(f"store_{suffix(_kind, _count)}", types.void, (boolean, ptr, i32, _value), _store(_kind, _count))


def _copy(size: int, count: int) -> Emit:
    total = size * count
    cache = "cg" if total == 16 else "ca"
    text = f"cp.async.{cache}.shared.global [$0], [$1], {total}, $2;"

    def emit(context: Any, builder: Any, p: Value, shared: Value, base: Value, index: Value) -> None:
        live = builder.select(p, ir.Constant(I32, total), ir.Constant(I32, 0))
        asm(builder, ir.VoidType(), text, "r,l,r,~{memory}", [shared, _address(builder, base, index, size), live])

    return emit


for _kind, (_size, _counts) in COPIES.items():
    for _count in _counts:
        primitive(f"copy_{suffix(_kind, _count)}", types.void, (boolean, i32, ptr, i32), _copy(_size, _count))


def _order(text: str) -> Emit:
    return lambda context, builder: asm(builder, ir.VoidType(), text, "~{memory}", [])


primitive("commit", types.void, (), _order("cp.async.commit_group;"))
primitive("barrier", types.void, (), _order("bar.sync 0;"))


def _wait(context: Any, groups: Any) -> Any:
    if not isinstance(groups, types.IntegerLiteral):
        return None
    emit = _order(f"cp.async.wait_group {groups.literal_value};")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        emit(context, builder)
        return context.get_dummy_value()

    return types.void(groups), codegen


VOCABULARY["wait"] = intrinsic(_wait)

# ---- shared memory, warps ------------------------------------------------------------------------------


def _shared(context: Any, builder: Any) -> Value:
    module, name = builder.module, "convc_shared"
    if name in module.globals:
        return builder.ptrtoint(module.globals[name], I32)
    memory = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), 0), name, 3)
    memory.linkage, memory.align = "external", 128
    return builder.ptrtoint(memory, I32)


primitive("shared", i32, (), _shared)


def _load_shared(letter: str, count: int) -> Emit:
    text, out = _load_text("shared", letter, count, False)
    kind = FLOAT if letter == "f" else I32

    def emit(context: Any, builder: Any, at: Value) -> Value:
        parts = unpack(builder, asm(builder, struct(kind, count), text, out + ",r,~{memory}", [at]), count)
        return result_of(context, builder, tuple_of(f32 if letter == "f" else i32, count), parts)

    return emit


def _store_shared(letter: str, count: int) -> Emit:
    names = ", ".join(f"${i + 1}" for i in range(count))
    vector, listed = (f".v{count}", f"{{{names}}}") if count > 1 else ("", names)
    text = f"st.shared{vector}.b32 [$0], {listed};"

    def emit(context: Any, builder: Any, at: Value, value: Value) -> None:
        parts = unpack(builder, value, count)
        asm(builder, ir.VoidType(), text, ",".join(["r", *[letter] * count, "~{memory}"]), [at, *parts])

    return emit


for _kind, _letter in (("f32", "f"), ("i32", "r")):
    for _count in (1, 2, 4):
        _value = tuple_of(KINDS[_kind], _count)
        primitive(f"load_shared_{suffix(_kind, _count)}", _value, (i32,), _load_shared(_letter, _count))
        primitive(f"store_shared_{suffix(_kind, _count)}", types.void, (i32, _value), _store_shared(_letter, _count))


def _shuffle_xor(context: Any, value: Any, mask: Any) -> Any:
    if value not in (i32, f32) or not isinstance(mask, types.IntegerLiteral):
        return None
    text, letter = f"shfl.sync.bfly.b32 $0, $1, {mask.literal_value}, 31, -1;", "f" if value == f32 else "r"

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return asm(builder, value.llvm, text, f"={letter},{letter}", [args[0]])

    return value(value, mask), codegen


VOCABULARY["shuffle_xor"] = intrinsic(_shuffle_xor)

# ---- functions written in the vocabulary itself ----------------------------------------------------------------------


def _composite(name: str, kinds: Sequence[Scalar], function: Any) -> None:
    primitive(name, f32, kinds, lambda c, b, *args: c.compile_internal(b, function, f32(*kinds), args))


for _name, _operands in COMPOSITES.items():
    _composite(_name, [KINDS[kind] for kind in _operands], define(_name, VOCABULARY))
