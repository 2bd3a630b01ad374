"""Winograd's algorithm on phases: of the input of a strided convolution, of the output of a transposed one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS, assert_close, check, expected_outputs, replan
from support import random_inputs

import convc
from convc.backends.cpu import choice, convolution, phases_pack
from convc.backends.cpu.isa import ISAS, TYPICAL, Isa, Speed, speed_of
from convc.backends.cpu.phases import Axis, Phases
from convc.backends.cpu.winograd_points import forms_of, transform_kernels
from convc.frontends.builder import Builder
from convc.model import CompiledModel
from convc.types import Activation


@pytest.fixture
def forms_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's forms wherever there is one, however long they are predicted to take."""
    every = choice.candidates.__wrapped__
    monkeypatch.setattr(choice, "WORTH", np.inf)
    monkeypatch.setattr(choice, "MOST", None)

    def forms(isa: Isa, facts: choice.Facts, speed: Speed = TYPICAL) -> list[tuple[choice.Choice, float]]:
        found = every(isa, facts, speed)
        with_form = [(one, 0.0) for one, _ in found if one.form is not None and not one.few]
        return with_form[:1] or [one for one in found if one[0].form is None]

    for module in (convolution, phases_pack):
        monkeypatch.setattr(module, "candidates", forms)


def families(model: CompiledModel) -> list[str]:
    return [step.family for step in model.program.steps]


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7, 11])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", [0, 1, 2, 3, 5])
def test_phases_are_the_strided_convolution(kernel: int, stride: int, padding: int) -> None:
    """Along one axis, by their definition: pixel i of the output reads x[stride i + t - padding] through tap t."""
    axis = Axis.of(kernel, stride, padding)
    assert axis.taps == min(Axis(stride, e, 0, 0).of_tap(kernel - 1, padding)[1]
                            - Axis(stride, e, 0, 0).of_tap(0, padding)[1] for e in range(stride)) + 1  # fmt: skip
    rng = np.random.default_rng(kernel)
    x, w = rng.standard_normal(23), rng.standard_normal(kernel)

    def at(signal: Any, index: int) -> float:
        return float(signal[index]) if 0 <= index < len(signal) else 0.0

    count = int(axis.pixels(len(x)))
    parts = [[at(x, stride * j + a - axis.early) for j in range(count)] for a in range(axis.stride)]
    for i in range((len(x) + 2 * padding - kernel) // stride + 1):
        total = 0.0
        for tap in range(kernel):
            phase, place = axis.of_tap(tap, padding)
            assert 0 <= phase < stride and 0 <= place < axis.taps
            total += at(parts[phase], i + place + axis.first) * w[tap]
        np.testing.assert_allclose(total, sum(at(x, stride * i + t - padding) * w[t] for t in range(kernel)))


def test_kernels_go_to_their_phases() -> None:
    cut = Phases(Axis.of(3, 2, 1), Axis.of(3, 2, 1), 2, (3, 3), (1, 1))
    weights = np.arange(1, 19, dtype=np.float32).reshape(1, 2, 3, 3)
    found = cut.kernels(weights)
    assert found.shape == (1, 8, 2, 2) and sorted(found[found != 0]) == list(range(1, 19))
    # phases begin a row and a column ahead: the corners lie on the first, the middle tap on the last
    np.testing.assert_array_equal(found[0, 0], [[1, 3], [7, 9]])
    np.testing.assert_array_equal(found[0, 3], [[5, 0], [0, 0]])


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 1), (3, 0)])
@pytest.mark.parametrize("stride", [(1, 2), (2, 2), (3, 2), (4, 4)])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 4), (7, 7), (4, 3)])
def test_where_kernels_of_a_phase_are_nothing(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    """At a point: as those of random weights are when they have been transformed."""
    axes = [Axis.of(*facts) for facts in zip(kernel, stride, padding, strict=True)]
    cut = Phases(axes[0], axes[1], 1, kernel, padding)
    weights = np.random.default_rng(0).uniform(1.0, 2.0, (1, 1, *kernel)).astype(np.float32)
    kernels = cut.kernels(weights)[0].reshape(cut.count, -1).T
    for form in forms_of(cut.taps):
        points = np.empty((form.points, cut.count), np.float32)
        transform_kernels(form, kernels, points)
        np.testing.assert_array_equal(cut.present(form), points != 0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(
    ("channels", "out", "attrs"),
    [
        (20, 33, {"kernel": 3, "stride": 2, "padding": 1}),
        (33, 16, {"kernel": 3, "stride": 2, "padding": 0}),
        (18, 35, {"kernel": (5, 4), "stride": (3, 2), "padding": (2, 1, 0, 1)}),
        (17, 20, {"kernel": 7, "stride": (4, 2), "padding": (1, 3, 0, 2)}),
        (24, 18, {"kernel": (3, 5), "stride": (1, 2), "padding": 1}),
        (16, 16, {"kernel": (1, 7), "stride": (1, 3), "padding": (0, 3, 0, 3)}),
    ],
)
def test_strided_convolutions_of_many_channels(
    forms_first: None, monkeypatch: pytest.MonkeyPatch, target: str, mixed: bool, channels: int, out: int,
    attrs: dict[str, Any],
) -> None:  # fmt: skip
    """Phases are read out of the planes as they are; in whole tiles and in mixed ones."""
    replan(monkeypatch, MIXED_GAIN=0.0 if mixed else np.inf)
    b = Builder("strided", seed=2)
    x = b.relu(b.conv(b.input("x", ("N", 3, "H", "W"), nominal={"N": 1, "H": 23, "W": 30}), channels, kernel=1))
    y = b.conv(x, out, **attrs)
    graph = b.finish(b.relu(y + b.conv(b.sigmoid(y), out, kernel=1)))
    one, three = (convc.compile(graph, target=target, threads=threads) for threads in (1, 3))
    (step,) = (step for step in one.program.steps if step.family == "winograd")
    assert "sums" in step.kernel and f"step{np.broadcast_to(attrs['stride'], 2)[1]}" in step.kernel
    assert "phases" not in families(one)
    for sizes in ({"N": 1, "H": 23, "W": 30}, {"N": 2, "H": 11, "W": 47}, {"N": 3, "H": 40, "W": 12}):
        inputs = random_inputs(graph, 0, **sizes)
        found = one.run(inputs)
        assert_close(found, expected_outputs(graph, inputs), graph, 3e-6)
        for name, value in three.run(inputs).items():
            np.testing.assert_array_equal(value, found[name])


@pytest.mark.parametrize("target", TARGETS)
def test_phases_in_the_kernel_for_few_tiles(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    every = choice.candidates.__wrapped__
    monkeypatch.setattr(choice, "WORTH", np.inf)
    monkeypatch.setattr(choice, "MOST", None)
    monkeypatch.setattr(
        convolution, "candidates", lambda *facts: [one for one in every(*facts) if one[0].few] or every(*facts)
    )
    b = Builder("strided", seed=2)
    y = b.conv(b.relu(b.conv(b.input("x", (2, 20, 15, 17)), 40, kernel=1)), 33, kernel=5, stride=2, padding=2)
    model = check(b.finish(y), target=target, threads=2)
    assert [step.kernel for step in model.program.steps if "_few_step2_" in step.kernel]


def test_which_strided_convolutions_run_on_phases() -> None:
    """On Zen 4: not those whose weights, 49 / 9 times as many, take longer to arrive than what they save."""
    speed, axis = speed_of(ISAS["avx512"], "znver4"), Axis.of(3, 2, 1)
    best = []
    for channels, size in ((64, 28), (256, 14), (512, 7)):
        cut = Phases(axis, axis, channels, (3, 3), (1, 1))
        shape, blocks = (1, channels, size, size), channels // 16
        facts = choice.Facts.of(shape, 4 * blocks, channels, (3, 3), blocks, False, 1, cut)
        best.append(str(choice.candidates(ISAS["avx512"], facts, speed)[0][0].form))
    assert best == ["f3x3_2x2", "f3x3_2x2", "None"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("channels", "out", "attrs"),
    [
        (3, 33, {"kernel": 7, "stride": 2, "padding": 3}),
        (1, 16, {"kernel": 5, "stride": 2, "padding": (1, 0, 2, 1)}),
        (2, 35, {"kernel": 3, "stride": 1, "padding": 1}),
        (3, 20, {"kernel": 11, "stride": 4, "padding": 2}),
        (2, 18, {"kernel": (5, 3), "stride": (3, 2), "padding": (2, 1, 0, 1)}),
        (3, 17, {"kernel": 4, "stride": 2, "padding": (5, 6, 7, 4)}),
    ],
)
def test_strided_convolutions_of_few_channels(
    forms_first: None, target: str, channels: int, out: int, attrs: dict[str, Any]
) -> None:
    """At several sizes, with an activation and a residual, on one thread and on three: the same bits."""
    b = Builder("strided", seed=2)
    x = b.input("x", ("N", channels, "H", "W"), nominal={"N": 1, "H": 23, "W": 30})
    y = b.conv(x, out, **attrs)
    graph = b.finish(b.relu(y + b.sigmoid(y)))
    one, three = (convc.compile(graph, target=target, threads=threads) for threads in (1, 3))
    narrow = 2 * channels <= ISAS[target.removeprefix("cpu:")].lanes
    assert ("phases" in families(one)) == narrow and "winograd" in families(one)
    for sizes in ({"N": 1, "H": 23, "W": 30}, {"N": 2, "H": 11, "W": 47}, {"N": 3, "H": 40, "W": 12}):
        inputs = random_inputs(graph, 0, **sizes)
        found = one.run(inputs)
        assert_close(found, expected_outputs(graph, inputs), graph, 3e-6)
        for name, value in three.run(inputs).items():
            np.testing.assert_array_equal(value, found[name])


@pytest.mark.parametrize(
    "attrs",
    [
        {"kernel": 7, "stride": 3, "padding": 3},
        {"kernel": (5, 2), "stride": (1, 4)},
        {"kernel": (3, 3), "stride": (1 << 40, 1)},
        {"kernel": 7, "stride": 2, "dilation": 2},
    ],
)
def test_what_stays_direct(forms_first: None, attrs: dict[str, Any]) -> None:
    """Strides that divide no vector, windows that lie apart, dilated kernels."""
    b = Builder("strided", seed=2)
    model = check(b.finish(b.conv(b.input("x", (1, 3, 20, 20)), 16, **attrs)))
    assert "phases" not in families(model)


@pytest.mark.parametrize("channels", [3, 20])
def test_weights_that_are_not_finite_are_not_mixed(forms_first: None, channels: int) -> None:
    b = Builder("infinite", seed=2)
    w = np.random.default_rng(0).normal(size=(16, channels, 7, 7)).astype(np.float32)
    w[3, 1, 2, 2] = np.inf
    x = b.input("x", (1, channels, 20, 20))
    model = convc.compile(b.finish(b.op("conv2d", [x, w], stride=(2, 2), padding=(3, 3, 3, 3))), target="cpu")
    found = model(np.ones((1, channels, 20, 20), np.float32))
    assert not {"phases", "winograd"} & {*families(model)} and np.isfinite(np.delete(found, 3, axis=1)).all()


def test_transposed_weights_that_are_not_finite_are_not_mixed(forms_first: None) -> None:
    b = Builder("infinite", seed=2)
    w = np.random.default_rng(0).normal(size=(20, 16, 4, 4)).astype(np.float32)
    w[1, 3, 2, 2] = np.inf
    y = b.op("conv_transpose2d", [b.input("x", (1, 20, 6, 6)), w], stride=(2, 2), padding=(1, 1, 1, 1))
    model = convc.compile(b.finish(y), target="cpu")
    found = model(np.ones((1, 20, 6, 6), np.float32))
    assert "winograd" not in families(model) and np.isfinite(np.delete(found, 3, axis=1)).all()


def test_ordinary_stems_run_on_phases() -> None:
    """Without being made to: a 7x7 kernel of stride 2 over an image."""
    b = Builder("stem", seed=2)
    y = b.conv(b.input("x", (1, 3, 224, 224)), 64, kernel=7, stride=2, padding=3)
    assert "phases" in families(convc.compile(b.finish(y), target=TARGETS[0]))


@pytest.mark.parametrize(("target", "residual"), [*((target, True) for target in TARGETS), (TARGETS[0], False)])
@pytest.mark.parametrize(
    ("attrs", "calls"),
    [
        ({"kernel": 4, "stride": 2, "padding": 1}, 4),
        ({"kernel": 5, "stride": 2, "padding": 2, "output_padding": 1}, 4),
        ({"kernel": 3, "stride": 2, "padding": (1, 0, 0, 1)}, 3),
        ({"kernel": (6, 4), "stride": (3, 2), "padding": (1, 2, 2, 0), "output_padding": (2, 1)}, 6),
        ({"kernel": 3, "stride": 1, "padding": 1}, 1),
        ({"kernel": (3, 2), "stride": (1, 2)}, 2),
        ({"kernel": 3, "stride": 2, "dilation": 2, "padding": 2}, 1),
        ({"kernel": 3, "stride": 2, "dilation": 3, "padding": 1}, 0),
    ],
)
def test_transposed_convolutions(
    forms_first: None, target: str, residual: bool, attrs: dict[str, Any], calls: int
) -> None:
    """Each phase of the output is a convolution that may have a form; one tap has none, nor have taps apart."""
    b = Builder("transposed", seed=2)
    x = b.conv(b.input("x", ("N", 18, "H", "W"), nominal={"N": 1, "H": 9, "W": 12}), 18, kernel=1)
    y = b.conv_transpose(x, 35, **attrs)
    graph = b.finish(b.relu(y))
    if residual:
        made = graph[next(n.name for n in graph.nodes if n.op == "conv_transpose2d")]
        r = b.input("r", made.type.shape)
        operands = [x, graph[str(made.inputs[1])].array, graph[str(made.inputs[2])].array, r]
        graph = b.finish(b.op("conv_transpose2d", operands, **{**made.attrs, "activation": Activation("relu")}))
    one, three = (convc.compile(graph, target=target, threads=threads) for threads in (1, 3))
    assert families(one).count("winograd") == calls
    for sizes in ({"N": 1, "H": 9, "W": 12}, {"N": 3, "H": 4, "W": 15}, {"N": 2, "H": 1, "W": 2}):
        inputs = random_inputs(graph, 0, **sizes)
        found = one.run(inputs)
        assert_close(found, expected_outputs(graph, inputs), graph, 3e-6)
        for name, value in three.run(inputs).items():
            np.testing.assert_array_equal(value, found[name])


@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_maps_of_one_pixel_are_multiplied(batch: int, residual: bool, bias: bool) -> None:
    """The first layer of a generator: no convolution over zeros."""
    b = Builder("generator", seed=2)
    w = np.random.default_rng(1).normal(size=(37, 19, 4, 3)).astype(np.float32)
    x = b.input("x", (batch, 37, 1, 1))
    extra = [np.arange(19, dtype=np.float32) if bias else None, b.input("r", (batch, 19, 4, 3)) if residual else None]
    y = b.op("conv_transpose2d", [x, w, *extra], stride=(2, 1), activation=Activation("relu"))
    model = check(b.finish(y), threads=2)
    assert ("linear" in families(model)) == (batch < 8)
    assert all(step.node.startswith("conv_transpose2d") for step in model.program.steps if step.family == "linear")


@pytest.mark.parametrize(
    "attrs",
    [
        {"padding": (1, 0, 0, 0)}, {"groups": 2}, {"dilation": (1, 2)}, {"output_padding": (1, 0), "stride": (2, 2)},
        {"padding": (1, 0, 0, 0), "output_padding": (1, 0), "stride": (2, 2)},
    ],
)  # fmt: skip
def test_maps_of_one_pixel_that_are_no_product(attrs: dict[str, Any]) -> None:
    b = Builder("generator", seed=2)
    w = np.random.default_rng(1).normal(size=(6, 5, 3, 3)).astype(np.float32)
    model = check(b.finish(b.op("conv_transpose2d", [b.input("x", (1, 6, 1, 1)), w], **attrs)))
    assert "linear" not in families(model)
