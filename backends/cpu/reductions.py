"""Reductions, softmax and argmax over one run of axes of a plain tensor, seen as [outer, axis, inner]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.pooling import LEAST, lower_global
from convc.backends.cpu.writer import Writer
from convc.backends.program import Plain, Step
from convc.dims import Size
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import DType, TensorType, product

REDUCE: dict[str, tuple[str, str, str]] = {
    "reduce_sum": ("v_add", "0.0", ""), "reduce_mean": ("v_add", "0.0", "mean"), "reduce_max": ("v_max", LEAST, ""),
    "reduce_min": ("v_min", "1e999", ""), "reduce_prod": ("v_mul", "1.0", ""), "reduce_l2": ("v_add", "0.0", "l2"),
}  # fmt: skip
"""Combining function, neutral element, and what is done to the elements or the result."""


def emit_reduce(isa: Isa, op: str, run: bool) -> tuple[str, str]:
    """One value for each [outer, inner]. `run`: inner is 1, and the axis itself is contiguous."""
    combine, neutral, extra = REDUCE[op]
    name = f"f32_{op}_{'run' if run else 'across'}__{isa.name}"
    out = Writer(name, ["x", "y", "outer", "axis", "inner"], "x, y: plain")
    lanes = isa.lanes
    out(f"none = vec_of({neutral}, {lanes})")
    square = (lambda v: f"v_mul({v}, {v})") if extra == "l2" else (lambda v: v)

    def finish(value: str) -> str:
        if extra == "mean":
            return f"v_mul({value}, vec_of(1.0 / axis, {lanes}))"
        return f"v_sqrt({value})" if extra == "l2" else value

    if run:
        with out.share("outer", "o"):
            fold_run(out, isa, "x + o * axis * 4", "axis", combine, "none", square)
            out(f"vec_store_first(y + o * 4, {finish('acc')}, 1)")
        return out.finish()
    out(f"blocks = (inner + {lanes - 1}) // {lanes}")
    with out.share("outer * blocks", "item"):
        out("o = item // blocks", f"at = (item - o * blocks) * {lanes}", "count = inner - at", "acc = none")
        with out.block("for i in range(axis)"):
            out(
                f"v = vec_load_first(x + ((o * axis + i) * inner + at) * 4, count, {lanes})",
                f"acc = {combine}(acc, {square('v')})",
            )
        out(f"vec_store_first(y + (o * inner + at) * 4, {finish('acc')}, count)")
    return out.finish()


def fold_run(
    out: Writer, isa: Isa, start: str, length: str, combine: str, neutral: str, change: Callable[[str], str]
) -> None:
    """Fold `length` contiguous floats into every lane of `acc`: lane by lane, then across lanes in a fixed order."""
    lanes = isa.lanes
    out("acc = " + neutral, f"full = {length} // {lanes} * {lanes}")
    with out.block(f"for i in range(0, full, {lanes})"):
        out(f"v = vec_load({start} + i * 4, {lanes})", f"acc = {combine}(acc, {change('v')})")
    with out.block(f"if full < {length}"):
        out(f"v = vec_load_first({start} + full * 4, {length} - full, {lanes})")
        out(f"acc = {combine}(acc, vec_keep_first({change('v')}, {length} - full, {neutral}))")
    across(out, lanes, combine)


def across(out: Writer, lanes: int, combine: str) -> None:
    """Fold each run of `lanes` lanes of `acc` in halves; the result is in every lane of it."""
    distance = 1
    while distance < lanes:
        out(f"acc = {combine}(acc, vec_swapped(acc, {distance}))")
        distance *= 2


def emit_softmax(isa: Isa, log: bool, run: bool) -> tuple[str, str]:
    """exp(x - max) / sum, or x - max - log(sum), along the axis. y keeps exponentials until their sum is known.

    Where one element is NaN, or the largest infinite, all results are NaN: the sum begins with 0 * max.
    """
    name = f"f32_{'log_' if log else ''}softmax_{'run' if run else 'across'}__{isa.name}"
    out = Writer(name, ["x", "y", "outer", "axis", "inner"], "x, y: plain")
    lanes = isa.lanes
    out(f"least = vec_of({LEAST}, {lanes})", f"zero = vec_of(0.0, {lanes})", f"one = vec_of(1.0, {lanes})")
    total = "shift = v_add(shift, v_log(acc))" if log else "scale = v_div(one, acc)"
    last = ("x", "v_sub(v, shift)") if log else ("y", "v_mul(v, scale)")
    if run:
        with out.share("outer", "o"):
            out("row = o * axis * 4", f"full = axis // {lanes} * {lanes}", "left = axis - full")
            fold_run(out, isa, "x + row", "axis", "v_max", "least", lambda v: v)
            out("shift = acc", "acc = v_mul(zero, shift)")
            with out.block(f"for i in range(0, full, {lanes})"):
                out(f"v = v_exp_down(v_sub(vec_load(x + row + i * 4, {lanes}), shift))", "acc = v_add(acc, v)")
                out("vec_store(y + row + i * 4, v)")
            with out.block("if left > 0"):
                out(f"v = v_exp_down(v_sub(vec_load_first(x + row + full * 4, left, {lanes}), shift))")
                out("acc = v_add(acc, vec_keep_first(v, left, zero))", "vec_store_first(y + row + full * 4, v, left)")
            across(out, lanes, "v_add")
            out(total)
            with out.block(f"for i in range(0, full, {lanes})"):
                out(f"v = vec_load({last[0]} + row + i * 4, {lanes})", f"vec_store(y + row + i * 4, {last[1]})")
            with out.block("if left > 0"):
                out(f"v = vec_load_first({last[0]} + row + full * 4, left, {lanes})")
                out(f"vec_store_first(y + row + full * 4, {last[1]}, left)")
        return out.finish()
    out(f"blocks = (inner + {lanes - 1}) // {lanes}")
    with out.share("outer * blocks", "item"):
        out("o = item // blocks", f"at = (item - o * blocks) * {lanes}", "count = inner - at")
        out("base = (o * axis * inner + at) * 4", "shift = least")
        with out.block("for i in range(axis)"):
            out(f"shift = v_max(shift, vec_load_first(x + base + i * inner * 4, count, {lanes}))")
        out("acc = v_mul(zero, shift)")
        with out.block("for i in range(axis)"):
            out(f"v = v_exp_down(v_sub(vec_load_first(x + base + i * inner * 4, count, {lanes}), shift))")
            out("acc = v_add(acc, v)", "vec_store_first(y + base + i * inner * 4, v, count)")
        out(total)
        with out.block("for i in range(axis)"):
            out(f"v = vec_load_first({last[0]} + base + i * inner * 4, count, {lanes})")
            out(f"vec_store_first(y + base + i * inner * 4, {last[1]}, count)")
    return out.finish()


def emit_argmax(isa: Isa, kind: str, last: bool) -> tuple[str, str]:
    """Index of the largest element along the axis; NaN counts as largest, as in NumPy."""
    out = Writer(
        f"{kind}_argmax_{'last' if last else 'first'}__{isa.name}", ["x", "y", "outer", "axis", "inner"], "x, y: plain"
    )
    size = {"8": 1, "6": 2, "2": 4, "4": 8}[kind[-1]]
    with out.share("outer * inner", "item"):
        out(
            "o = item // inner",
            f"at = x + (o * axis * inner + item - o * inner) * {size}",
            f"best = get_{kind}(at)",
            "where = 0",
        )
        with out.block("for i in range(1, axis)"):
            out(f"v = get_{kind}(at + i * inner * {size})")
            with out.block(f"if {'v >= best or v != v' if last else 'v > best or (v != v and best == best)'}"):
                out("best = v", "where = i")
        out("put_i64(y + item * 8, where)")
    return out.finish()


# ---- lowering ------------------------------------------------------------------------------------------------------


def lower_reduce(asm: Assembler, node: Node, isa: Isa) -> None:
    """Reduce runs of adjacent axes one after another; whole maps in planes where the value lies in planes."""
    name = str(node.inputs[0])
    type = asm.graph[name].type
    if type.dtype is not DType.F32:
        raise TargetError(f"{node}: the CPU reduces float32, found {type}", hint="cast it, or use target='reference'")
    axes = sorted(axis % type.rank for axis in node.attrs["axes"])
    if axes == [2, 3] and type.rank == 4 and node.op in {"reduce_mean", "reduce_max"} and asm.has_planes(name):
        lower_global(asm, node, isa)
        return
    value = asm.plain(name)
    shape = list(type.shape)
    if not axes and node.op == "reduce_l2":  # the norm of one element
        value = asm.new_plain(node.name, node.type)
        sizes = (type.elements, 1, 1)
        asm.step(emit_reduce(isa, node.op, True), "along", node.name, (asm.plain(name),), (value,), {"sizes": sizes})
    while axes:
        last = axes.pop()
        first = last
        while axes and axes[-1] == first - 1:
            first = axes.pop()
        outer, axis, inner = (product(s) for s in (shape[:first], shape[first : last + 1], shape[last + 1 :]))
        shape[first : last + 1] = [1] * (last + 1 - first)
        result = TensorType(DType.F32, tuple(shape))
        target = asm.new_plain(node.name if not axes else f"{node.name}.part", node.type if not axes else result)
        kernel = emit_reduce(isa, node.op, inner == 1)
        asm.step(kernel, "along", node.name, (value,), (target,), {"sizes": (outer, axis, inner)})
        value = target
    if not node.attrs["axes"]:
        value = Plain(node.name, value.buffer, node.type)
    asm.define(value)


def lower_along(asm: Assembler, node: Node, isa: Isa) -> None:
    """softmax, log_softmax and argmax."""
    x = asm.plain(str(node.inputs[0]))
    kind = x.type.dtype
    axis = node.attrs["axis"] % x.type.rank
    sizes: tuple[Size, ...] = (product(x.type.shape[:axis]), x.type.shape[axis], product(x.type.shape[axis + 1 :]))
    if node.op == "argmax":
        if kind in {DType.F16, DType.BOOL}:
            raise TargetError(f"{node}: no argmax over {kind}", hint="cast it to float32")
        kernel = emit_argmax(isa, str(kind), node.attrs["last"])
    else:
        if kind is not DType.F32:
            raise TargetError(f"{node}: {node.op} over {kind}", hint="cast it to float32")
        kernel = emit_softmax(isa, node.op == "log_softmax", sizes[2] == 1)
    y = asm.new_plain(node.name, node.type)
    asm.step(kernel, "along", node.name, (x,), (y,), {"sizes": sizes})
    asm.define(y)


def along_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of every kernel over [outer, axis, inner]."""
    x, y = step.reads[0], step.writes[0]
    assert isinstance(x, Plain) and isinstance(y, Plain)
    return [bound.address(x), bound.address(y), *(bound.size(s) for s in step.params["sizes"])]
