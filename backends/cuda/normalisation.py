"""Normalisation over runs of a plain tensor (layer, group, instance), and across channels (LRN)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.cuda.layout import CudaAssembler
from convc.backends.cuda.plan import Argument, Launch, LaunchPlan, elements
from convc.backends.cuda.reductions import ADD, fold_run, warp_rows
from convc.backends.cuda.writer import Writer
from convc.backends.program import Plain, Step
from convc.dims import Size, concrete
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import product


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
    x = asm.plain(str(node.inputs[0]))
    shape = x.type.shape
    sizes: tuple[Size, ...]
    by_element = False
    if node.op == "layer_norm":
        axis = node.attrs["axis"] % len(shape)
        first = _first_varying(asm, node)
        by_element = first < len(shape)
        first = min(first, axis) if by_element else len(shape)
        sizes = (product(shape[:axis]), product(shape[first:axis]), 1, product(shape[axis:]))
        if any(not isinstance(s, int) for s in shape[first:]):
            raise TargetError(f"{node}: gamma and beta span symbolic sizes of {x.type}", hint="give input_shapes=")
        count = [concrete(s, {}) for s in shape[first:]]
    else:
        groups = node.attrs["groups"] if node.op == "group_norm" else shape[1]
        sizes = (shape[0] * groups, groups, shape[1] // groups, product(shape[2:]))
        count = [concrete(shape[1], {})]
    affine: list[str | int] = []
    reads = [x]
    for slot, default in (("gamma", 1.0), ("beta", 0.0)):
        name = node.input(slot)
        array = np.full(count, default, np.float32)
        if name is not None:
            source = asm.graph[name]
            if source.op != "constant" and source.type.shape == tuple(count):
                affine.append(len(reads))
                reads.append(asm.plain(name))
                continue
            if source.op != "constant":
                raise TargetError(f"{node}: {slot} is {source.type}, expected shape {count}", hint="expand it")
            array = np.asarray(source.array, np.float32)
            array = np.broadcast_to(array.reshape(array.shape[max(array.ndim - len(count), 0) :]), count)
        affine.append(asm.pack(f"{node.name}.{slot}", np.ascontiguousarray(array)))
    y = asm.new_plain(node.name, node.type)
    params = {"sizes": sizes, "affine": affine, "epsilon": node.attrs["epsilon"]}
    asm.step(emit_norm(by_element), "norm", node.name, reads, (y,), params)
    asm.define(y)


def _first_varying(asm: CudaAssembler, node: Node) -> int:
    """The first axis of x along which gamma or beta of a layer_norm differ; the rank of x where none does."""
    rank = node.type.rank
    shapes = [asm.graph[name].type.shape for name in node.operands[1:]]
    return min((rank - len(s) + i for s in shapes for i, size in enumerate(s) if size != 1), default=rank)


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
