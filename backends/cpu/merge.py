"""Kernels of convolutions, written once all calls are known: those that differ at their end alone are compiled once.

A network's convolutions of one kind end with a residual or without, with relu or without. A kernel that can add a
residual adds none where it gets no table of its planes; one that can pool does where it is told to; relu is the larger
of each number and 0, and nothing at all is the larger of it and minus infinity. Half of ResNet-18's kernels go.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from convc.backends.assemble import Assembler
from convc.backends.cpu import conv, conv_ahead, conv_dot, conv_window, winograd, winograd_few
from convc.backends.cpu.isa import Isa
from convc.backends.program import Step

Spec = conv.ConvSpec | winograd.WinogradSpec | winograd_few.FewSpec
LEAST = {"relu": 0.0, "": -inf}
"""What each number is at least, after the activations that can be told apart by that."""


def named(spec: Spec, isa: Isa) -> tuple[str, str]:
    """A kernel by its name, without its source, which `write_kernels` writes."""
    return spec.name(isa), ""


def write_kernels(asm: Assembler, isa: Isa) -> None:
    """The kernels of convolutions: those that differ by residual, or by relu or nothing, become one."""
    alike: dict[Spec, list[int]] = {}
    for index, step in enumerate(asm.steps):
        if step.family in {"conv", "winograd"}:
            spec: Spec = step.params["call"].spec
            name = "" if spec.activation in LEAST else spec.activation
            alike.setdefault(replace(_pooling(spec, ""), residual=False, activation=name), []).append(index)
    for indices in alike.values():
        specs = [asm.steps[index].params["call"].spec for index in indices]
        residual = any(spec.residual for spec in specs)
        pools = {spec.pool for spec in specs if not isinstance(spec, conv.ConvSpec)} - {""}
        for index, spec in zip(indices, specs, strict=True):
            merged = replace(_pooling(spec, *pools) if len(pools) == 1 else spec, residual=residual)
            if len({one.activation for one in specs}) > 1:
                merged = replace(merged, activation="at_least", params=1)
            if merged != spec:
                asm.steps[index] = _calling(asm.steps[index], merged, isa)
            name = merged.name(isa)
            if not asm.kernels.get(name):
                asm.kernels[name] = emit(merged, isa)[1]
    called = {step.kernel for step in asm.steps}
    asm.kernels = {name: source for name, source in asm.kernels.items() if name in called}


def _pooling(spec: Spec, pool: str) -> Spec:
    """The kernel that can pool, too: it does where a call asks for it."""
    return spec if isinstance(spec, conv.ConvSpec) else replace(spec, pool=pool)


def _calling(step: Step, spec: Spec, isa: Isa) -> Step:
    call = step.params["call"]
    params = (LEAST[call.spec.activation],) if spec.activation == "at_least" else call.params
    return replace(
        step, kernel=spec.name(isa), params={**step.params, "call": replace(call, spec=spec, params=params)}
    )


def emit(spec: Spec, isa: Isa) -> tuple[str, str]:
    """Name and source of the kernel of a specification."""
    if isinstance(spec, winograd.WinogradSpec):
        return winograd.emit(spec, isa)
    if isinstance(spec, winograd_few.FewSpec):
        return winograd_few.emit(spec, isa)
    if spec.ahead is not None:
        return conv_ahead.emit(spec, isa)
    by_mode = {"window": conv_window.emit, "dot": conv_dot.emit}
    return by_mode.get(spec.mode, conv.emit)(spec, isa)
