"""conv2d, conv_transpose2d and linear as calls of the implicit-GEMM kernel: lanes, packed weights, launches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from convc.backends.cuda import choice, conv, conv_launch, epilogue
from convc.backends.cuda.binding_roles import Roles, bind
from convc.backends.cuda.depthwise_conv import append_depthwise
from convc.backends.cuda.elementwise import lower_prologue
from convc.backends.cuda.formulas import function_of
from convc.backends.cuda.grouping import merged
from convc.backends.cuda.layout import CudaAssembler, Layer
from convc.backends.cuda.plan import Launch, LaunchPlan
from convc.backends.cuda.spec import VECTOR, ConvSizes, ConvSpec, Epilogue, Math, WinogradSizes, padded
from convc.backends.cuda.winners import Kind, Shape, Winner
from convc.backends.cuda.winograd_conv import (
    WinogradCall,
    append_winograd,
    eligible,
    takes,
    winograd_launches,
    winograd_sizes,
)
from convc.backends.operands import constant_of, transposed_taps
from convc.backends.program import Flattened, Ints, Planes, Step
from convc.dims import Size, concrete
from convc.errors import TargetError
from convc.ir.graph import Graph, Node
from convc.ops.conv import has_prologue
from convc.types import Activation, Array

MATH: dict[str, Math] = {"float32": "f32", "tf32": "tf32", "float16": "f16", "bfloat16": "bf16"}
"""How products are computed, by precision."""


MANY = 32
"""By how much symbolic sizes are taken to grow: a kernel is chosen for the nominal ones and for those, and kept."""


@dataclass(frozen=True)
class Variant:
    """A kernel that computes a call, and, where it splits K, the one that adds the parts."""

    spec: ConvSpec
    kernel: str
    reduce: str = ""


@dataclass(frozen=True, eq=False)
class ConvCall:
    """One call of the kernel, before sizes are known. `start` and `every` place its pixels in the output.

    `first` is the first lane of x that is read, `channels` the lanes of a group. `tables` names what is packed.
    """

    variants: tuple[Variant, ...]
    groups: int
    first: int
    channels: int
    outputs: int
    offsets: tuple[tuple[int, int], ...]
    stride: tuple[int, int]
    padding: tuple[int, int]
    height: Size
    width: Size
    start: tuple[int, int]
    every: tuple[int, int]
    tables: dict[str, str]
    params: tuple[float, ...]
    arch: str
    kind: Kind
    winners: Mapping[str, Winner]
    winograd: WinogradCall | None = None
    """Kernels that take the call's place at sizes where they pay."""

    def shape(self, pixels: int, depth: int) -> Shape:
        """The call at some sizes as the choice sees it."""
        return Shape(self.variants[0].spec.math, self.kind, pixels, self.outputs, depth, self.groups)


def lower_conv2d(asm: CudaAssembler, node: Node) -> None:
    """Select and append the call for a conv2d."""
    weights = constant_of(asm, node, "w")
    out, per_group, height, breadth = weights.shape
    groups = node.attrs["groups"]
    (top, left, bottom, right), (dh, dw) = node.attrs["padding"], node.attrs["dilation"]
    if min(top, left, bottom, right) < 0:
        raise TargetError(f"{node}: padding={node.attrs['padding']} crops", hint="use slice ahead of the convolution")
    name = str(node.inputs[0])
    mapped = lower_prologue(asm, node) if has_prologue(node.inputs, node.attrs) else None
    if per_group == 1 and groups == out:
        bias = constant_of(asm, node, "b") if node.input("b") is not None else None
        append_depthwise(asm, node, mapped or asm.natural(name), MATH[asm.precision], weights, bias)
        return
    weights, groups = merged(weights, groups)
    per_group = weights.shape[1]
    x, first, lanes = _input(asm, name, mapped, groups)
    by_group = weights.reshape(groups, out // groups, per_group, height * breadth)
    shape = (groups, out // groups, lanes.shape[1])
    offsets = tuple((r * dh, s * dw) for r in range(height) for s in range(breadth))
    y = asm.new_planes(node.name, node.type)
    append(
        asm,
        node,
        x,
        first,
        y,
        shape,
        lambda: _by_lane(by_group, lanes),
        offsets,
        node.attrs["stride"],
        (top, left),
        (y.height, y.width),
    )
    _define(asm, node, y)


def lower_linear(asm: CudaAssembler, node: Node) -> None:
    """A linear on [N, I] is a 1x1 convolution; its input may be the flattened planes of a convolution."""
    weights = constant_of(asm, node, "w")
    out = weights.shape[0]
    name = str(node.inputs[0])
    type = asm.graph[name].type
    if type.rank != 2:
        raise TargetError(f"{node}: input {type} is not [N, I]", hint="reshape it to rank 2")
    flattened = next((v for v in asm.layouts(name) if isinstance(v, Flattened)), None)
    high = wide = 1
    read: Planes | Flattened
    if flattened is not None and not asm.has_planes(name):
        source = flattened.planes
        high, wide = concrete(source.height, {}), concrete(source.width, {})
        source, first, lanes = asm.readable(source.name, source)
        read = replace(flattened, planes=source)
    else:
        read, first, lanes = asm.run(name)
    by_group, shape = weights.reshape(1, out, -1, high * wide), (1, out, len(lanes))
    offsets = tuple((r, s) for r in range(high) for s in range(wide))
    y = asm.new_planes(node.name, node.type)
    append(
        asm,
        node,
        read,
        first,
        y,
        shape,
        lambda: _by_lane(by_group, lanes[None]),
        offsets,
        (1, 1),
        (0, 0),
        (1, 1),
        flattened=high * wide > 1,
    )
    asm.define(y)


def lower_conv_transpose2d(asm: CudaAssembler, node: Node) -> None:
    """A transposed convolution of stride s is s * s convolutions, one for each phase of the output's rows and columns.

    out[q s + a] = sum of x[q + (a + padding - r dilation) / s] w[r] over the r for which s divides
    """
    weights = constant_of(asm, node, "w")
    channels, per_group, height, breadth = weights.shape
    groups = node.attrs["groups"]
    x, first, lanes = _input(asm, str(node.inputs[0]), None, groups)
    by_tap = weights.reshape(groups, channels // groups, per_group, height * breadth).transpose(0, 2, 1, 3)
    stride = node.attrs["stride"]
    y = asm.new_planes(node.name, node.type)
    for a in range(stride[0]):
        for b in range(stride[1]):
            rows = transposed_taps(a, height, stride[0], node.attrs["padding"][0], node.attrs["dilation"][0])
            columns = transposed_taps(b, breadth, stride[1], node.attrs["padding"][1], node.attrs["dilation"][1])
            size = tuple(
                (length - start + (step - 1)) // step
                for length, start, step in zip(node.type.shape[2:], (a, b), stride, strict=True)
            )
            if 0 in size:
                continue
            taps = [(r * breadth + s, (dy, dx)) for r, dy in rows for s, dx in columns]
            phase = partial(_by_lane, by_tap[..., [tap for tap, _ in taps]], lanes)
            shape = (groups, per_group, lanes.shape[1])
            offsets = tuple(offset for _, offset in taps)
            append(asm, node, x, first, y, shape, phase, offsets, (1, 1), (0, 0), size, start=(a, b), every=stride)
    asm.define(y)


def _input(asm: CudaAssembler, name: str, mapped: Planes | None, groups: int) -> tuple[Planes, int, Ints]:
    """The input, the first lane that is read, and the channel within its group in each lane of each group."""
    if groups == 1:
        x, first, lanes = asm.run_of(mapped) if mapped is not None else asm.run(name)
        return x, first, lanes[None]
    x = mapped or asm.planes(name)
    per_group = x.channels // groups
    width = asm.padded(per_group)
    x = asm.grouped(name, x, groups)
    lanes = np.full((groups, width), -1, np.int64)
    lanes[:, :per_group] = np.arange(per_group)
    return x, int(x.places[0, 1]), lanes


def _by_lane(weights: Array, lanes: Ints) -> Array:
    """Weights [groups, outputs, channels, taps] as [groups, outputs, taps, lanes], zeros for no channel."""
    groups = np.arange(len(weights))[:, None]
    found = weights.transpose(0, 2, 1, 3)[groups, np.maximum(lanes, 0)]  # [groups, lanes, outputs, taps]
    kept: Array = np.where((lanes >= 0)[..., None, None], found, np.float32(0)).transpose(0, 2, 3, 1)
    return kept


def append(
    asm: CudaAssembler, node: Node, x: Planes | Flattened, first: int, y: Planes, by_group: tuple[int, int, int],
    weights: Callable[[], Array], offsets: tuple[tuple[int, int], ...], stride: tuple[int, int],
    padding: tuple[int, int], size: tuple[Size, ...], *, start: tuple[int, int] = (0, 0),
    every: tuple[int, int] = (1, 1), flattened: bool = False,
) -> None:  # fmt: skip
    """Append a call of the kernel. `weights` makes [groups, outputs, taps, lanes]; `by_group` is that without taps."""
    groups, outputs, channels = by_group
    math = MATH[asm.precision]
    activation: Activation | None = node.attrs["activation"]
    function, params = function_of(activation)
    residual_name = node.input("residual")
    residual = asm.natural(residual_name) if residual_name is not None else None
    output: Any = "f32" if math == "tf32" and not asm.graph.users(node.name) else math
    order = asm.wanted.get(node.name) if residual is None else None
    lanes = order is not None or (groups > 1 and outputs % VECTOR[output] != 0)
    has_bias = node.input("b") is not None
    end = Epilogue(has_bias, residual is not None, function, output, lanes)
    plain = offsets == ((0, 0),) and stride == (1, 1) and padding == (0, 0) and every == (1, 1)
    scatter = every != (1, 1)
    plain = plain and not flattened
    math_spec = ConvSpec(math, choice.CANDIDATES[math][0], not plain, scatter, False, end)
    count = groups * outputs * padded(len(offsets) * channels, math_spec.tile.bk)
    dtype = np.uint16 if math == "bf16" else np.float16 if math == "f16" else np.float32
    tables = {
        "w": asm.pack_later(f"{node.name}.w", count, lambda: conv_launch.pack_weights(math_spec, weights()), dtype)
    }
    if has_bias:
        tables["bias"] = asm.pack(
            f"{node.name}.b", conv_launch.pack_bias(math_spec, constant_of(asm, node, "b"), groups)
        )
    if lanes:
        tables["lanes"] = asm.pack(f"{node.name}.lanes", _lanes(math_spec, groups, outputs, order))
    square = isinstance(x, Planes) and not scatter and eligible(offsets, stride, groups, math)
    kind: Kind = "scatter" if scatter else "plain" if plain else "square" if square else "window"
    variants, paying = [], []
    depth, shapes = max(len(offsets) * channels, 1), {}
    for sizes in scenarios(asm.graph):
        pixels = max(concrete(y.batch, sizes) * concrete(size[0] * size[1], sizes), 1)
        shape = Shape(math, kind, pixels, outputs, depth, groups)
        shapes[shape] = sizes
        best = asm.winners.get(shape.key) or choice.choose(
            math, pixels, outputs, depth, groups, asm.arch, split=not scatter
        )
        variants.append(_variant(asm, replace(math_spec, tile=best.tile, partial=best.splits > 1)))
        if square and isinstance(x, Planes):
            expected = _expected(x, y, sizes, channels, outputs, padding)
            if expected.tiles and takes(expected, asm.winners, asm.arch):
                paying.append(expected)
    transformed = None
    if paying:
        transformed = append_winograd(asm, node.name, paying, end, lambda: weights().reshape(outputs, 3, 3, channels))
    call = ConvCall(
        tuple(dict.fromkeys(variants)), groups, first, channels, outputs, offsets, stride, padding, size[0], size[1],
        start, every, tables, params, asm.arch, kind, asm.winners, transformed,
    )  # fmt: skip
    for shape, sizes in shapes.items():
        asm.layers.setdefault(shape.key, Layer(shape, call, sizes))
    reads = (x, residual) if residual is not None else (x,)
    facts: dict[str, Any] = {"call": call}
    if residual is not None and not scatter:
        facts["in_place"] = 1
    kernel = variants[0].kernel
    asm.step((kernel, asm.kernels[kernel]), "conv", node.name, reads, (y,), facts)


def _expected(
    x: Planes, y: Planes, sizes: dict[str, int], channels: int, outputs: int, padding: tuple[int, int]
) -> WinogradSizes:
    batch, height, width, rows, columns = (
        concrete(size, sizes) for size in (y.batch, x.height, x.width, y.height, y.width)
    )
    return WinogradSizes(batch, height, width, channels, outputs, rows, columns, x.lanes, y.lanes, padding)


def scenarios(graph: Graph) -> list[dict[str, int]]:
    """The nominal sizes, and larger ones where they are symbols."""
    nominal = dict(graph.nominal)
    symbols = {s for node in graph.inputs for s in getattr(node.type.shape[0] if node.type.rank else 1, "symbols", ())}
    larger = {name: value * MANY if name in symbols else value for name, value in nominal.items()}
    return [nominal, larger] if larger != nominal else [nominal]


def _variant(asm: CudaAssembler, spec: ConvSpec) -> Variant:
    name, source = conv.emit(spec, "cuda")
    asm.kernels[name] = source
    if not spec.partial:
        return Variant(spec, name)
    reduce, text = epilogue.emit_reduce(spec.math, spec.epilogue, "cuda")
    asm.kernels[reduce] = text
    return Variant(spec, name, reduce)


def _lanes(spec: ConvSpec, groups: int, outputs: int, order: Ints | None) -> Array:
    """Where each output goes, and zeros in the lanes beyond the last."""
    total = groups * outputs
    where = np.arange(total) if order is None else order
    vector = VECTOR[spec.epilogue.output]
    return conv_launch.pack_lanes(spec, where, groups, np.arange(total, -(-total // vector) * vector))


def _define(asm: CudaAssembler, node: Node, y: Planes) -> None:
    """Register y, with its channels where the store put them."""
    asm.define(asm.stored(y, asm.wanted.get(node.name) if node.input("residual") is None else None))


def conv_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """The convolution, by the variant that suits the sizes, and what adds the parts of a split K."""
    call: ConvCall = step.params["call"]
    sizes, roles = _sizes(step, bound, call)
    if sizes.pixels == 0:
        return ()
    if call.winograd is not None and takes(winograd_sizes(sizes), call.winners, call.arch):
        return winograd_launches(call.winograd, winograd_sizes(sizes), roles, bound, call.arch)
    variant, splits = _best(call, sizes)
    spec, sizes = variant.spec, replace(sizes, splits=splits)
    if spec.window:
        roles["taps"] = bound.numbers(conv_launch.pack_taps(spec, sizes))
    if spec.partial:
        roles["work"] = bound.workspace(conv_launch.work_bytes(spec, sizes))
    found = [bind(variant.kernel, conv_launch.launch(spec, sizes), roles)]
    if spec.partial:
        found.append(bind(variant.reduce, conv_launch.launch_reduce(spec, sizes), roles))
    return found


def _best(call: ConvCall, sizes: ConvSizes) -> tuple[Variant, int]:
    """The variant, and the parts of K: those that won for the class, else with the least time by the model."""
    where = choice.machine(call.arch)
    winner = call.winners.get(call.shape(max(sizes.pixels, 1), max(sizes.depth, 1)).key)
    found: list[tuple[float, Variant, int]] = []
    for variant in call.variants:
        tile = variant.spec.tile
        possible = choice.splits_of(tile, sizes.depth) if variant.spec.partial else [1]
        if winner is not None and winner.tile == tile and variant.spec.partial == (winner.splits > 1):
            return variant, max(splits for splits in possible if splits <= winner.splits)
        for splits in possible:
            args = (variant.spec.math, sizes.pixels, call.outputs, max(sizes.depth, 1), call.groups, splits, where)
            found.append((choice.clocks(tile, *args), variant, splits))
    _, variant, splits = min(found, key=lambda one: one[0])
    return variant, splits


def _sizes(step: Step, bound: LaunchPlan, call: ConvCall) -> tuple[ConvSizes, Roles]:
    """Sizes and buffers of a call."""
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, (Planes, Flattened)) and isinstance(target, Planes)
    x, y = bound.view(source, call.first), bound.view(target)
    element = bound.program.buffers[target.planes[0][0]].element
    spec = call.variants[0].spec
    (a, b), (ey, ex) = call.start, call.every
    row = y.width * y.pitch
    strides = (y.area * y.pitch, row * ey, y.pitch * ex)
    roles: Roles = {"x": x.pointer, "y": y.pointer.moved((a * row + b * y.pitch) * element)}
    residual_pitch, residual_strides = 0, (0, 0, 0)
    if spec.epilogue.residual:
        other = step.reads[1]
        assert isinstance(other, Planes)
        r = bound.view(other)
        roles["residual"] = r.pointer.moved((a * r.width + b) * r.pitch * element)
        residual_pitch = r.pitch
        residual_strides = (r.area * r.pitch, r.width * r.pitch * ey, r.pitch * ex)
    sizes = ConvSizes(
        y.images, x.height, x.width, call.channels, call.outputs, bound.size(call.height), bound.size(call.width),
        x.pitch, y.pitch, call.groups, call.offsets, call.stride, call.padding, residual_pitch,
        strides if spec.scatter else (0, 0, 0), residual_strides if spec.scatter else (0, 0, 0), 1, call.params,
    )  # fmt: skip
    for role, name in call.tables.items():
        roles[role] = bound.packed(name)
    return sizes, roles
