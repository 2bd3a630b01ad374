"""Convolutions in lock step beside float64: layers with random numbers, buffers poisoned where nothing belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from convc.backends.cuda import conv, conv_launch, depthwise
from convc.backends.cuda.compile import missing
from convc.backends.cuda.epilogue import emit_reduce
from convc.backends.cuda.lockstep import Ran, execute
from convc.backends.cuda.spec import (
    VECTOR,
    ConvSizes,
    ConvSpec,
    DepthwiseSizes,
    DepthwiseSpec,
    Epilogue,
    Launch,
    Tile,
    padded,
)
from convc.types import Array

needs_compiler = pytest.mark.skipif(bool(missing()), reason=f"the cuda extra is not installed: no {missing()}")

SMALL = {
    "f32": Tile(32, 32, 32, 16, 16, 2),
    "tf32": Tile(32, 32, 32, 16, 16, 3),
    "f16": Tile(32, 32, 64, 16, 16, 3),
    "bf16": Tile(32, 32, 64, 16, 16, 3),
}
MATHS = tuple(SMALL)
TOLERANCE = {"f32": 2e-6, "tf32": 1e-3, "f16": 1e-3, "bf16": 8e-3}
"""Of the largest output: float32 sums of few terms; else the rounding of the output, 2^-11 or 2^-8 of it."""
POISON = 1e30


def to_memory(values: Array, kind: str) -> Array:
    """float32 as it is stored; no finite value where float16 has none."""
    with np.errstate(over="ignore"):
        return conv_launch.to_storage(np.asarray(values, np.float32), kind)


def from_memory(stored: Array, kind: str) -> Array:
    """Stored values in float64."""
    if kind == "bf16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


@dataclass
class Layer:
    """A convolution's shape. `extra` lanes lie beyond the channels, in memory that nothing may touch."""

    batch: int = 1
    height: int = 6
    width: int = 5
    channels: int = 5
    outputs: int = 7
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    splits: int = 1
    extra: int = 0
    seed: int = 0

    @property
    def size(self) -> tuple[int, int]:
        top, left, bottom, right = self.padding
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        room = self.height + top + bottom - spans[0], self.width + left + right - spans[1]
        return room[0] // self.stride[0] + 1, room[1] // self.stride[1] + 1


@dataclass
class Outcome:
    """What came out, what should have, and what the launches did."""

    got: Array
    want: Array
    zeros: Array
    untouched: bool
    ran: list[Ran] = field(default_factory=list)

    @property
    def error(self) -> float:
        return float(np.max(np.abs(self.got - self.want)) / np.max(np.abs(self.want)))


def activate(name: str, y: Array) -> Array:
    """What the tests' activations mean."""
    return {"": lambda v: v, "relu": lambda v: np.maximum(v, 0), "silu": lambda v: v / (1 + np.exp(-v)),
            "clip": lambda v: np.clip(v, -0.25, 0.5)}[name](y)  # fmt: skip


def reference(x: Array, w: Array, layer: Layer) -> Array:
    """[N, OH, OW, G, O] in float64 of x [N, H, W, G, C] and w [G, O, R, S, C]."""
    height, width = layer.size
    top, left = layer.padding[:2]
    wide = np.pad(x, ((0, 0), (top, 64), (left, 64), (0, 0), (0, 0)))
    y = np.zeros((layer.batch, height, width, *w.shape[:2]))
    for r in range(layer.kernel[0]):
        for s in range(layer.kernel[1]):
            a, b = r * layer.dilation[0], s * layer.dilation[1]
            rows = slice(a, a + layer.stride[0] * (height - 1) + 1, layer.stride[0])
            columns = slice(b, b + layer.stride[1] * (width - 1) + 1, layer.stride[1])
            y += np.einsum("nhwgc,goc->nhwgo", wide[:, rows, columns], w[:, :, r, s])
    return y


def run_launch(source: str, launch: Launch, buffers: dict[str, Array]) -> Ran:
    """One launch in lock step."""
    return execute(source, launch.grid, launch.shared, [buffers[a] if isinstance(a, str) else a for a in launch.args])


def run_conv(spec: ConvSpec, layer: Layer, edit: Callable[[str], str] = str) -> Outcome:
    """The layer with random numbers in lock step and in float64; `edit` may plant a fault in the source."""
    rng = np.random.default_rng(layer.seed)
    vector, end = VECTOR[spec.math], spec.epilogue
    lanes, (height, width) = padded(layer.channels, vector), layer.size
    x = np.zeros((layer.batch, layer.height, layer.width, layer.groups, lanes), np.float32)
    x[..., : layer.channels] = rng.standard_normal((*x.shape[:-1], layer.channels))
    w = np.zeros((layer.groups, layer.outputs, *layer.kernel, lanes), np.float32)
    w[..., : layer.channels] = rng.standard_normal((*w.shape[:-1], layer.channels)) / np.sqrt(w[0, 0].size)
    total = layer.groups * layer.outputs
    stored = padded(total, VECTOR[end.output])
    x_pitch, y_pitch = layer.groups * lanes + layer.extra * 8, stored + layer.extra * 8
    memory = np.full((*x.shape[:3], x_pitch), POISON, np.float32)
    memory[..., : layer.groups * lanes] = x.reshape(*x.shape[:3], -1)
    buffers = {"x": to_memory(memory, spec.math)}
    lane_of = rng.permutation(total) if end.lanes else np.arange(total)
    offsets = tuple(
        (r * layer.dilation[0], s * layer.dilation[1]) for r in range(layer.kernel[0]) for s in range(layer.kernel[1])
    )
    sizes = ConvSizes(
        layer.batch, layer.height, layer.width, lanes, layer.outputs, height, width, x_pitch, y_pitch, layer.groups,
        offsets, layer.stride, layer.padding[:2], y_pitch + 8, splits=layer.splits, params=(-0.25, 0.5),
    )  # fmt: skip
    buffers["w"] = conv_launch.pack_weights(spec, w.reshape(layer.groups, layer.outputs, -1, lanes))
    buffers["taps"] = conv_launch.pack_taps(spec, sizes)
    exact_x = from_memory(to_memory(x, spec.math), spec.math)
    want = reference(exact_x, from_memory(to_memory(w, spec.math), spec.math), layer)
    want = want.reshape(layer.batch, height, width, total)
    if end.bias:
        bias = rng.standard_normal(total).astype(np.float32)
        buffers["bias"] = conv_launch.pack_bias(spec, bias, layer.groups)
        want = want + bias
    if end.residual:
        rest = rng.standard_normal((layer.batch, height, width, y_pitch + 8)).astype(np.float32)
        buffers["residual"] = to_memory(rest, spec.math)
        want = want + from_memory(buffers["residual"], spec.math)[..., lane_of]
    buffers["lanes"] = conv_launch.pack_lanes(spec, lane_of, layer.groups, np.arange(total, stored))
    poison = to_memory(np.full((layer.batch, height, width, y_pitch), POISON), end.output)
    buffers["y"] = poison.copy()
    buffers["work"] = np.full(conv_launch.work_bytes(spec, sizes) // 4, np.nan, np.float32)
    ran = [run_launch(edit(conv.emit(spec)[1]), conv_launch.launch(spec, sizes), buffers)]
    if spec.partial:
        assert ran[0].unwritten["work"] == 0
        reduce = edit(emit_reduce(spec.math, end)[1])
        ran.append(run_launch(reduce, conv_launch.launch_reduce(spec, sizes), buffers))
    got = from_memory(buffers["y"], end.output)
    untouched = bool((buffers["y"][..., stored:] == poison[..., stored:]).all())
    return Outcome(got[..., lane_of], activate(end.activation, want), got[..., total:stored], untouched, ran)


def run_depthwise(spec: DepthwiseSpec, layer: Layer, edit: Callable[[str], str] = str) -> Outcome:
    """As `run_conv`, a channel a group; the layer's kernel, stride and dilation are the spec's."""
    rng = np.random.default_rng(layer.seed)
    end, channels, (height, width) = spec.epilogue, layer.channels, layer.size
    lanes = padded(channels, VECTOR[spec.math])
    x = rng.standard_normal((layer.batch, layer.height, layer.width, channels)).astype(np.float32)
    w = rng.standard_normal((channels, *layer.kernel)).astype(np.float32)
    pitch = lanes + layer.extra * 8
    memory = np.full((*x.shape[:3], pitch), POISON, np.float32)
    memory[..., :channels], memory[..., channels:lanes] = x, 0
    exact = from_memory(to_memory(x, spec.math), spec.math)[..., None]
    taps = from_memory(to_memory(w, spec.math), spec.math)[:, None, :, :, None]
    want = reference(exact, taps, layer).reshape(layer.batch, height, width, channels)
    bias = np.zeros(lanes, np.float32)
    bias[:channels] = rng.standard_normal(channels)
    lane_of = np.concatenate(
        [rng.permutation(channels) if end.lanes else np.arange(channels), np.arange(channels, lanes)]
    )
    rest = to_memory(rng.standard_normal((layer.batch, height, width, pitch)), spec.math)
    poison = to_memory(np.full((layer.batch, height, width, pitch), POISON), end.output)
    buffers = {
        "x": to_memory(memory, spec.math), "w": depthwise.pack_weights(spec, w), "bias": bias, "residual": rest,
        "lanes": lane_of.astype(np.int32), "y": poison.copy(),
    }  # fmt: skip
    if end.bias:
        want = want + bias[:channels]
    if end.residual:
        want = want + from_memory(rest, spec.math)[..., lane_of[:channels]]
    sizes = DepthwiseSizes(
        layer.batch, layer.height, layer.width, channels, height, width, pitch, pitch, layer.padding[:2], pitch,
        (-0.25, 0.5),
    )  # fmt: skip
    ran = run_launch(edit(depthwise.emit(spec)[1]), depthwise.launch(spec, sizes), buffers)
    got = from_memory(buffers["y"], end.output)
    untouched = bool((buffers["y"][..., lanes:] == poison[..., lanes:]).all())
    return Outcome(
        got[..., lane_of[:channels]], activate(end.activation, want), got[..., channels:lanes], untouched, [ran]
    )


def check(outcome: Outcome, math: str) -> None:
    """Right within the precision, zeros in the padding lanes, nothing beyond them."""
    assert outcome.error < TOLERANCE[math]
    assert (outcome.zeros == 0).all() and outcome.untouched


def spec_of(math: str, *, window: bool = True, **more: object) -> ConvSpec:
    """A spec with a small tile; `more` describes the epilogue, or is `partial`."""
    partial = bool(more.pop("partial", False))
    end = Epilogue(**{"output": math, **more})  # type: ignore[arg-type]
    return ConvSpec(math, SMALL[math], window, partial=partial, epilogue=end)  # type: ignore[arg-type]
