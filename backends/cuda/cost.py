"""Predicted time of a node on a GPU: the larger of arithmetic and memory traffic, and a launch. Not fitted on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convc.backends.cuda.choice import machine
from convc.backends.cuda.convolution import MATH
from convc.dims import concrete
from convc.ir.graph import Node
from convc.ops import OPS
from convc.types import TensorType

CLOCK = 1.7e9
EFFICIENCY = 0.6
"""Of the peak of arithmetic and of memory that kernels are taken to reach."""
LAUNCH = 2e-6
"""Seconds of a kernel in a graph, however small."""
FREE = {"reshape", "identity", "dropout", "concat", "slice", "channel_shuffle"}
"""Operators that mostly move nothing."""


@dataclass(frozen=True)
class CudaCost:
    """Cost model of an architecture in a precision."""

    arch: str
    precision: str

    def seconds(self, node: Node, inputs: Sequence[TensorType | None]) -> float:
        """Seconds of one execution. All types are concrete."""
        if node.op in FREE:
            return 0.0
        where = machine(self.arch)
        element = 2 if self.precision in {"float16", "bfloat16"} else 4
        macs = concrete(OPS[node.op].macs(inputs, node.type, node.attrs), {})
        moved = sum(concrete(t.elements, {}) for t in (*inputs, node.type) if t is not None) * element
        rate = where.multiplies[MATH[self.precision]] * where.processors * CLOCK * EFFICIENCY
        if macs and inputs[1] is not None and inputs[1].rank == 4 and inputs[1].shape[1] == 1:
            rate = where.multiplies["f32"] * where.processors * CLOCK * EFFICIENCY / 2
        return max(macs / rate, moved / (where.bytes_memory * where.processors * CLOCK * EFFICIENCY)) + LAUNCH
