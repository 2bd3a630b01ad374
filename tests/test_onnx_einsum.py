"""Einsum, and elements picked and put by index, from ONNX models: against NumPy, interpreted and compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx_support import Shape, floats, model, node

import convc
from convc.errors import ModelError
from convc.frontends.onnx import load_onnx
from convc.types import Array


def run_both(proto: onnx.ModelProto, inputs: Mapping[str, Array], expected: Array) -> None:
    for target in ("reference", "cpu"):
        (found,) = convc.compile(proto, target=target).run(inputs).values()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bhid, bhjd -> bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bcij,ck->bkij", [(2, 3, 4, 5), (3, 6)]),
        ("ij,kl->jilk", [(2, 3), (4, 5)]),
        ("i,i->", [(7,), (7,)]),
        ("i,j", [(3,), (4,)]),
        ("ba,bc", [(3, 4), (3, 5)]),
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 6)]),
        ("...i,ij", [(2, 3, 4), (4, 5)]),
        ("ij...->...i", [(2, 3, 4, 5)]),
        ("iji->ji", [(3, 4, 3)]),
        ("iij,kj->k", [(3, 3, 4), (5, 4)]),
        ("ab,bc,cd->ad", [(2, 3), (3, 4), (4, 5)]),
        ("abq,acq,b->cq", [(2, 3, 4), (2, 5, 4), (3,)]),
    ],
)
def test_einsum(equation: str, shapes: Sequence[tuple[int, ...]]) -> None:
    inputs = {f"x{i}": floats(*shape, seed=i) for i, shape in enumerate(shapes)}
    wide = [array.astype(np.float64) for array in inputs.values()]
    proto = model([node("Einsum", " ".join(inputs), equation=equation)], inputs)
    run_both(proto, inputs, np.asarray(np.einsum(equation, *wide)))


def test_einsum_of_any_batch_with_a_constant() -> None:
    w = floats(4, 5)
    compiled = convc.compile(model([node("Einsum", "x w", equation="nij,jk->nki")], {"x": ("N", 3, 4)}, {"w": w}))
    assert [node.op for node in compiled.graph.operators].count("matmul") == 0
    for batch in (1, 3):
        x = floats(batch, 3, 4)
        np.testing.assert_allclose(compiled(x), np.einsum("nij,jk->nki", x, w), atol=2e-6)


@pytest.mark.parametrize(
    ("equation", "shapes", "message"),
    [
        ("ij->ik", [(2, 3)], "or has one of its own"),
        ("ij->ii", [(2, 3)], "repeats a letter"),
        ("ij,jk", [(2, 3)], "has 2 terms for 1 inputs"),
        ("ijk->i", [(2, 3)], "term ijk does not fit"),
        ("i.j->i", [(2, 3)], "is not a term"),
        ("i&j->i", [(2, 3)], "is not understood"),
        ("ii->i", [(2, 3)], "i stands for sizes 2 and 3"),
        ("ij,jk->ik", [(2, 3), (4, 5)], "Einsum n_y: j stands for sizes .3, 4."),
    ],
)
def test_what_einsum_does_not_take(equation: str, shapes: Sequence[tuple[int, ...]], message: str) -> None:
    names = [f"x{i}" for i in range(len(shapes))]
    with pytest.raises(ModelError, match=message):
        load_onnx(model([node("Einsum", " ".join(names), equation=equation)], dict(zip(names, shapes, strict=True))))


def test_gather_nd() -> None:
    x, places = floats(4, 5, 6), np.array([[[0, 1], [-1, 4]], [[3, -5], [2, 2]]])
    proto = model([node("GatherND", "x at")], {"x": x}, {"at": places})
    run_both(proto, {"x": x}, x[places[..., 0], places[..., 1]])


def test_gather_nd_behind_batch_axes() -> None:
    x, places = floats(2, 5, 6), np.array([[[4], [0]], [[-1], [3]]])
    proto = model([node("GatherND", "x at", batch_dims=1)], {"x": x}, {"at": places})
    run_both(proto, {"x": x}, np.stack([x[i, places[i, :, 0]] for i in range(2)]))


def test_scatter_nd() -> None:
    x, updates, places = floats(4, 5, 6), floats(3, 6, seed=1), np.array([[0, 1], [-1, 4], [2, -2]])
    proto = model([node("ScatterND", "x at u")], {"x": x, "u": updates}, {"at": places})
    expected = x.copy()
    expected[places[:, 0], places[:, 1]] = updates
    run_both(proto, {"x": x, "u": updates}, expected)


@pytest.mark.parametrize(
    ("op", "places", "message"),
    [
        ("GatherND", [[0, 5]], "indices 5 to 5 of an axis of 5"),
        ("GatherND", [[0, 1, 2, 3]], "do not fit"),
        ("ScatterND", [[-5, 0]], "indices -5 to -5 of an axis of 4"),
    ],
)
def test_places_that_are_not_there(op: str, places: Sequence[Sequence[int]], message: str) -> None:
    inputs: dict[str, Shape] = {"x": (4, 5, 6), "u": (1, 6)} if op == "ScatterND" else {"x": (4, 5, 6)}
    with pytest.raises(ModelError, match=message):
        load_onnx(model([node(op, "x at u" if "u" in inputs else "x at")], inputs, {"at": np.array(places)}))


def test_col2im_with_rows_that_no_window_reaches() -> None:
    """Windows of 3 x 2, every 2 rows and 3 columns, over an image of 7 x 9 that they do not fill."""
    image, kernel, stride, pads, dilations = (7, 9), (3, 2), (2, 3), (1, 0, 0, 1), (1, 2)
    columns = floats(2, 4 * 6, 3 * 3)
    expected = np.zeros((2, 4, image[0] + 1, image[1] + 1))
    for window in range(9):
        top, left = window // 3 * stride[0], window % 3 * stride[1]
        for r in range(3):
            for s in range(2):
                taps = columns.reshape(2, 4, 6, 9)[:, :, r * 2 + s, window]
                expected[:, :, top + r * dilations[0], left + s * dilations[1]] += taps
    proto = model(
        [node("Col2Im", "x image block", strides=stride, pads=pads, dilations=dilations)], {"x": columns},
        {"image": np.array(image), "block": np.array(kernel)}, opset=18,
    )  # fmt: skip
    run_both(proto, {"x": columns}, expected[:, :, 1:, :9])
