"""Normalisation over runs of a plain tensor (layer, group, instance), and across channels (LRN)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word
from convc.backends.cpu.activations import float_word
from convc.backends.cpu.channels_last import append_norm_last
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.norm_planes import append_norm_planes
from convc.backends.cpu.reductions import across
from convc.backends.cpu.writer import Writer
from convc.backends.operands import append_norm
from convc.backends.program import Plain, Step
from convc.ir.graph import Node


def emit_norm(isa: Isa, by_element: bool) -> tuple[str, str]:
    """(x - mean) / sqrt(var + epsilon) * gamma + beta over `parts` runs of `run` floats, two passes for the variance.

    gamma and beta have a value for each element, or for each run, of (row % groups).
    """
    arguments = ["x", "y", "gamma", "beta", "rows", "groups", "parts", "run"]
    name = f"f32_norm_by_{'element' if by_element else 'channel'}__{isa.name}"
    out = Writer(name, arguments, "x, y, gamma, beta: plain; the next word is epsilon")
    lanes = isa.lanes
    out(f"epsilon = vec_splat(a + {8 * len(arguments)}, {lanes})", f"zero = vec_of(0.0, {lanes})")
    out("length = parts * run", f"share = vec_of(1.0 / length, {lanes})", f"full = length // {lanes} * {lanes}")
    with out.share("rows", "row"):
        out("source = x + row * length * 4", "to = y + row * length * 4")
        for goal, change in (("mean", "v"), ("var", "v_mul(v_sub(v, mean), v_sub(v, mean))")):
            out("acc = zero")
            with out.block(f"for i in range(0, full, {lanes})"):
                out(f"v = vec_load(source + i * 4, {lanes})", f"acc = v_add(acc, {change})")
            with out.block("if full < length"):
                out(f"v = vec_load_first(source + full * 4, length - full, {lanes})")
                out(f"acc = v_add(acc, vec_keep_first({change}, length - full, zero))")
            across(out, lanes, "v_add")
            out(f"{goal} = v_mul(acc, share)")
        out("scale = v_reciprocal(v_sqrt(v_add(var, epsilon)))")
        if by_element:
            out("gs = gamma + (row % groups) * length * 4", "bs = beta + (row % groups) * length * 4")
        with out.block("for part in range(parts)"):
            if not by_element:
                out("channel = (row % groups) * parts + part")
                out(
                    f"g = v_mul(vec_splat(gamma + channel * 4, {lanes}), scale)",
                    f"b = vec_splat(beta + channel * 4, {lanes})",
                )
            with out.block(f"for i in range(0, run, {lanes})"):
                out("at = part * run + i", "count = run - i", f"v = vec_load_first(source + at * 4, count, {lanes})")
                if by_element:
                    out(f"g = v_mul(vec_load_first(gs + at * 4, count, {lanes}), scale)")
                    out(f"b = vec_load_first(bs + at * 4, count, {lanes})")
                out("vec_store_first(to + at * 4, vec_fma(v_sub(v, mean), g, b), count)")
    return out.finish()


def emit_lrn(isa: Isa, root: bool) -> tuple[str, str]:
    """X / (bias + alpha / size * sum of x^2 over neighbouring channels)^beta. `root`: beta is 3/4, by square roots."""
    arguments = ["x", "y", "images", "channels", "run", "before", "after"]
    out = Writer(
        f"f32_lrn{'_three_quarters' if root else ''}__{isa.name}", arguments, "x, y: plain; then alpha/size, bias, beta"
    )
    lanes = isa.lanes
    for index, name in enumerate(("alpha", "bias", "beta")):
        out(f"{name} = vec_splat(a + {8 * (len(arguments) + index)}, {lanes})")
    with out.share("images * channels", "item"):
        out(
            "c = item % channels",
            "low = c - before if c > before else 0",
            "high = c + after + 1",
            "if high > channels: high = channels",
        )
        out("source = x + (item - c) * run * 4")
        with out.block(f"for i in range(0, run, {lanes})"):
            out("count = run - i", f"acc = vec_of(0.0, {lanes})")
            with out.block("for k in range(low, high)"):
                out(f"v = vec_load_first(source + (k * run + i) * 4, count, {lanes})", "acc = vec_fma(v, v, acc)")
            out("t = vec_fma(acc, alpha, bias)", "root = v_sqrt(t)")
            out("power = v_mul(root, v_sqrt(root))" if root else "power = v_pow(t, beta)")
            out(f"v = vec_load_first(source + (c * run + i) * 4, count, {lanes})")
            out("vec_store_first(y + (item * run + i) * 4, v_div(v, power), count)")
    return out.finish()


def lower_norm(asm: Assembler, node: Node, isa: Isa) -> None:
    """layer_norm, instance_norm and group_norm."""
    on_planes = append_norm_last if node.op == "layer_norm" else append_norm_planes
    if not on_planes(asm, node, isa):
        append_norm(asm, node, partial(emit_norm, isa))


def lower_lrn(asm: Assembler, node: Node, isa: Isa) -> None:
    """Lrn."""
    x = asm.plain(str(node.inputs[0]))
    y = asm.new_plain(node.name, node.type)
    asm.step(emit_lrn(isa, node.attrs["beta"] == 0.75), "lrn", node.name, (x,), (y,), {"attrs": node.attrs})
    asm.define(y)


def norm_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_norm`."""
    x, y = step.reads[0], step.writes[0]
    assert isinstance(x, Plain) and isinstance(y, Plain)
    affine: list[Word] = []
    for which in step.params["affine"]:
        source = step.reads[which] if isinstance(which, int) else None
        affine.append(bound.address(source) if isinstance(source, Plain) else bound.constant(which))
    return [
        bound.address(x), bound.address(y), *affine,
        *(bound.size(s) for s in step.params["sizes"]), float_word(step.params["epsilon"]),
    ]  # fmt: skip


def lrn_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_lrn`."""
    x, y = step.reads[0], step.writes[0]
    assert isinstance(x, Plain) and isinstance(y, Plain)
    attrs, shape = step.params["attrs"], bound.shape(x)
    size = attrs["size"]
    return [
        bound.address(x), bound.address(y), shape[0], shape[1], int(np.prod(shape[2:])), (size - 1) // 2, size // 2,
        float_word(attrs["alpha"] / size), float_word(attrs["bias"]), float_word(attrs["beta"]),
    ]  # fmt: skip
