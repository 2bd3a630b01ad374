"""linear as a call of its kernel: layouts, packed weights, arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word, offsets_table
from convc.backends.cpu.activations import float32, float_word, function_of
from convc.backends.cpu.channels import Taps, bias_of, make_taps, pack_weights
from convc.backends.cpu.convolution import match_channels
from convc.backends.cpu.isa import Isa, host_processor
from convc.backends.cpu.linear import LinearSpec, emit, scratch_bytes, tile_for
from convc.backends.operands import constant_of
from convc.backends.program import Flattened, Planes, Step
from convc.dims import concrete
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import Activation


@dataclass(frozen=True, eq=False)
class LinearCall:
    """One call of the kernel, before sizes are known."""

    spec: LinearSpec
    isa: Isa
    taps: Taps
    blocks_out: int
    weights: str
    bias: str
    params: tuple[float, ...]


def lower_linear(asm: Assembler, node: Node, isa: Isa) -> None:
    """Append the call for a linear on [N, I]; its input may be the flattened planes of a convolution."""
    weights = constant_of(asm, node, "w")
    x_name = str(node.inputs[0])
    type = asm.graph[x_name].type
    if type.rank != 2:
        raise TargetError(f"{node}: input {type} is not [N, I]", hint="reshape it to rank 2")
    flattened = next((v for v in asm.layouts(x_name) if isinstance(v, Flattened)), None)
    if flattened is not None and not asm.has_planes(x_name):
        source = flattened.planes
        high, wide = concrete(source.height, {}), concrete(source.width, {})
        pixels = [(r, s, r, s) for r in range(high) for s in range(wide)]
    else:
        source, pixels, wide = asm.planes(x_name), [(0, 0, 0, 0)], 1
    out = weights.shape[0]
    channels, residual = match_channels(asm, node, source, out, source.channels, 1, isa)
    taps, order = make_taps(source, channels, pixels, wide)
    y = asm.new_planes(node.name, node.type, places=channels.places)
    columns = order[..., 0] * len(pixels) + order[..., 1]
    activation: Activation | None = node.attrs["activation"]
    function, params = function_of(activation) if activation is not None else ("", ())
    streams, cols = tile_for(isa, host_processor())
    blocks = channels.group_blocks
    cols = min(cols, blocks)
    spec = LinearSpec(streams, cols, blocks % cols, residual is not None, function, len(params))
    rows = float32(weights)
    count = channels.slots.size * columns.shape[1]
    call = LinearCall(
        spec, isa, taps, blocks,
        asm.pack_later(f"{node.name}.w{cols}", count, lambda: pack_weights(rows, channels, columns, cols)),
        asm.pack(f"{node.name}.b", bias_of(asm, node, channels)), params,
    )  # fmt: skip
    read = flattened if flattened is not None and len(pixels) > 1 else source
    facts: dict[str, Any] = {"call": call}
    if residual is not None:
        facts["in_place"] = 1
    asm.step(emit(spec, isa), "linear", node.name, (read, residual) if residual is not None else (read,), (y,), facts)
    asm.define(y)


def arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Argument words, in the order of `linear.ARGUMENTS`."""
    call: LinearCall = step.params["call"]
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, (Planes, Flattened)) and isinstance(target, Planes)
    x, y = bound.geometry(source), bound.geometry(target)
    r = bound.geometry(step.reads[1]) if call.spec.residual else y  # type: ignore[arg-type]
    taps = call.taps
    table = (x.planes[taps.plane] + taps.lane * 4 + taps.dy * x.row + taps.dx * x.pixel).reshape(-1)
    scratch, every = bound.scratch(scratch_bytes(call.spec, call.isa))
    residual: Sequence[Word] = (bound.arena, bound.table(r.planes)) if call.spec.residual else (0, 0)
    return [
        bound.arena, bound.constant(call.weights), bound.constant(call.bias), bound.arena, bound.table(y.planes),
        *residual, bound.table(offsets_table(table, step.node)), len(table), x.images, x.image, y.image,
        r.image, call.blocks_out, scratch, every, *(float_word(p) for p in call.params),
    ]  # fmt: skip
