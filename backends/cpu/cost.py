"""Predicted time of a node on the CPU, from operation and byte counts and the efficiency of the kernel that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convc.backends.cpu import conv, conv_ahead, phases_pack, winograd_call
from convc.backends.cpu.channels import prefers_lanes
from convc.backends.cpu.choice import Facts, candidates
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.phases import phases_of
from convc.backends.cpu.split import WEIGHT_BYTES_A_CYCLE
from convc.dims import concrete
from convc.ir.graph import Node
from convc.ops.base import optional
from convc.ops.conv import has_prologue
from convc.types import TensorType

CLOCK = 3.5e9
"""Cycles a second: the scale cancels where times are compared."""
BYTES_A_CYCLE = 4.0
"""What elementwise kernels move, beyond the second-level cache."""
STEP_CYCLES = 2000.0
"""A barrier, a call, and the ends of rows."""


@dataclass(frozen=True)
class CpuCost:
    """Cost model of one core with an instruction set; knows the tiles that selection would choose."""

    isa: Isa

    def seconds(self, node: Node, inputs: Sequence[TensorType | None]) -> float:
        """Seconds of one execution on one core. All types are concrete."""
        if node.op in {"conv2d", "conv_transpose2d", "linear"}:
            return self._convolution(node, inputs) / CLOCK
        if node.op in {"reshape", "identity", "dropout", "concat", "channel_shuffle"} or self._is_planes(node):
            return 0.0
        moved = sum(self._bytes(t) for t in (*inputs, node.type) if t is not None)
        return (moved / BYTES_A_CYCLE + STEP_CYCLES) / CLOCK

    def _is_planes(self, node: Node) -> bool:
        """Whether the node is a slice that takes whole planes of its input."""
        a = node.attrs
        return node.op == "slice" and node.type.rank == 4 and a["axis"] == 1 and a["start"] % self.isa.lanes == 0

    @staticmethod
    def _bytes(type: TensorType) -> int:
        return concrete(type.elements, {}) * type.dtype.bytes

    def _convolution(self, node: Node, inputs: Sequence[TensorType | None]) -> float:
        x, w = inputs[0], inputs[1]
        assert x is not None and w is not None
        shape = [concrete(s, {}) for s in node.type.shape]
        kernel = [concrete(s, {}) for s in w.shape]
        lanes = self.isa.lanes
        groups = node.attrs["groups"] if node.op != "linear" else 1
        if node.op == "linear":
            out, count, lines, width = kernel[0], kernel[1], 1, concrete(node.type.elements, {}) // kernel[0]
        else:
            out, lines, width = shape[1], shape[0] * shape[2], shape[3]
            taps = kernel[2] * kernel[3]
            channels = concrete(x.shape[1], {})
            count = channels // groups * taps
            if node.op == "conv_transpose2d":
                count = -(-count // (node.attrs["stride"][0] * node.attrs["stride"][1]))
            if taps == 1 and node.attrs["stride"] == (1, 1):
                lines, width = 1, lines * width
        by_lane = prefers_lanes(out, groups * kernel[1], groups, lanes)
        bundles, blocks = (-(-groups // lanes), out // groups) if by_lane else (groups, -(-(out // groups) // lanes))
        if node.op == "conv2d" and groups == 1 and not by_lane:
            flat = taps == 1 and node.attrs["stride"] == (1, 1)
            size = kernel[2], kernel[3]
            if 2 * channels <= lanes:  # the caller's, most likely
                cut = phases_pack.fitting_phases(node, self.isa, channels, size)
                steps = phases_pack.ranked(self.isa, cut, shape, channels, size)[0][1]
            else:
                apart = winograd_call.apart_of(node, size, groups)
                cut, planes = None, -(-kernel[1] // lanes)
                if node.attrs["stride"] != (1, 1):
                    cut = phases_of(node, channels, size)
                if cut is not None:
                    apart, planes = 1, planes * cut.count
                facts = Facts.of(shape, planes, kernel[1], size, blocks, flat, apart, cut)
                steps = candidates(self.isa, facts)[0][1]
        else:
            tile = conv.choose_tile(self.isa, blocks, count, width, lines)
            steps = bundles * count * conv.tile_cycles(self.isa, tile, blocks, count, width, lines)
            steps += self._bytes(w) / WEIGHT_BYTES_A_CYCLE
        residual = optional(inputs, 3)
        stored = self._bytes(node.type) / (4 * BYTES_A_CYCLE)
        stored += self._bytes(residual) / (4 * BYTES_A_CYCLE) if residual is not None else 0.0
        mapped = 0.0
        if node.op == "conv2d" and has_prologue(node.inputs, node.attrs):
            apart = not conv_ahead.fits(node.attrs, kernel, self.isa)
            mapped = self._bytes(x) / BYTES_A_CYCLE + apart * (self._bytes(x) / BYTES_A_CYCLE + STEP_CYCLES)
        return mapped + steps + stored + STEP_CYCLES
