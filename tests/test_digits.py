"""The digit classifier: what it recognises, and the training that made it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from convc.data import FOLDER, load_digits_test, load_digits_train, load_digits_weights
from convc.frontends.builder import Builder, Value
from convc.interp import run_graph
from convc.ir.graph import Graph
from convc.zoo import build
from convc.zoo.digits import digits_architecture


@pytest.fixture(scope="module")
def training() -> ModuleType:
    pytest.importorskip("sklearn")
    path = Path(__file__).parent.parent / "examples" / "train_digits.py"
    spec = importlib.util.spec_from_file_location("train_digits", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_at_least_97_percent_of_the_held_out_digits_are_recognised() -> None:
    images, labels = load_digits_test()
    assert images.shape == (360, 1, 8, 8) and images.dtype == np.float32 and labels.shape == (360,)
    assert images.min() == 0 and images.max() == 1
    logits = run_graph(build("digits"), {"image": images})["logits"]
    assert (logits.argmax(1) == labels).mean() >= 0.97


def test_the_files_are_small_and_complete() -> None:
    assert (FOLDER / "digits.safetensors").stat().st_size < 1 << 20
    assert all((FOLDER / f"digits_{name}.npz").stat().st_size < 1 << 16 for name in ("test", "train"))
    expected = {n.name: n.type.shape for n in digits_architecture().constants}
    assert {name: array.shape for name, array in load_digits_weights().items()} == expected


def test_the_network_has_one_of_everything() -> None:
    graph = build("digits")
    convolutions = [n for n in graph.operators if n.op == "conv2d"]
    shapes = {n.name: graph[n.operands[1]].type.shape for n in convolutions}
    assert shapes["wide.conv"][2:] == (5, 5)
    assert {n.attrs["groups"] for n in convolutions} == {1, 4, 32}
    assert {"batch_norm", "relu", "clip", "add", "transpose", "global_avg_pool", "linear"} <= {
        n.op for n in graph.nodes
    }
    macs = {n.name: graph.node_macs(n) for n in graph.operators}
    nominal = {name: m if isinstance(m, int) else m.bind(graph.nominal) for name, m in macs.items()}
    assert nominal["wide.conv"] > graph.macs() / 2


def test_the_held_out_digits_are_every_fifth(training: ModuleType) -> None:
    (images, labels), (test_images, test_labels) = training.split()
    assert len(images) == len(labels) == 1437
    stored_images, stored_labels = load_digits_test()
    np.testing.assert_array_equal(stored_images, test_images)
    np.testing.assert_array_equal(stored_labels, test_labels)
    np.testing.assert_array_equal(load_digits_train(), images)


def test_a_short_training_decreases_the_loss(training: ModuleType) -> None:
    (images, labels), _ = training.split()
    graph = digits_architecture(seed=1)
    weights = graph.weights()
    losses = list(training.train(graph, weights, images[:320], labels[:320], epochs=4, batch=64))
    assert losses[-1] < 0.9 * losses[0]
    assert all(array.dtype == np.float32 for array in weights.values())
    assert not np.array_equal(weights["wide.bn.running_mean"], graph["wide.bn.running_mean"].array)


def layer(case: str) -> Graph:
    b = Builder(case, sample=8)
    x: Value = b.input("x", (2, 4, 5, 6))
    match case:
        case "conv2d":
            y = b.conv(x, 6, kernel=3, stride=(2, 1), padding=(1, 0, 2, 1), bias=False)
        case "grouped":
            y = b.conv(x, 6, kernel=(3, 2), groups=2, bias=False)
        case "depthwise":
            y = b.conv(x, 4, kernel=3, groups=4, stride=2, bias=False)
        case "batch_norm":
            y = b.batch_norm(x)
        case "clip":
            y = b.clip(b.add(x, x), min=-0.5, max=0.5)
        case "relu":
            y = b.relu(x)
        case "shuffle":
            y = b.reshape(b.transpose(b.reshape(x, (2, 2, 2, 5, 6)), perm=(0, 2, 1, 3, 4)), (2, 4, 5, 6))
        case "head":
            y = b.linear(b.flatten(b.global_avg_pool(x)), 3)
        case _:
            y = b.relu(b.batch_norm(b.conv(x, 4, kernel=3, bias=False)) + x)
    return b.finish({"y": y})


@pytest.mark.parametrize(
    "case", ["conv2d", "grouped", "depthwise", "batch_norm", "clip", "relu", "shuffle", "head", "residual"]
)
def test_gradients_are_those_of_finite_differences(training: ModuleType, case: str) -> None:
    graph = layer(case)
    rng = np.random.default_rng(0)
    values = {name: array.astype(np.float64) for name, array in graph.weights().items()}
    values["x"] = rng.standard_normal((2, 4, 5, 6))
    output = graph.outputs[0].node
    direction = rng.standard_normal(graph[output].type.concrete({}))

    def loss(changed: dict[str, np.ndarray]) -> float:
        weights = {name: array for name, array in changed.items() if name != "x"}
        return float((training.forward(graph, weights, changed["x"])[0][output] * direction).sum())

    _, pulls = training.forward(graph, {n: a for n, a in values.items() if n != "x"}, values["x"])
    gradients = training.backward(graph, pulls, output, direction)
    for name in ["x", *(n for n in graph.weights() if not n.endswith(("mean", "var")))]:
        step = rng.standard_normal(values[name].shape) * 1e-6
        change = loss({**values, name: values[name] + step}) - loss({**values, name: values[name] - step})
        expected = 2 * float((gradients[name] * step).sum())
        assert change == pytest.approx(expected, rel=1e-4, abs=1e-10), name


def test_the_gradient_of_the_loss(training: ModuleType) -> None:
    rng = np.random.default_rng(0)
    logits, labels, step = rng.standard_normal((4, 10)), np.array([3, 0, 9, 3]), rng.standard_normal((4, 10)) * 1e-6
    _, gradient = training.cross_entropy(logits, labels)
    change = training.cross_entropy(logits + step, labels)[0] - training.cross_entropy(logits - step, labels)[0]
    assert change == pytest.approx(2 * float((gradient * step).sum()), rel=1e-4)
