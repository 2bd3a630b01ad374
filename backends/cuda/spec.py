"""Specs of the tensor kernels: what is compiled (spec), what arrives at run time (sizes), what a launch is.

A spec holds what changes instructions; sizes are arguments. `conv.emit(spec, arch)` gives (name, source) and
`conv.launch(spec, sizes)` the grid, the shared memory and the arguments: numbers, and roles of buffers in quotes.

Layout. Activations are NHWC planes: `pitch` elements from pixel to pixel, pointers and pitches multiples of 16 bytes,
channels padded to V lanes (`VECTOR`: 4 of float32, 8 of 16 bits) that hold zeros. K runs over [tap][lane of the group].
Storage is float32 for math "f32" and "tf32" (the latter rounded to tf32 by whoever stores: output="tf32").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Math = Literal["f32", "tf32", "f16", "bf16"]
Storage = Literal["f32", "tf32", "f16", "bf16"]

STORAGE: dict[str, str] = {"f32": "f32", "tf32": "f32", "f16": "f16", "bf16": "bf16"}
"""In memory, by math or output: tf32 is float32 with 10 bits of fraction."""
ELEMENT = {"f32": 4, "tf32": 4, "f16": 2, "bf16": 2}
VECTOR = {"f32": 4, "tf32": 4, "f16": 8, "bf16": 8}

Role = Literal["x", "w", "taps", "bias", "residual", "lanes", "y", "work", "spread", "products"]
Word = int | float | Role


@dataclass(frozen=True)
class Tile:
    """A block computes bm pixels x bn outputs, bk of K at a time, `stages` of them in shared memory; a warp wm x wn."""

    bm: int
    bn: int
    bk: int
    wm: int
    wn: int
    stages: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.bm // self.wm * (self.bn // self.wn) * 32

    def __str__(self) -> str:
        return f"{self.bm}x{self.bn}x{self.bk}w{self.wm}x{self.wn}s{self.stages}"


@dataclass(frozen=True)
class Epilogue:
    """y = activation(sum + bias + residual), stored as `output`.

    `residual` lies as y does, with a pitch of its own. `lanes`: output column c of group g goes to lane
    table[g, c] of the pixel (-1: nowhere), element by element: a channel shuffle, and groups of outputs that are no
    multiple of V. `activation` is a function that `formulas.apply` knows, or empty; its parameters are float arguments.
    """

    bias: bool = True
    residual: bool = False
    activation: str = ""
    output: Storage = "f32"
    lanes: bool = False


@dataclass(frozen=True)
class ConvSpec:
    """An implicit-GEMM convolution, pointwise and fully connected layers included.

    window: pixels are found through the table of taps (any kernel size, stride, dilation, padding); False: 1x1 with
    stride 1, input and output pixels one run each. scatter: rows of y lie anywhere (a phase of a transposed
    convolution); False: y's pixels are one run. partial: raw float32 sums of a part of K go to "work"
    [splits, M, groups * padded outputs]; the `reduce` kernel adds them, in order, and does the epilogue.
    """

    math: Math
    tile: Tile
    window: bool = True
    scatter: bool = False
    partial: bool = False
    epilogue: Epilogue = Epilogue()


@dataclass(frozen=True)
class ConvSizes:
    """What a convolution's launch depends on. Channels and outputs are those of one group.

    channels: lanes of a group, a multiple of V. outputs: real ones. padding: top, left (what lies beyond below and on
    the right follows from the output's size). `offsets` are (rows, columns) of each tap relative to the pixel's first,
    dilation included. With scatter, the element strides of y (and residual) for image, row and pixel.
    """

    batch: int
    height: int
    width: int
    channels: int
    outputs: int
    out_height: int
    out_width: int
    x_pitch: int
    y_pitch: int
    groups: int = 1
    offsets: Sequence[tuple[int, int]] = ((0, 0),)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    residual_pitch: int = 0
    y_strides: tuple[int, int, int] = (0, 0, 0)
    residual_strides: tuple[int, int, int] = (0, 0, 0)
    splits: int = 1
    params: tuple[float, ...] = ()

    @property
    def pixels(self) -> int:
        """Rows of the matrix product."""
        return self.batch * self.out_height * self.out_width

    @property
    def depth(self) -> int:
        """Columns of the matrix product that one output sums over."""
        return len(self.offsets) * self.channels


@dataclass(frozen=True)
class Launch:
    """A kernel call: `args` hold numbers and roles, in the order of the kernel's own arguments."""

    grid: tuple[int, int, int]
    threads: int
    shared: int
    args: tuple[Word, ...]


@dataclass(frozen=True)
class DepthwiseSpec:
    """A depthwise convolution: a thread computes V channels x `columns` neighbouring outputs of a row.

    The output's lanes are the input's: VECTOR[epilogue.output] is at most VECTOR[math].
    """

    math: Math
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    columns: int = 4
    epilogue: Epilogue = Epilogue()


@dataclass(frozen=True)
class DepthwiseSizes:
    """What a depthwise launch depends on; `channels` real ones. Weights are `depthwise.pack_weights`."""

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    x_pitch: int
    y_pitch: int
    padding: tuple[int, int] = (0, 0)
    residual_pitch: int = 0
    params: tuple[float, ...] = ()


@dataclass(frozen=True)
class WinogradSizes:
    """What the launches of a Winograd convolution depend on: 3x3, stride 1, one group, strict float32."""

    batch: int
    height: int
    width: int
    channels: int
    outputs: int
    out_height: int
    out_width: int
    x_pitch: int
    y_pitch: int
    padding: tuple[int, int] = (1, 1)
    residual_pitch: int = 0
    params: tuple[float, ...] = ()

    @property
    def tiles(self) -> int:
        """Squares of 2 x 2 outputs."""
        return self.batch * -(-self.out_height // 2) * -(-self.out_width // 2)


def padded(count: int, to: int) -> int:
    """`count` rounded up to a multiple."""
    return -(-count // to) * to
