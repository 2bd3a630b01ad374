"""The prologue of conv2d on the CPU, in the operator table, and in ONNX, against its parts."""

from __future__ import annotations

import onnx
import pytest
from cpu_support import check
from support import assert_same_outputs, graph_of

from convc.errors import ModelError
from convc.frontends.onnx import load_onnx
from convc.frontends.onnx.export import export_onnx
from convc.ir.graph import Graph
from convc.passes import Numerics


def net(conv: str, ahead: str = "", channels: int = 6, w: str = "[4, 6, 3, 3]") -> Graph:
    return graph_of(
        f"""
        %x = input : f32[2, {channels}, 7, 6]
        %s = constant normal(seed=1, mean=1.0) : f32[{channels}]
        %t = constant normal(seed=2) : f32[{channels}]
        %s3 = constant normal(seed=1, mean=1.0) : f32[{channels}, 1, 1]
        %t3 = constant normal(seed=2) : f32[{channels}, 1, 1]
        %w = constant normal(seed=3) : f32{w}
        %b = constant normal(seed=4) : f32[4]
        {ahead}
        %y = {conv}
        return %y
        """
    )


SCALED = "%m = mul(%x, %s3)\n%a = add(%m, %t3)"
PADDED = "padding=[1, 1, 0, 2]"
CASES = [
    (f"conv2d(%x, %w, _, _, %s, %t) {{{PADDED}}}", SCALED, f"conv2d(%a, %w) {{{PADDED}}}"),
    (f"conv2d(%x, %w, %b, _, %s, %t) {{{PADDED}, prologue=relu}}", f"{SCALED}\n%r = relu(%a)",
     f"conv2d(%r, %w, %b) {{{PADDED}}}"),
    (f"conv2d(%x, %w, %b, _, _, %t) {{{PADDED}, prologue=sigmoid}}", "%a = add(%x, %t3)\n%r = sigmoid(%a)",
     f"conv2d(%r, %w, %b) {{{PADDED}}}"),
    ("conv2d(%x, %w, _, _, %s) {stride=[2, 1], activation=relu, prologue=clip(0.0, 0.5)}",
     "%a = mul(%x, %s3)\n%r = clip(%a) {min=0.0, max=0.5}", "conv2d(%r, %w) {stride=[2, 1], activation=relu}"),
    (f"conv2d(%x, %w) {{{PADDED}, prologue=exp}}", "%r = exp(%x)", f"conv2d(%r, %w) {{{PADDED}}}"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "ahead", "conv"), CASES)
def test_it_is_what_stands_ahead(one: str, ahead: str, conv: str) -> None:
    graph = net(one)
    assert_same_outputs(net(conv, ahead), graph, Numerics.REASSOCIATES)
    check(graph, threads=2)
    model = export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert_same_outputs(graph, load_onnx(model), Numerics.REASSOCIATES)


@pytest.mark.parametrize("groups", [20, 4, 1])
def test_groups_and_channels_that_end_within_a_vector(groups: int) -> None:
    conv = f"conv2d(%x, %w, _, _, %s, %t) {{{PADDED}, prologue=relu, groups={groups}}}"
    check(net(conv, channels=20, w=f"[20, {20 // groups}, 3, 3]"))


def test_of_several_values_by_two_readers() -> None:
    """A concat is a list of planes; each reader maps it for itself."""
    graph = graph_of(
        """
        %x = input : f32[2, 5, 6, 6]
        %v = constant normal(seed=1) : f32[21, 5, 1, 1]
        %s = constant normal(seed=2) : f32[47]
        %w = constant normal(seed=3) : f32[3, 47, 3, 3]
        %a = conv2d(%x, %v)
        %b = relu(%a)
        %c = concat(%a, %b, %x) {axis=1}
        %y = conv2d(%c, %w, _, _, %s, %s) {padding=[1, 1, 1, 1], prologue=relu}
        %z = conv2d(%c, %w, _, _, _, %s) {padding=[2, 2, 2, 2], prologue=tanh}
        return %y, %z
        """
    )
    check(graph)


def test_parameters_and_multiply_adds() -> None:
    plain, one = net("conv2d(%x, %w)"), net("conv2d(%x, %w, _, _, %s, %t)")
    assert one.macs() == plain.macs()
    assert one.parameters() == plain.parameters() + 12


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        ("conv2d(%x, %w, _, _, %b)", "scale is f32[4], expected shape [6]"),
        ("conv2d(%x, %w, _, _, _, %b)", "shift is f32[4], expected shape [6]"),
        ("conv2d(%x, %w) {prologue=add}", "add is no activation"),
    ],
)
def test_what_does_not_fit_is_refused(conv: str, reason: str) -> None:
    with pytest.raises(ModelError) as error:
        net(conv)
    assert reason in str(error.value) and "%y" in str(error.value)
