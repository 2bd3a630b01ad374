"""Reductions, softmax and argmax over one run of axes of a plain tensor, seen as [outer, axis, inner].

Where the run is contiguous (inner is 1), a warp takes it; else a thread walks along the axis. Orders are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from convc.backends.cuda.layout import CudaAssembler
from convc.backends.cuda.plan import Launch, LaunchPlan
from convc.backends.cuda.pooling import LEAST, lower_global
from convc.backends.cuda.writer import THREADS, Writer
from convc.backends.program import Plain, Step
from convc.dims import Size
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import DType, TensorType, product

MOST = "bits_float(i32(2139095040))"
"""Infinity."""
REDUCE: dict[str, tuple[str, str, str]] = {
    "reduce_sum": ("{0} + {1}", "f32(0.0)", ""), "reduce_mean": ("{0} + {1}", "f32(0.0)", "mean"),
    "reduce_max": ("maximum({0}, {1})", LEAST, ""), "reduce_min": ("minimum({0}, {1})", MOST, ""),
    "reduce_prod": ("{0} * {1}", "f32(1.0)", ""), "reduce_l2": ("{0} + {1}", "f32(0.0)", "l2"),
}  # fmt: skip
"""Combining expression, neutral element, and what is done to the elements or the result."""
ADD, MAX = "{0} + {1}", "maximum({0}, {1})"
ARGUMENTS = ["x: f32*", "y: f32*", "outer: i32", "axis: i32", "inner: i32"]


def warp_rows(out: Writer, rows: str) -> None:
    """`row`: this warp's row of `rows`, 0 where there is none, and `ok`; `lane`; `turns` of 32 along `axis`."""
    out(f"row = block_x() * {THREADS // 32} + (thread() >> 5)", f"ok = inside(row, {rows})", "row = select(ok, row, 0)")
    out("lane = thread() & 31", "turns = (axis + 31) >> 5")


def fold_warp(out: Writer, to: str, combine: str) -> None:
    """Combine `to` over the lanes of the warp; every lane gets the result."""
    for mask in (16, 8, 4, 2, 1):
        out(f"{to} = {combine.format(to, f'shuffle_xor({to}, {mask})')}")


def fold_run(out: Writer, to: str, at: str, combine: str, neutral: str, change: Callable[[str], str]) -> None:
    """`to`: the elements from `at` on, changed and combined over the warp."""
    out(f"{to} = {neutral}")
    with out.loop("turn", "turns"):
        out("i = turn * 32 + lane", "live = ok & (i < axis)", f"v = load_f32(live, x, {at} + i)")
        out(f"{to} = select(live, {combine.format(to, change('v'))}, {to})")
    fold_warp(out, to, combine)


def emit_reduce(op: str, run: bool) -> tuple[str, str]:
    """One value for each [outer, inner]."""
    combine, neutral, extra = REDUCE[op]
    out = Writer(f"f32_{op}_{'run' if run else 'across'}__cuda", ARGUMENTS, "x, y: plain")

    def change(value: str) -> str:
        return f"{value} * {value}" if extra == "l2" else value

    if run:
        warp_rows(out, "outer")
        fold_run(out, "acc", "row * axis", combine, neutral, change)
    else:
        out.item("item", "outer * inner")
        out.split("item", "inner", "o", "at")
        out(f"acc = {neutral}")
        with out.loop("i", "axis"):
            out("v = load_f32(ok, x, (o * axis + i) * inner + at)", f"acc = {combine.format('acc', change('v'))}")
    if extra == "mean":
        out("acc = acc / to_f32(axis)")
    elif extra == "l2":
        out("acc = sqrt(acc)")
    out("store_f32(ok & (lane == 0), y, row, acc)" if run else "store_f32(ok, y, item, acc)")
    return out.finish()


def emit_softmax(log: bool, run: bool) -> tuple[str, str]:
    """exp(x - max) / sum, or x - max - log(sum), along the axis."""
    out = Writer(f"f32_{'log_' if log else ''}softmax_{'run' if run else 'across'}__cuda", ARGUMENTS, "x, y: plain")
    result = "v - shift" if log else "exp(v - shift) * scale"
    finish = "shift = shift + log(acc)" if log else "scale = 1.0 / acc"
    if run:
        warp_rows(out, "outer")
        fold_run(out, "shift", "row * axis", MAX, LEAST, lambda v: v)
        fold_run(out, "acc", "row * axis", ADD, "f32(0.0)", lambda v: f"exp({v} - shift)")
        out(finish)
        with out.loop("turn", "turns"):
            out("i = turn * 32 + lane", "live = ok & (i < axis)", "v = load_f32(live, x, row * axis + i)")
            out(f"store_f32(live, y, row * axis + i, {result})")
        return out.finish()
    out.item("item", "outer * inner")
    out.split("item", "inner", "o", "at")
    out("base = o * axis * inner + at", f"shift = {LEAST}", "acc = f32(0.0)")
    for line in ("shift = maximum(shift, v)", "acc = acc + exp(v - shift)"):
        with out.loop("i", "axis"):
            out("v = load_f32(ok, x, base + i * inner)", line)
    out(finish)
    with out.loop("i", "axis"):
        out("v = load_f32(ok, x, base + i * inner)", f"store_f32(ok, y, base + i * inner, {result})")
    return out.finish()


def emit_argmax(kind: str, last: bool) -> tuple[str, str]:
    """Index of the largest element along the axis; NaN counts as largest, as in NumPy."""
    out = Writer(
        f"{kind}_argmax_{'last' if last else 'first'}__cuda", [f"x: {kind}*", "y: i64*", *ARGUMENTS[2:]], "x, y: plain"
    )
    out.item("item", "outer * inner")
    out.split("item", "inner", "o", "at")
    out("base = o * axis * inner + at", f"best = read_{kind}(ok, x, base)", "found = i32(0)")
    with out.loop("i", "axis"):
        out(f"v = read_{kind}(ok, x, base + i * inner)", f"more = scalar_beats_{'last' if last else 'first'}(v, best)")
        out("found = select(more, i, found)", "best = scalar_choose(more, v, best)")
    out("write_index(ok, y, item, found)")
    return out.finish()


# ---- lowering ------------------------------------------------------------------------------------------------------


def lower_reduce(asm: CudaAssembler, node: Node) -> None:
    """Reduce runs of adjacent axes one after another; whole maps in planes where the value lies in planes."""
    name = str(node.inputs[0])
    type = asm.graph[name].type
    if type.dtype is not DType.F32:
        raise TargetError(f"{node}: CUDA reduces float32, found {type}", hint="cast it, or use target='reference'")
    axes = sorted(axis % type.rank for axis in node.attrs["axes"])
    if axes == [2, 3] and type.rank == 4 and node.op in {"reduce_mean", "reduce_max"} and asm.has_planes(name):
        lower_global(asm, node)
        return
    value = asm.plain(name)
    shape = list(type.shape)
    if not axes and node.op == "reduce_l2":  # the norm of one element
        value = asm.new_plain(node.name, node.type)
        sizes = (type.elements, 1, 1)
        asm.step(
            emit_reduce(node.op, True), "along", node.name, (asm.plain(name),), (value,), {"sizes": sizes, "run": True}
        )
    while axes:
        last = axes.pop()
        first = last
        while axes and axes[-1] == first - 1:
            first = axes.pop()
        outer, axis, inner = (product(s) for s in (shape[:first], shape[first : last + 1], shape[last + 1 :]))
        shape[first : last + 1] = [1] * (last + 1 - first)
        result = TensorType(DType.F32, tuple(shape))
        target = asm.new_plain(node.name if not axes else f"{node.name}.part", node.type if not axes else result)
        params = {"sizes": (outer, axis, inner), "run": inner == 1}
        asm.step(emit_reduce(node.op, inner == 1), "along", node.name, (value,), (target,), params)
        value = target
    if not node.attrs["axes"]:
        value = Plain(node.name, value.buffer, node.type)
    asm.define(value)


def lower_along(asm: CudaAssembler, node: Node) -> None:
    """softmax, log_softmax and argmax."""
    x = asm.plain(str(node.inputs[0]))
    kind = x.type.dtype
    axis = node.attrs["axis"] % x.type.rank
    sizes: tuple[Size, ...] = (product(x.type.shape[:axis]), x.type.shape[axis], product(x.type.shape[axis + 1 :]))
    run = False
    if node.op == "argmax":
        if kind in {DType.F16, DType.BOOL}:
            raise TargetError(f"{node}: no argmax over {kind}", hint="cast it to float32")
        kernel = emit_argmax(str(kind), node.attrs["last"])
    else:
        if kind is not DType.F32:
            raise TargetError(f"{node}: {node.op} over {kind}", hint="cast it to float32")
        run = sizes[2] == 1
        kernel = emit_softmax(node.op == "log_softmax", run)
    y = asm.new_plain(node.name, node.type)
    asm.step(kernel, "along", node.name, (x,), (y,), {"sizes": sizes, "run": run})
    asm.define(y)


def along_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of every kernel over [outer, axis, inner]: a warp a row, or a thread an element of the rest."""
    x, y = step.reads[0], step.writes[0]
    assert isinstance(x, Plain) and isinstance(y, Plain)
    outer, axis, inner = (bound.size(s) for s in step.params["sizes"])
    total = outer * 32 if step.params.get("run") else outer * inner
    return bound.items(step, total, [bound.at(x), bound.at(y), outer, axis, inner])
