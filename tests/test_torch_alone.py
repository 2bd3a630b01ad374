"""Modules that take one item without a batch axis, as most of PyTorch's do. Skipped where torch is not installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convc
from convc.interp import run_graph
from convc.source import read_source

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
nn = torch.nn


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv1d(4, 6, 3, padding="same"), (4, 11)),
        (nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2), (4, 9, 8)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (4, 5, 6)),
        (nn.MaxPool1d(2), (4, 9)),
        (nn.MaxPool2d(3, 2, padding=1), (4, 9, 8)),
        (nn.AvgPool1d(3, 1, padding=1), (4, 9)),
        (nn.AvgPool2d(2, ceil_mode=True), (4, 9, 7)),
        (nn.LPPool2d(2, 2), (4, 9, 7)),
        (nn.AdaptiveAvgPool1d(4), (4, 9)),
        (nn.AdaptiveAvgPool2d((3, 5)), (4, 9, 7)),
        (nn.AdaptiveMaxPool1d(3), (4, 9)),
        (nn.AdaptiveMaxPool2d(1), (4, 9, 7)),
        (nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(0), nn.Linear(96, 5)), (4, 8, 10)),
    ],
    ids=str,
)
@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_one_item(module: Any, shape: tuple[int, ...], target: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    graph = read_source(module.eval(), example_inputs=(x,), input_shapes={"input": shape})
    with torch.no_grad():
        expected = module(x).numpy()
    found = convc.compile(graph, target=target)(x.numpy())
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert run_graph(graph, {"input": x.numpy()})["output"].shape == expected.shape
