"""The Program: what will run, for any target. Steps call kernels on slices of one arena, weights, inputs, outputs.

Two layouts. `Plain` is the caller's: C order, contiguous. `Planes` is the kernels': a plane holds `lanes` channels of
all images, [N, H + halo, W + halo, lanes]; a value is a list of planes, which may lie in several buffers, and a place
(plane, lane) for every channel. So concatenation joins lists, a channel slice takes a part, a shuffle permutes places,
and none of them moves data. `lanes` is the vector width on a CPU; with lanes = C the layout is NHWC. Lanes without a
channel are undefined. Planes of one value agree in size and halo: their buffers share a `group`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from convc.backends.halo import Halo, Sides
from convc.dims import Size
from convc.ir.graph import Graph
from convc.types import Array, TensorType

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Storage of one value: `count` planes of [N, H, W, lanes] with the halo of `group`, or a plain tensor."""

    index: int
    name: str
    type: TensorType
    count: int = 0
    lanes: int = 0
    group: int = -1
    place: Literal["arena", "input", "output", "constant"] = "arena"
    slot: int = 0
    """Which input or output, where `place` is one."""
    packed: str = ""
    """Name of the packed constant, where `place` is one."""
    element: int = 4
    """Bytes of an element of planes, which a target may keep narrower than `type` says."""

    @property
    def is_planes(self) -> bool:
        return self.count > 0


@dataclass(frozen=True)
class Plain:
    """A whole buffer seen as a contiguous tensor of `type`."""

    name: str
    buffer: int
    type: TensorType


@dataclass(frozen=True, eq=False)
class Planes:
    """A value of [N, C, H, W] over planes. `places[c]` is (index into `planes`, lane) of channel c."""

    name: str
    lanes: int
    batch: Size
    height: Size
    width: Size
    planes: tuple[tuple[int, int], ...]
    """(buffer, index in the buffer) of each plane."""
    places: Ints

    @property
    def channels(self) -> int:
        return len(self.places)

    @property
    def buffers(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(buffer for buffer, _ in self.planes))

    def slots(self) -> Ints:
        """The channel in each [plane, lane], -1 where there is none."""
        found = np.full((len(self.planes), self.lanes), -1, np.int64)
        found[self.places[:, 0], self.places[:, 1]] = np.arange(self.channels)
        return found

    def pick(self, name: str, channels: Ints) -> Planes:
        """The value made of the given channels, without the planes that it no longer touches."""
        places = self.places[channels]
        used, renumbered = np.unique(places[:, 0], return_inverse=True)
        planes = tuple(self.planes[i] for i in used)
        places = np.stack([renumbered.reshape(-1), places[:, 1]], axis=1)
        return Planes(name, self.lanes, self.batch, self.height, self.width, planes, places)


@dataclass(frozen=True, eq=False)
class Flattened:
    """[N, C*H*W] over the planes of [N, C, H, W], for kernels that read through a table of offsets."""

    name: str
    planes: Planes
    type: TensorType


@dataclass(frozen=True, eq=False)
class Turned:
    """[N, H, W, C] over the planes of [N, C, H, W], whose channels lie in order. No step reads it as such."""

    name: str
    planes: Planes
    type: TensorType


Layout = Plain | Planes | Flattened


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a kernel. `params` are the family's own facts, from which it makes arguments once sizes are known.

    `joins` says that the next step may start before this one has ended (they touch different memory).
    """

    kernel: str
    family: str
    node: str
    reads: tuple[Layout, ...]
    writes: tuple[Layout, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    joins: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values that are read."""
        return tuple(layout.name for layout in self.reads)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values that are written."""
        return tuple(layout.name for layout in self.writes)


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order, the buffers that they touch, the kernels that they call, and the packed constants."""

    name: str
    target: str
    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
    halos: Mapping[int, Halo]
    kernels: Mapping[str, str]
    """Kernel name to emitted source."""
    packed: Mapping[str, Array]
    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    nominal: Mapping[str, int]
    choices: Mapping[str, Any] = field(default_factory=dict)
    """What selection was told for nodes by name, as JSON; otherwise it predicts."""
    processor: str = ""
    """The processor for which it predicts, by LLVM's name, where that matters."""

    def sides(self, buffer: int, sizes: Mapping[str, int]) -> Sides:
        """Rows and columns of zeros around the planes of a buffer."""
        return self.halos.get(self.buffers[buffer].group, Halo()).bind(sizes)

    def __str__(self) -> str:
        lines = [f"program {self.name} for {self.target}: {len(self.steps)} steps, {len(self.kernels)} kernels"]
        for index, step in enumerate(self.steps):
            arrow = f"{', '.join('%' + n for n in step.inputs)} -> {', '.join('%' + n for n in step.outputs)}"
            lines.append(f"{index:4d}  {step.kernel:48s} {arrow}")
        return "\n".join(lines)


def buffers_of(layout: Layout) -> tuple[int, ...]:
    """Buffers that a layout touches."""
    if isinstance(layout, Plain):
        return (layout.buffer,)
    return layout.planes.buffers if isinstance(layout, Flattened) else layout.buffers


def dense_places(channels: int, lanes: int) -> Ints:
    """Channels in order, `lanes` a plane."""
    numbers = np.arange(channels)
    return np.stack([numbers // lanes, numbers % lanes], axis=1)


def node_of(graph: Graph, name: str) -> str:
    """The node that a step of this name works for, '' where there is none.

    Lowering names what it puts beside a node `node.something`.
    """
    while name and name not in graph:
        name = name.rpartition(".")[0]
    return name
