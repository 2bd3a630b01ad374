"""Winograd's three kernels, executed in lock step one after the other, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_support import check_lockstep
from kernel_support import POISON, Layer, reference, run_launch

from convc import Builder
from convc.backends.cuda import conv, conv_launch, winograd, winograd_conv
from convc.backends.cuda.spec import Epilogue, Tile, WinogradSizes, padded
from convc.ir.graph import Graph

TILE = Tile(32, 32, 32, 16, 16, 2)
LAYERS = {
    "odd sizes": Layer(2, 7, 9, 5, 6),
    "no padding": Layer(1, 6, 8, 12, 9, padding=(0, 0, 0, 0)),
    "one pixel": Layer(1, 1, 1, 4, 4),
    "uneven padding": Layer(1, 5, 4, 9, 13, padding=(0, 1, 2, 0)),
}


def run(layer: Layer, end: Epilogue) -> tuple[float, bool]:
    rng = np.random.default_rng(0)
    lanes, outputs, (height, width) = padded(layer.channels, 4), padded(layer.outputs, 4), layer.size
    x = np.full((layer.batch, layer.height, layer.width, lanes + 4), POISON, np.float32)
    x[..., :lanes] = 0
    x[..., : layer.channels] = rng.standard_normal((*x.shape[:3], layer.channels))
    w = rng.standard_normal((layer.outputs, 3, 3, layer.channels)).astype(np.float32)
    bias = rng.standard_normal(layer.outputs).astype(np.float32)
    residual = rng.standard_normal((layer.batch, height, width, outputs + 4)).astype(np.float32)
    s = WinogradSizes(
        layer.batch, layer.height, layer.width, layer.channels, layer.outputs, height, width, lanes + 4, outputs + 4,
        layer.padding[:2], outputs + 4,
    )  # fmt: skip
    buffers = {
        "x": x, "w": winograd.pack_weights(TILE, w), "bias": conv_launch.pack_bias(end, bias, 1), "residual": residual,
        "spread": np.full(winograd.spread_bytes(s) // 4, np.nan, np.float32),
        "products": np.full(winograd.products_bytes(s) // 4, np.nan, np.float32),
        "y": np.full(residual.shape, POISON, np.float32),
    }  # fmt: skip
    ran = run_launch(winograd.emit_spread()[1], winograd.launch_spread(s), buffers)
    assert ran.unwritten["spread"] == 0
    ran = run_launch(conv.emit(winograd.product_spec(TILE))[1], winograd.launch_products(TILE, s), buffers)
    assert ran.unwritten["y"] == 0
    run_launch(winograd.emit_gather(end)[1], winograd.launch_gather(end, s), buffers)
    exact = x[..., None, : layer.channels].astype(np.float64)
    want = reference(exact, w[None].astype(np.float64), layer)[..., 0, :] + bias
    if end.residual:
        want += residual[..., : layer.outputs]
    if end.activation == "relu":
        want = np.maximum(want, 0)
    y = buffers["y"]
    clean = (y[..., layer.outputs : outputs] == 0).all() and (y[..., outputs:] == np.float32(POISON)).all()
    return float(np.abs(y[..., : layer.outputs] - want).max() / np.abs(want).max()), bool(clean)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_ragged_shapes(layer: Layer) -> None:
    for end in (Epilogue(activation="relu"), Epilogue(residual=True)):
        error, clean = run(layer, end)
        assert error < 2e-6 and clean


def test_it_pays_for_many_channels_and_not_for_few() -> None:
    def sizes(channels: int, side: int) -> WinogradSizes:
        return WinogradSizes(32, side, side, channels, channels, side, side, channels, channels)

    assert winograd.pays(sizes(512, 14), "sm_90a")
    assert not winograd.pays(sizes(16, 112), "sm_90a")


def network(channels: int, residual: bool) -> Graph:
    """Two convolutions of 3x3, the second with the input's sum where asked."""
    b = Builder("small", seed=0)
    x = b.input("x", ("N", channels, 7, 6))
    y = b.relu(b.conv(x, channels, kernel=3, padding=1))
    y = b.conv(y, channels, kernel=3, padding=1)
    return b.finish({"y": b.relu(b.add(y, x)) if residual else y})


@pytest.mark.parametrize("residual", [False, True])
def test_a_network_takes_images_in_parts(monkeypatch: pytest.MonkeyPatch, residual: bool) -> None:
    """Forced here, as so small a layer would not pay; 5 images, 2 at once."""
    monkeypatch.setattr(winograd, "pays", lambda sizes, arch: True)
    monkeypatch.setattr(winograd_conv, "CHUNK_BYTES", 2 * 12 * 16 * (12 + 12) * 4)
    program = check_lockstep(network(10, residual), passes="default", races=True, N=5)
    calls = [step.params["call"].winograd for step in program.steps if step.family == "conv"]
    assert len(calls) == 2 and None not in calls
