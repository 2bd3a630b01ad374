"""conv2d with a channel a group as calls of the depthwise kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.backends.cuda import conv_launch, depthwise
from convc.backends.cuda.binding_roles import Roles, bind
from convc.backends.cuda.formulas import function_of
from convc.backends.cuda.layout import CudaAssembler
from convc.backends.cuda.plan import Launch, LaunchPlan
from convc.backends.cuda.spec import DepthwiseSizes, DepthwiseSpec, Epilogue, Math, padded
from convc.backends.program import Planes, Step
from convc.ir.graph import Node
from convc.types import Activation, Array


@dataclass(frozen=True, eq=False)
class DepthwiseCall:
    """One call of the kernel, before sizes are known. `tables` names what is packed."""

    spec: DepthwiseSpec
    padding: tuple[int, int]
    tables: dict[str, str]
    params: tuple[float, ...]


def append_depthwise(asm: CudaAssembler, node: Node, x: Planes, math: Math, weights: Array, bias: Array | None) -> None:
    """Append the call for a conv2d of natural x with weights [C, 1, R, S]."""
    (top, left, _, _), stride, dilation = node.attrs["padding"], node.attrs["stride"], node.attrs["dilation"]
    activation: Activation | None = node.attrs["activation"]
    function, params = function_of(activation)
    residual_name = node.input("residual")
    residual = asm.natural(residual_name) if residual_name is not None else None
    output: Any = "f32" if math == "tf32" and not asm.graph.users(node.name) else math
    order = asm.wanted.get(node.name) if residual is None else None
    end = Epilogue(bias is not None, residual is not None, function, output, order is not None)
    kernel = (weights.shape[2], weights.shape[3])
    spec = DepthwiseSpec(math, kernel, stride, dilation, depthwise.columns_for(math, kernel, stride), end)
    packed = depthwise.pack_weights(spec, weights[:, 0])
    tables = {"w": asm.pack(f"{node.name}.w", packed)}
    if bias is not None:
        whole = np.zeros(padded(len(bias), asm.vector), np.float32)
        whole[: len(bias)] = bias
        tables["bias"] = asm.pack(f"{node.name}.b", whole)
    if order is not None:
        lanes = conv_launch.pack_lanes(end, order, 1, np.arange(len(order), asm.padded(len(order))))
        tables["lanes"] = asm.pack(f"{node.name}.lanes", lanes)
    y = asm.new_planes(node.name, node.type)
    reads = (x, residual) if residual is not None else (x,)
    facts: dict[str, Any] = {"call": DepthwiseCall(spec, (top, left), tables, params)}
    if residual is not None:
        facts["in_place"] = 1
    asm.step(depthwise.emit(spec, "cuda"), "depthwise", node.name, reads, (y,), facts)
    asm.define(asm.stored(y, order))


def depthwise_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of the depthwise kernel."""
    call: DepthwiseCall = step.params["call"]
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.view(source), bound.view(target)
    if y.pixels == 0:
        return ()
    roles: Roles = {"x": x.pointer, "y": y.pointer}
    pitch = 0
    if call.spec.epilogue.residual:
        other = step.reads[1]
        assert isinstance(other, Planes)
        r = bound.view(other)
        roles["residual"], pitch = r.pointer, r.pitch
    roles |= {role: bound.packed(name) for role, name in call.tables.items()}
    sizes = DepthwiseSizes(
        y.images, x.height, x.width, y.channels, y.height, y.width, x.pitch, y.pitch, call.padding, pitch, call.params
    )
    return (bind(step.kernel, depthwise.launch(call.spec, sizes), roles),)
