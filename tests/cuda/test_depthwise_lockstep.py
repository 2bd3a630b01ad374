"""The depthwise kernels, executed in lock step, against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_support import MATHS, Layer, check, run_depthwise

from convc.backends.cuda import depthwise
from convc.backends.cuda.lockstep import LockstepError
from convc.backends.cuda.spec import DepthwiseSpec, Epilogue

LAYERS = {
    "3x3": Layer(2, 9, 7, 12),
    "stride 2": Layer(1, 9, 11, 10, stride=(2, 2)),
    "5x5, uneven stride, dilated": Layer(1, 9, 11, 10, 0, (5, 5), (1, 2), (2, 4, 2, 4), (1, 2)),
    "tall": Layer(1, 9, 8, 5, kernel=(9, 3), padding=(4, 1, 4, 1)),
    "wide": Layer(1, 3, 13, 3, kernel=(1, 11), padding=(0, 5, 0, 5)),
}  # fmt: skip


def spec_of(math: str, layer: Layer, **more: object) -> DepthwiseSpec:
    end = Epilogue(**{"output": math, **more})  # type: ignore[arg-type]
    columns = depthwise.columns_for(math, layer.kernel, layer.stride)
    return DepthwiseSpec(math, layer.kernel, layer.stride, layer.dilation, columns, end)  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("math", MATHS)
def test_ragged_shapes(math: str, layer: Layer) -> None:
    check(run_depthwise(spec_of(math, layer, activation="clip"), replace(layer, extra=1)), math)
    check(run_depthwise(spec_of(math, layer, residual=True, lanes=True), replace(layer, extra=1)), math)


def test_one_text_serves_every_height_and_vertical_stride() -> None:
    names = {depthwise.emit(spec_of("f32", Layer(kernel=(r, 3), stride=(s, 1)))) for r in (1, 3, 9) for s in (1, 2)}
    assert len(names) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [("inside(ih, height)", "inside(ih, height + 1)"), ("inside(iw + 3, width)", "inside(iw + 3, width + 99)"),
     ("ok3 = some & ", "ok3 = some | "), ("inside(ox + 2, ow)", "inside(ox + 2, ow + 1)")],
)  # fmt: skip
def test_a_planted_fault_is_caught(old: str, new: str) -> None:
    layer = Layer(1, 5, 6, 8, padding=(1, 1, 1, 1))
    spec = spec_of("f32", layer)
    assert old in depthwise.emit(spec)[1]
    try:
        outcome = run_depthwise(spec, layer, lambda source: source.replace(old, new))
    except LockstepError:
        return
    with pytest.raises(AssertionError):
        check(outcome, "f32")
