"""Values [N, H, W, C] whose planes stay those of [N, C, H, W]: transpositions between the two, and what lies between.

A network that turns a map to normalise its channels, multiplies them, and turns it back moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from convc.backends import shaping
from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word
from convc.backends.cpu.activations import float32, float_word
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.pack import append_pack, in_turn
from convc.backends.cpu.reductions import across
from convc.backends.cpu.writer import Writer
from convc.backends.prepare import FIRST, LAST
from convc.backends.program import Planes, Step, Turned
from convc.ir.graph import Node
from convc.types import DType

ARGUMENTS = [
    "x", "y", "x_planes", "y_planes", "gamma", "beta", "count", "left", "images", "rows", "width",
    "x_image", "x_row", "y_image", "y_row",
]  # fmt: skip


def lower_transpose(asm: Assembler, node: Node, isa: Isa) -> None:
    """transpose: channels to the end and back are another reading of planes; the rest is a copy by index."""
    x_name, perm = str(node.inputs[0]), tuple(node.attrs["perm"])
    type = asm.graph[x_name].type
    whole = type.rank == 4 and type.dtype is DType.F32
    if whole and perm == LAST and asm.has_planes(x_name):
        x = asm.planes(x_name)
        if in_turn(x):
            asm.define(Turned(node.name, replace(x, name=node.name), node.type))
            return
    if whole and perm == FIRST and isinstance(type.shape[3], int):
        turned = turned_of(asm, x_name)
        if turned is not None:
            asm.define(replace(turned.planes, name=node.name))
            return
        if type.shape[3] * 2 > isa.lanes:  # fewer channels are read one by one, from planes of one lane
            y = asm.new_planes(node.name, node.type)
            append_pack(asm, isa, node.name, asm.plain(x_name), y, last=True)
            asm.define(y)
            return
    shaping.lower_transpose(asm, node)


def turned_of(asm: Assembler, name: str) -> Turned | None:
    """The value as planes of the same with channels first, where it is there."""
    return next((layout for layout in asm.layouts(name) if isinstance(layout, Turned)), None)


def append_norm_last(asm: Assembler, node: Node, isa: Isa) -> bool:
    """Append layer_norm over the channels of [N, H, W, C] on its planes; whether it could."""
    turned, axis = turned_of(asm, str(node.inputs[0])), node.attrs["axis"] % node.type.rank
    affine = [asm.graph[name] if name is not None else None for name in (node.input("gamma"), node.input("beta"))]
    if turned is None or axis != 3:
        return False
    x = turned.planes
    if not _full(x):
        return False
    if any(one is not None and (one.op != "constant" or one.type.shape != (x.channels,)) for one in affine):
        return False
    slots, packed = x.slots().reshape(-1), []
    for slot, one, value in zip(("gamma", "beta"), affine, (1.0, 0.0), strict=True):
        values = float32(one.array) if one is not None else np.full(x.channels, value, np.float32)
        packed.append(asm.pack(f"{node.name}.{slot}", np.where(slots >= 0, values[slots], np.float32(0))))
    type = replace(node.type, shape=(x.batch, x.channels, x.height, x.width))
    y = asm.new_planes(node.name, type, places=x.places)
    params = {"affine": packed, "epsilon": node.attrs["epsilon"], "in_place": 0}
    asm.step(emit(isa), "norm_last", node.name, (x,), (y,), params)
    asm.define(Turned(node.name, y, node.type))
    return True


def _full(x: Planes) -> bool:
    """Whether all lanes hold channels, but for the last ones of the last plane: not so where maps were joined."""
    return bool((x.slots()[:-1] >= 0).all())


def emit(isa: Isa) -> tuple[str, str]:
    """(x - mean) / sqrt(var + epsilon) * gamma + beta for every pixel over all lanes of `count` planes, of which the
    last has `left` channels; two passes for the variance.
    """
    lanes, vector = isa.lanes, isa.lanes * 4
    out = Writer(f"f32_norm_last__{isa.name}", ARGUMENTS, "x, y: bases of planes; the next word: epsilon")
    out(f"epsilon = vec_splat(a + {8 * len(ARGUMENTS)}, {lanes})", f"zero = vec_of(0.0, {lanes})")
    out("full = count - 1", f"share = vec_of(1.0 / (full * {lanes} + left), {lanes})")
    with out.share("images * rows", "line"):
        out("image = line // rows", "row = line - image * rows")
        out("source = x + image * x_image + row * x_row", "to = y + image * y_image + row * y_row")
        with out.block("for i in range(width)"):
            out(f"at = source + i * {vector}")
            for goal, change in (("mean", "v"), ("var", "v_mul(v_sub(v, mean), v_sub(v, mean))")):
                out("acc = zero")
                with out.block("for plane in range(full)"):
                    out(f"v = vec_load(at + load_i64(x_planes, plane), {lanes})", f"acc = v_add(acc, {change})")
                out(f"v = vec_load(at + load_i64(x_planes, full), {lanes})")
                out(f"acc = v_add(acc, vec_keep_first({change}, left, zero))")
                across(out, lanes, "v_add")
                out(f"{goal} = v_mul(acc, share)")
            out("scale = v_reciprocal(v_sqrt(v_add(var, epsilon)))")
            with out.block("for plane in range(count)"):
                out(f"g = v_mul(vec_load(gamma + plane * {vector}, {lanes}), scale)")
                out(f"v = v_sub(vec_load(at + load_i64(x_planes, plane), {lanes}), mean)")
                out(f"v = vec_fma(v, g, vec_load(beta + plane * {vector}, {lanes}))")
                out(f"vec_store(to + load_i64(y_planes, plane) + i * {vector}, v)")
    return out.finish()


def arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit`."""
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.geometry(source), bound.geometry(target)
    gamma, beta = (bound.constant(name) for name in step.params["affine"])
    last = int((source.slots()[-1] >= 0).sum())
    return [
        bound.arena, bound.arena, bound.table(x.planes), bound.table(y.planes), gamma, beta, len(x.planes), last,
        x.images, x.height, x.width, x.image, x.row, y.image, y.row, float_word(step.params["epsilon"]),
    ]  # fmt: skip
