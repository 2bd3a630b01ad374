"""Instance and group normalisation on planes: the lanes of a plane are channels, so statistics need no other layout.

A group is one lane (instance normalisation), an even part of a plane's lanes, or whole planes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word
from convc.backends.cpu.activations import float32, float_word
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.reductions import across
from convc.backends.cpu.writer import Writer
from convc.backends.program import Planes, Step, dense_places
from convc.ir.graph import Node

ARGUMENTS = [
    "x", "y", "x_planes", "y_planes", "gamma", "beta", "images", "groups", "per_group", "rows", "width",
    "x_image", "x_row", "y_image", "y_row",
]  # fmt: skip
SUMS = 4
"""Sums at a time, so that none waits for the one before."""


def append_norm_planes(asm: Assembler, node: Node, isa: Isa) -> bool:
    """Append instance_norm or group_norm where its input lies in planes, channels in order; whether it could."""
    x_name, channels = str(node.inputs[0]), node.type.shape[1]
    size = 1 if node.op == "instance_norm" else int(str(channels)) // node.attrs["groups"]
    whole = isa.lanes % size == 0 or size % isa.lanes == 0
    if node.type.rank != 4 or not whole or not asm.has_planes(x_name):
        return False
    x = asm.planes(x_name)
    affine = [asm.graph[name] for name in node.operands[1:]]
    ordered = np.array_equal(x.places, dense_places(x.channels, isa.lanes))
    if not ordered or any(one.op != "constant" or not one.value.present for one in affine):
        return False
    padded = [np.zeros(len(x.planes) * isa.lanes, np.float32) for _ in affine]
    for values, one in zip(padded, affine, strict=True):
        values[: x.channels] = float32(one.array)
    packed = [asm.pack(f"{node.name}.{slot}", values) for slot, values in zip(("gamma", "beta"), padded, strict=True)]
    y = asm.new_planes(node.name, node.type)
    params = {"affine": packed, "size": size, "epsilon": node.attrs["epsilon"], "in_place": 0}
    asm.step(emit(isa, min(size, isa.lanes)), "norm_planes", node.name, (x,), (y,), params)
    asm.define(y)
    return True


def emit(isa: Isa, lanes_of_group: int) -> tuple[str, str]:
    """(x - mean) / sqrt(var + epsilon) * gamma + beta, two passes for the variance; sums by rows, then of rows."""
    lanes, vector = isa.lanes, isa.lanes * 4
    out = Writer(f"f32_norm_planes_{lanes_of_group}lanes__{isa.name}", ARGUMENTS, "x, y: bases; the next word: epsilon")
    out(f"epsilon = vec_splat(a + {8 * len(ARGUMENTS)}, {lanes})", f"zero = vec_of(0.0, {lanes})")
    out(f"share = vec_of(1.0 / (per_group * rows * width * {lanes_of_group}), {lanes})")
    with out.share("images * groups", "item"):
        out("image = item // groups", "first = (item - image * groups) * per_group", "stop = first + per_group")
        for goal, change in (("mean", "v"), ("var", "v_mul(v_sub(v, mean), v_sub(v, mean))")):
            out("acc = zero")
            with out.block("for plane in range(first, stop)"), out.block("for row in range(rows)"):
                out("at = x + load_i64(x_planes, plane) + image * x_image + row * x_row")
                _sum_row(out, lanes, change)
                out("acc = v_add(acc, s0)")
            across(out, lanes_of_group, "v_add")
            out(f"{goal} = v_mul(acc, share)")
        out("scale = v_reciprocal(v_sqrt(v_add(var, epsilon)))")
        with out.block("for plane in range(first, stop)"):
            out(f"g = v_mul(vec_load(gamma + plane * {vector}, {lanes}), scale)")
            out(f"b = vec_load(beta + plane * {vector}, {lanes})")
            with out.block("for row in range(rows)"):
                out("at = x + load_i64(x_planes, plane) + image * x_image + row * x_row")
                out("to = y + load_i64(y_planes, plane) + image * y_image + row * y_row")
                with out.block("for i in range(width)"):
                    out(f"v = v_sub(vec_load(at + i * {vector}, {lanes}), mean)")
                    out(f"vec_store(to + i * {vector}, vec_fma(v, g, b))")
    return out.finish()


def _sum_row(out: Writer, lanes: int, change: str) -> None:
    """s0: the sum of `change` of every v of a row of `width` vectors."""
    sums, vector = [f"s{i}" for i in range(SUMS)], lanes * 4
    out(*(f"{one} = zero" for one in sums), f"even = width // {SUMS} * {SUMS}")
    with out.block(f"for i in range(0, even, {SUMS})"):
        for index, one in enumerate(sums):
            out(f"v = vec_load(at + i * {vector} + {index * vector}, {lanes})", f"{one} = v_add({one}, {change})")
    with out.block("for i in range(even, width)"):
        out(f"v = vec_load(at + i * {vector}, {lanes})", f"s0 = v_add(s0, {change})")
    out("s0 = v_add(v_add(s0, s1), v_add(s2, s3))")


def arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit`."""
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.geometry(source), bound.geometry(target)
    per_group = max(1, step.params["size"] // source.lanes)
    gamma, beta = (bound.constant(name) for name in step.params["affine"])
    return [
        bound.arena, bound.arena, bound.table(x.planes), bound.table(y.planes), gamma, beta, x.images,
        len(x.planes) // per_group, per_group, x.height, x.width, x.image, x.row, y.image, y.row,
        float_word(step.params["epsilon"]),
    ]  # fmt: skip
