"""Importers of convolutions and pooling. One spatial axis is reshaped to a plane of height 1 and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convc.dims import Dim, Size
from convc.errors import ModelError
from convc.frontends.onnx.context import Call, Importer
from convc.frontends.scales import FIX_SIZES
from convc.ir.graph import Node
from convc.types import same_padding

_AUTO_PAD = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Window:
    """A sliding window's geometry over `n` spatial axes; padding is all befores, then all afters."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    auto_pad: str

    def plane(self) -> dict[str, tuple[int, ...]]:
        """Stride, padding and dilation as attributes of a 2-D operator."""
        if len(self.kernel) == 2:
            return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        before, after = self.padding
        return {"stride": (1, *self.stride), "padding": (0, before, 0, after), "dilation": (1, *self.dilation)}

    def kernel_plane(self) -> tuple[int, ...]:
        return self.kernel if len(self.kernel) == 2 else (1, *self.kernel)


def spatial(call: Call, x: Node) -> tuple[Size, ...]:
    """Spatial sizes of x. Raises ModelError unless there are one or two."""
    if x.type.rank not in {3, 4}:
        raise ModelError(
            f"input %{x.name} is {x.type}, expected [N, C, W] or [N, C, H, W]",
            hint="3-D convolution and pooling are not supported" if x.type.rank == 5 else "check the exporter",
        )
    return x.type.shape[2:]


def window(call: Call, sizes: Sequence[Size], kernel: tuple[int, ...]) -> Window:
    """The window's attributes, with auto_pad worked out. Raises ModelError where it depends on symbolic sizes."""
    count = len(sizes)
    stride = _ints(call, "strides", (1,) * count)
    dilation = _ints(call, "dilations", (1,) * count)
    padding = _ints(call, "pads", (0,) * 2 * count)
    auto_pad = call.text("auto_pad", "NOTSET")
    if auto_pad not in _AUTO_PAD:
        raise ModelError(f"attribute auto_pad={auto_pad}", hint=f"use one of {', '.join(_AUTO_PAD)}")
    if len(kernel) != count:
        raise ModelError(f"kernel_shape {kernel} does not fit {count} spatial axes", hint="check the exporter")
    if min(*kernel, *stride, *dilation) < 1:
        raise ModelError(
            f"kernel_shape={kernel}, strides={stride}, dilations={dilation}: expected 1 or more",
            hint="check the exporter",
        )
    if auto_pad == "VALID":
        padding = (0,) * 2 * count
    elif auto_pad != "NOTSET":
        pairs = [_same(call, *axis, auto_pad) for axis in zip(sizes, kernel, stride, dilation, strict=True)]
        padding = (*(before for before, _ in pairs), *(after for _, after in pairs))
    return Window(kernel, stride, dilation, padding, auto_pad)


def _ints(call: Call, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    found = call.ints_attr(name) or default
    if len(found) != len(default):
        raise ModelError(f"attribute {name}={list(found)} has {len(found)} values, expected {len(default)}",
                         hint="check the exporter")  # fmt: skip
    return found


def _same(call: Call, size: Size, kernel: int, stride: int, dilation: int, auto_pad: str) -> tuple[int, int]:
    upper = auto_pad == "SAME_UPPER"
    if not isinstance(size, Dim):
        return same_padding(size, kernel, stride, dilation, upper=upper)
    if stride == 1:  # the padding is that of any size
        return same_padding(1, kernel, 1, dilation, upper=upper)
    raise ModelError(f"auto_pad={auto_pad} with stride {stride} pads symbolic size {size} by its value", hint=FIX_SIZES)


def _kernel(call: Call, w: Node) -> tuple[int, ...]:
    sizes = w.type.shape[2:]
    if any(isinstance(s, Dim) for s in sizes):
        raise ModelError(f"kernel %{w.name} is {w.type}, expected fixed sizes", hint=FIX_SIZES)
    kernel = tuple(int(s) for s in sizes if isinstance(s, int))
    given = call.ints_attr("kernel_shape")
    if given is not None and given != kernel:
        raise ModelError(f"kernel_shape={list(given)}, but weight %{w.name} is {w.type}", hint="check the exporter")
    return kernel


def _with_height(call: Call, x: Node) -> Node:
    """[A, B, W] as [A, B, 1, W]."""
    a, b, width = x.type.shape
    return call.emit("reshape", x, shape=(a, b, 1, width))


def _without_height(call: Call, x: Node) -> Node:
    a, b, _, width = x.type.shape
    return call.emit("reshape", x, shape=(a, b, width))


def _crop_negative(call: Call, x: Node, geometry: Window) -> tuple[Node, Window]:
    """Negative padding crops the input first."""
    if min(geometry.padding) >= 0:
        return x, geometry
    count = len(geometry.kernel)
    low = [min(p, 0) for p in geometry.padding]
    x = call.emit("pad", x, before=(0, 0, *low[:count]), after=(0, 0, *low[count:]))
    rest = tuple(max(p, 0) for p in geometry.padding)
    return x, Window(geometry.kernel, geometry.stride, geometry.dilation, rest, geometry.auto_pad)


def _conv(call: Call) -> Node:
    x, w, b = call.node(0), call.node(1), call.optional(2)
    sizes = spatial(call, x)
    if w.type.rank != x.type.rank:
        raise ModelError(f"weight %{w.name} is {w.type}, expected rank {x.type.rank}", hint="check the exporter")
    x, geometry = _crop_negative(call, x, window(call, sizes, _kernel(call, w)))
    groups = call.integer("group", 1)
    if len(sizes) == 2:
        return call.emit("conv2d", x, w, b, groups=groups, **geometry.plane())
    x, w = _with_height(call, x), _with_height(call, w)
    return _without_height(call, call.emit("conv2d", x, w, b, groups=groups, **geometry.plane()))


def _conv_transpose(call: Call) -> Node:
    """Where output_shape or auto_pad fixes the output, padding follows; what is missing is padded at the end."""
    x, w, b = call.node(0), call.node(1), call.optional(2)
    sizes = spatial(call, x)
    count = len(sizes)
    if w.type.rank != x.type.rank:
        raise ModelError(f"weight %{w.name} is {w.type}, expected rank {x.type.rank}", hint="check the exporter")
    kernel = _kernel(call, w)
    stride = _ints(call, "strides", (1,) * count)
    dilation = _ints(call, "dilations", (1,) * count)
    padding = _ints(call, "pads", (0,) * 2 * count)
    extra = _ints(call, "output_padding", (0,) * count)
    auto_pad = call.text("auto_pad", "NOTSET")
    output_shape = call.ints_attr("output_shape")
    if auto_pad not in _AUTO_PAD:
        raise ModelError(f"attribute auto_pad={auto_pad}", hint=f"use one of {', '.join(_AUTO_PAD)}")
    if auto_pad == "VALID":
        padding = (0,) * 2 * count
    if output_shape or auto_pad.startswith("SAME"):
        totals: list[int] = []
        for i, size in enumerate(sizes):
            full = (size - 1) * stride[i] + extra[i] + (kernel[i] - 1) * dilation[i] + 1
            total = full - (output_shape[i - count] if output_shape else size * stride[i])
            if isinstance(total, Dim):
                raise ModelError(f"output_shape={output_shape} with symbolic size {size}", hint=FIX_SIZES)
            totals.append(total)
        extra = tuple(e + max(-t, 0) for e, t in zip(extra, totals, strict=True))
        halves = [max(t, 0) // 2 for t in totals]
        others = [max(t, 0) - h for t, h in zip(totals, halves, strict=True)]
        padding = (*halves, *others) if auto_pad == "SAME_UPPER" else (*others, *halves)
    geometry = Window(kernel, stride, dilation, padding, auto_pad)
    groups = call.integer("group", 1)
    if count == 2:
        return call.emit("conv_transpose2d", x, w, b, groups=groups, output_padding=extra, **geometry.plane())
    x, w = _with_height(call, x), _with_height(call, w)
    y = call.emit("conv_transpose2d", x, w, b, groups=groups, output_padding=(0, *extra), **geometry.plane())
    return _without_height(call, y)


def _pool(op: str) -> Importer:
    def convert(call: Call) -> Node:
        x = call.node(0)
        sizes = spatial(call, x)
        geometry = window(call, sizes, call.ints_attr("kernel_shape") or ())
        # SAME and VALID name the output size, whatever ceil_mode says
        options = {"ceil_mode": call.flag("ceil_mode") and geometry.auto_pad == "NOTSET"}
        if op == "avg_pool2d":
            options["count_include_pad"] = call.flag("count_include_pad")
        attrs = {"kernel": geometry.kernel_plane(), **geometry.plane(), **options}
        if len(sizes) == 2:
            return call.emit(op, x, **attrs)
        return _without_height(call, call.emit(op, _with_height(call, x), **attrs))

    return convert


def _global_pool(op: str, reduction: str) -> Importer:
    def convert(call: Call) -> Node:
        x = call.node(0)
        if x.type.rank == 4:
            return call.emit(op, x)
        return call.emit(reduction, x, axes=tuple(range(2, x.type.rank)), keepdims=True)

    return convert


CONVOLUTIONS: dict[str, Importer] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool("max_pool2d"),
    "AveragePool": _pool("avg_pool2d"),
    "GlobalAveragePool": _global_pool("global_avg_pool", "reduce_mean"),
    "GlobalMaxPool": _global_pool("global_max_pool", "reduce_max"),
}
"""By ONNX operator."""
