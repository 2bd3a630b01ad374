"""Normalisation over runs of a plain tensor (layer, group, instance), and across channels (LRN)."""

from __future__ import annotations

from collections.abc import Sequence

from convc.backends.cuda.layout import CudaAssembler
from convc.backends.cuda.plan import Argument, Launch, LaunchPlan, elements
from convc.backends.cuda.reductions import ADD, fold_run, warp_rows
from convc.backends.cuda.writer import Writer
from convc.backends.operands import append_norm
from convc.backends.program import Plain, Step
from convc.ir.graph import Node


def emit_norm(by_element: bool) -> tuple[str, str]:
    """(x - mean) / sqrt(var + epsilon) * gamma + beta over `parts` runs of `run` floats, two passes for the variance.

    gamma and beta have a value for each element, or for each run, of (row % groups). A warp takes a row.
    """
    arguments = [
        "x: f32*",
        "y: f32*",
        "gamma: f32*",
        "beta: f32*",
        "total: i32",
        "groups: i32",
        "parts: i32",
        "run: i32",
    ]
    name = f"f32_norm_by_{'element' if by_element else 'channel'}__cuda"
    out = Writer(name, [*arguments, "epsilon: f32"], "plain")
    out("axis = parts * run")
    warp_rows(out, "total")
    out("share = 1.0 / to_f32(axis)", "kind = urem(row, groups)")
    fold_run(out, "mean", "row * axis", ADD, "f32(0.0)", lambda v: v)
    out("mean = mean * share")
    fold_run(out, "spread", "row * axis", ADD, "f32(0.0)", lambda v: f"({v} - mean) * ({v} - mean)")
    out("scale = 1.0 / sqrt(fma(spread, share, epsilon))")
    with out.loop("turn", "turns"):
        out("i = turn * 32 + lane", "live = ok & (i < axis)", "v = load_f32(live, x, row * axis + i)")
        out("at = kind * axis + i" if by_element else "at = kind * parts + udiv(select(live, i, 0), run)")
        out("g = load_f32(live, gamma, at)", "b = load_f32(live, beta, at)")
        out("store_f32(live, y, row * axis + i, fma(v - mean, g * scale, b))")
    return out.finish()


def emit_lrn(root: bool) -> tuple[str, str]:
    """X / (bias + alpha / size * sum of x^2 over neighbouring channels)^beta. `root`: beta is 3/4, by square roots."""
    arguments = ["x: f32*", "y: f32*", "total: i32", "channels: i32", "run: i32", "before: i32", "window: i32"]
    name = f"f32_lrn{'_three_quarters' if root else ''}__cuda"
    out = Writer(name, [*arguments, "alpha: f32", "bias: f32", "beta: f32"], "x, y: plain")
    out.item("item", "total")
    out.split("item", "run", "line", "at")
    out("c = urem(line, channels)", "acc = f32(0.0)")
    with out.loop("i", "window"):
        out("k = i - before", "v = load_f32(ok & inside(c + k, channels), x, item + k * run)", "acc = fma(v, v, acc)")
    out("t = fma(acc, alpha, bias)", "root = sqrt(t)")
    out("strength = root * sqrt(root)" if root else "strength = power(t, beta)")
    out("v = load_f32(ok, x, item)", "store_f32(ok, y, item, v / strength)")
    return out.finish()


def lower_norm(asm: CudaAssembler, node: Node) -> None:
    """layer_norm, instance_norm and group_norm."""
    append_norm(asm, node, emit_norm)


def lower_lrn(asm: CudaAssembler, node: Node) -> None:
    """Lrn."""
    x = asm.plain(str(node.inputs[0]))
    y = asm.new_plain(node.name, node.type)
    asm.step(emit_lrn(node.attrs["beta"] == 0.75), "lrn", node.name, (x,), (y,), {"attrs": node.attrs})
    asm.define(y)


def norm_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_norm`."""
    x, y = step.reads[0], step.writes[0]
    assert isinstance(x, Plain) and isinstance(y, Plain)
    arguments: list[Argument] = [bound.at(x), bound.at(y)]
    for which in step.params["affine"]:
        source = step.reads[which] if isinstance(which, int) else None
        arguments.append(bound.at(source) if isinstance(source, Plain) else bound.packed(which))
    sizes = [bound.size(s) for s in step.params["sizes"]]
    return bound.items(step, sizes[0] * 32, [*arguments, *sizes, step.params["epsilon"]])


def lrn_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_lrn`."""
    x, y = step.reads[0], step.writes[0]
    assert isinstance(x, Plain) and isinstance(y, Plain)
    attrs, shape = step.params["attrs"], bound.shape(x)
    size = attrs["size"]
    total = elements(shape)
    arguments: list[Argument] = [bound.at(x), bound.at(y), total, shape[1], elements(shape[2:]), (size - 1) // 2, size]
    return bound.items(step, total, [*arguments, attrs["alpha"] / size, attrs["bias"], attrs["beta"]])
