"""Building networks by hand: names, short forms, seeded weights, and what each mistake is answered with."""

from __future__ import annotations

import numpy as np
import pytest

from convc.dims import Dim
from convc.errors import ModelError
from convc.frontends.builder import Builder, Value
from convc.interp import run_graph
from convc.types import DType


def image(b: Builder, channels: int = 4) -> Value:
    return b.input("x", ("N", channels, "H", "W"), nominal={"H": 8, "W": 8})


def test_names_are_hierarchical_and_stable() -> None:
    b = Builder("net")
    x = image(b)
    with b.scope("layer1"), b.scope("0"):
        y = b.relu(b.batch_norm(b.conv(x, 8, kernel=3, name="conv1"), name="bn1"))
        y = b.relu(y)
    graph = b.finish({"y": y})
    names = [n.name for n in graph.operators]
    assert names == ["layer1.0.conv1", "layer1.0.bn1", "layer1.0.relu", "layer1.0.relu_1"]
    assert [n.name for n in graph.constants] == [
        "layer1.0.conv1.weight", "layer1.0.conv1.bias",
        "layer1.0.bn1.weight", "layer1.0.bn1.bias", "layer1.0.bn1.running_mean", "layer1.0.bn1.running_var",
    ]  # fmt: skip
    assert graph["layer1.0.conv1"].source == ("layer1.0.conv1",)
    assert [(o.name, o.node) for o in graph.outputs] == [("y", "layer1.0.relu_1")]
    assert graph.nominal == {"N": 1, "H": 8, "W": 8}


def test_short_forms_of_windows() -> None:
    b = Builder()
    x = image(b)
    node = b.conv(x, 4, kernel=(5, 3), stride=2, dilation=(2, 1)).node
    assert node.attrs["padding"] == (4, 1, 4, 1)
    assert (node.attrs["stride"], node.attrs["dilation"]) == ((2, 2), (2, 1))
    assert node.type.shape[2] == (Dim.symbol("H") - 1) // 2 + 1
    assert b.max_pool2d(x, kernel=2, padding="same").node.attrs["padding"] == (0, 0, 1, 1)
    assert b.avg_pool2d(x, kernel=3, padding=(1, 0)).node.attrs["padding"] == (1, 0, 1, 0)
    assert b.conv(x, 4, kernel=3, padding=(0, 1, 2, 3)).node.attrs["padding"] == (0, 1, 2, 3)
    assert b.conv_transpose(x, 6, kernel=4, stride=2, padding=1, groups=2).shape[1:3] == (6, 2 * Dim.symbol("H"))


@pytest.mark.parametrize(("size", "stride", "kernel"), [(7, 1, 4), (8, 2, 2), (9, 2, 3), (11, 3, 5)])
def test_same_padding_gives_the_ceiling(size: int, stride: int, kernel: int) -> None:
    b = Builder()
    x = b.input("x", (1, 1, size, size))
    assert b.conv(x, 1, kernel=kernel, stride=stride).shape[2] == -(-size // stride)


def test_arrays_numbers_and_operators() -> None:
    b = Builder()
    x = b.input("x", (2, 3, 4, 4))
    w = np.ones((1, 3, 1, 1), np.float32)
    y = 2 - b.conv2d(x, w, np.array([0.5], np.float32), name="sum") * 0.5
    y = np.float32(1) + (-y) / 4
    graph = b.finish(y)
    assert {"sum.weight", "sum.bias", "mul.b", "sub.a"} <= {n.name for n in graph.constants}
    assert all(n.type.dtype is DType.F32 for n in graph.nodes)
    value = np.random.default_rng(0).standard_normal((2, 3, 4, 4), dtype=np.float32)
    expected = 1 - (2 - (value.sum(1, keepdims=True) + 0.5) * 0.5) / 4
    np.testing.assert_allclose(run_graph(graph, {"x": value})[y.name], expected, rtol=1e-5, atol=1e-6)


def test_every_operator_is_a_method() -> None:
    b = Builder()
    x = b.input("x", ("N", 4, 6, 6))
    y = b.hard_swish(x)
    y = b.op("slice", [y], axis=1, start=0, stop=2, name="half")
    y = b.where(b.greater(y, 0.0), y, 0.0)
    y = b.transpose(b.reshape(y, ("N", -1)), perm=(1, 0))
    assert y.shape == (72, Dim.symbol("N"))
    assert "depth_to_space" in dir(b)
    with pytest.raises(AttributeError, match="no method conv9d"):
        b.conv9d(x)


def test_weights_depend_on_seed_and_name_only() -> None:
    def weights(seed: int, extra: bool, size: int | str = "H") -> dict[str, np.ndarray]:
        b = Builder(seed=seed)
        x = b.input("x", ("N", 3, size, size))
        if extra:
            b.conv(x, 5, kernel=3, name="unrelated")
        return b.finish(b.batch_norm(b.conv(x, 8, kernel=3, name="conv"), name="bn")).weights()

    first, second, other, small = weights(0, False), weights(0, True), weights(1, False), weights(0, False, 7)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
        np.testing.assert_array_equal(array, small[name])
        assert not np.array_equal(array, other[name])
    assert all(np.unique(array).size > 1 for array in first.values())


def test_given_weights_replace_the_seeded_ones() -> None:
    def build(weights: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        b = Builder(weights=weights)
        x = b.input("x", ("N", 3))
        return b.finish(b.linear(x, 2, name="fc")).weights()

    given = {"fc.weight": np.zeros((2, 3), np.float32), "fc.bias": np.ones(2, np.float32)}
    assert all(np.array_equal(array, given[name]) for name, array in build(given).items())
    with pytest.raises(ModelError, match=r"no array for %fc\.bias.*Hint"):
        build({"fc.weight": given["fc.weight"]})
    with pytest.raises(ModelError, match=r"\[3, 2\] for %fc\.weight, expected \[2, 3\].*Hint"):
        build({**given, "fc.weight": np.zeros((3, 2), np.float32)})


def test_batch_norm_follows_what_the_layers_compute() -> None:
    b = Builder(seed=3)
    x = image(b, 3)
    y = b.relu(b.conv(x, 16, kernel=3, bias=False)) * 100.0
    graph = b.finish(b.batch_norm(b.conv(y, 16, kernel=1), name="bn"))
    value = np.random.default_rng(0).standard_normal((4, 3, 32, 32), dtype=np.float32)
    out = run_graph(graph, {"x": value})["bn"]
    assert 0.5 < out.std() < 2
    assert np.abs(out.mean((0, 2, 3))).max() < 1


def test_statistics_where_the_sample_has_other_sizes() -> None:
    b = Builder()
    x = b.input("x", (2, 4, 6, 6))
    y = b.reshape(x, (2, 144))
    y = b.batch_norm(b.linear(y, 5), name="flat")
    z = b.batch_norm(
        b.reshape(b.transpose(b.reshape(x, (2, 2, 2, 6, 6)), perm=(0, 2, 1, 3, 4)), (2, 4, 6, 6)), name="shuffled"
    )
    graph = b.finish([y, z])
    value = np.random.default_rng(0).standard_normal((2, 4, 6, 6), dtype=np.float32)
    for name, out in run_graph(graph, {"x": value}).items():
        assert 0.2 < out.std() < 5, name


def broken(case: str) -> None:
    b = Builder()
    x = image(b)
    match case:
        case "groups":
            b.conv(x, 8, kernel=3, groups=3, name="stem")
        case "transposed groups":
            b.conv_transpose(x, 3, kernel=3, groups=2, name="up")
        case "channels":
            b.conv(b.input("z", ("N", "C", 4, 4)), 8, kernel=3, name="stem")
        case "name":
            b.relu(x, name="same")
            b.relu(x, name="same")
        case "padding":
            b.conv(x, 8, kernel=3, padding="full", name="stem")
        case "transposed padding":
            b.conv_transpose(x, 8, kernel=3, padding="same", name="up")
        case "kernel":
            b.conv(x, 8, kernel="3", name="stem")  # type: ignore[arg-type]
        case "no channels":
            b.conv(x, 0, kernel=3, name="stem")
        case "directions":
            b.conv_transpose(x, 8, kernel=(2, 2, 2), name="up")
        case "no value":
            b.conv(3, 8, kernel=3, name="stem")  # type: ignore[arg-type]
        case "linear":
            b.linear(x, 10, name="fc")
        case "batch_norm":
            b.batch_norm(b.input("z", ("N",)), name="bn")
        case "other builder":
            b.relu(image(Builder()), name="foreign")
        case "shapes":
            b.op("add", [x, b.input("z", (1, 3, 1, 1))], name="sum")
        case "operator":
            b.op("conv9d", [x], name="stem")
        case "attribute":
            b.conv2d(x, np.ones((1, 4, 1, 1), np.float32), name="stem", strides=2)
        case "dtype":
            b.input("z", (1,), "f31")
        case "output":
            b.finish({"y": image(Builder())})


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("groups", r"%stem: groups=3 must divide in_channels=4 .*use one of 1, 2, 4"),
        ("transposed groups", r"%up: groups=2 must divide 3"),
        ("channels", r"%stem: input %z: f32\[N, C, 4, 4\]"),
        ("name", r"two nodes are named %same"),
        ("padding", r"%stem: padding='full'.*same"),
        ("transposed padding", r"%up: padding='same'"),
        ("kernel", r"%stem: 8 channels of '3'"),
        ("no channels", r"%stem: 0 channels of 3 x 3"),
        ("directions", r"%up: 8 channels of 2 x 2 x 2"),
        ("no value", r"%stem: 3 is no value of the network"),
        ("linear", r"%fc: the last size of input %x: f32\[N, 4, H, W\] is symbolic"),
        ("batch_norm", r"%bn: input %z: f32\[N\]"),
        ("other builder", r"%foreign reads %x of another Builder"),
        ("shapes", r"add %sum: .*broadcast.*%x: f32\[N, 4, H, W\], %z"),
        ("operator", r"unknown operator conv9d for %stem"),
        ("attribute", r"conv2d %stem: .*no attribute strides"),
        ("dtype", r"input %z: dtype 'f31'"),
        ("output", r"%output y reads %x of another Builder"),
    ],
)
def test_mistakes_are_answered_with_the_node_and_a_hint(case: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        broken(case)
    assert caught.value.hint
