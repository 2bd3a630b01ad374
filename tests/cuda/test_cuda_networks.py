"""Whole small networks for CUDA, executed in lock step from the Program, beside the CPU's answer."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_support import expected_outputs
from cuda_support import PRECISIONS, TOLERANCE, check_lockstep, lockstep_program, run_lockstep
from support import random_inputs

import convc
from convc.frontends.builder import Builder, Value
from convc.ir.graph import Graph
from convc.passes.state_precision import estimated_error
from convc.source import read_source
from convc.zoo import ZOO


def digits() -> Graph:
    """The digit classifier that is built in, with its trained weights."""
    return read_source("zoo:digits")


def shuffle_unit() -> Graph:
    """ShuffleNet's unit with stride 1, and one with stride 2 that joins by concatenation."""
    b = Builder("shuffle_unit", seed=4)
    x = b.input("x", ("N", 24, 10, 9))

    def unit(x: Value, out: int, stride: int) -> Value:
        y = b.relu(b.batch_norm(b.conv(x, 12, kernel=1, groups=3, bias=False)))
        y = b.channel_shuffle(y, groups=3)
        y = b.batch_norm(b.conv(y, 12, kernel=3, stride=stride, padding=1, groups=12, bias=False))
        y = b.batch_norm(b.conv(y, out, kernel=1, groups=3, bias=False))
        if stride == 1:
            return b.relu(b.add(x, y))
        pooled = b.avg_pool2d(x, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), count_include_pad=True)
        return b.relu(b.concat([pooled, y]))

    y = unit(unit(x, 24, 1), 36, 2)
    return b.finish(b.linear(b.flatten(b.global_avg_pool(y)), 7))


def inverted_residual() -> Graph:
    """MobileNetV2's block, with and without its residual, and a squeeze and excitation between."""
    b = Builder("inverted_residual", seed=5)
    x = b.input("x", ("N", 14, 9, 8))

    def block(x: Value, width: int, out: int, stride: int, gated: bool) -> Value:
        y = b.relu6(b.batch_norm(b.conv(x, width, kernel=1, bias=False)))
        y = b.relu6(b.batch_norm(b.conv(y, width, kernel=3, stride=stride, padding=1, groups=width, bias=False)))
        if gated:
            gate = b.silu(b.conv(b.global_avg_pool(y), 6, kernel=1))
            y = b.mul(y, b.sigmoid(b.conv(gate, width, kernel=1)))
        y = b.batch_norm(b.conv(y, out, kernel=1, bias=False))
        return b.add(x, y) if stride == 1 and out == 14 else y

    y = block(block(x, 30, 14, 1, False), 42, 20, 2, True)
    return b.finish(b.softmax(b.linear(b.flatten(b.global_avg_pool(y)), 9), axis=1))


NETWORKS = {"digits": digits, "shuffle_unit": shuffle_unit, "inverted_residual": inverted_residual}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_equal_the_cpu_in_lock_step(name: str, precision: str) -> None:
    graph = NETWORKS[name]()
    given = random_inputs(graph, 1, N=2)
    program = lockstep_program(graph, precision, "default")
    found = run_lockstep(program, graph, given)
    on_cpu = convc.compile(graph, threads=1).run(given)
    exact = expected_outputs(graph, given)
    for output, want in exact.items():
        scale = np.abs(want).max()
        assert np.abs(found[output] - want).max() <= TOLERANCE[precision] * scale, "far from float64"
        assert np.abs(found[output] - on_cpu[output]).max() <= (TOLERANCE[precision] + 1e-5) * scale, "far from the CPU"


STRICT = 1e-4
TIMES = 4.0
"""By how much an error in float16 may exceed the estimate of `state_precision`, made on another input."""
QUICK = {"mobilenet_v2", "shufflenet_v2"}
SIDES = {"inception_v3": 96, "xception": 80, "alexnet": 96}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ZOO])
def test_networks_of_the_zoo_in_lock_step(name: str, precision: str) -> None:
    graph = read_source(f"zoo:{name}")
    side = {symbol: SIDES.get(name, 64) for symbol in ("H", "W") if symbol in graph.nominal}
    given = random_inputs(graph, 0, **side)
    found = run_lockstep(lockstep_program(graph, precision, "default"), graph, given)
    small = graph.bind(**{**graph.nominal, **side})
    allowed = STRICT if precision == "float32" else TIMES * estimated_error(small, precision)
    for output, want in expected_outputs(graph, given).items():
        assert np.abs(found[output] - want).max() <= allowed * np.abs(want).max()


def test_shuffles_and_concatenations_move_nothing() -> None:
    program = lockstep_program(shuffle_unit(), "float32", "default")
    assert not [step for step in program.steps if step.family in {"relayout", "index_copy"}]
    stores = [step.kernel for step in program.steps if "_lanes_" in step.kernel or step.kernel.endswith("lanes__cuda")]
    assert stores, "the shuffle is in the store of the convolution before it"


def test_results_do_not_depend_on_the_place_in_the_batch() -> None:
    graph = inverted_residual()
    program = lockstep_program(graph, "float16", "default")
    given = random_inputs(graph, 2, N=3)["x"]
    (whole,) = run_lockstep(program, graph, {"x": given}).values()
    turned = np.ascontiguousarray(given[::-1])
    (other,) = run_lockstep(program, graph, {"x": turned}).values()
    np.testing.assert_array_equal(whole[::-1], other)


def test_a_residual_is_written_in_place() -> None:
    b = Builder("residual", seed=1)
    x = b.relu(b.conv(b.input("x", ("N", 8, 6, 6)), 16, kernel=3, padding=1))
    graph = b.finish(b.relu(b.add(b.conv(b.relu(b.conv(x, 12, kernel=1)), 16, kernel=1), x)))
    program = check_lockstep(graph, passes="default", N=2)
    residual = next(step for step in program.steps if "residual" in step.kernel)
    assert residual.writes[0].planes == residual.reads[1].planes  # type: ignore[union-attr]


def test_densely_connected_layers_share_one_buffer() -> None:
    b = Builder("dense", seed=1)
    parts = [b.conv(b.input("x", ("N", 3, 7, 5)), 9, kernel=3, padding=1)]
    for _ in range(3):
        joined = b.concat(parts) if len(parts) > 1 else parts[0]
        parts.append(b.conv(b.relu(b.batch_norm(joined)), 5, kernel=3, padding=1))
    program = check_lockstep(b.finish(b.concat(parts)), N=2)
    assert not [step for step in program.steps if step.family == "index_copy"]
    rooms = {step.writes[0].planes[0][0] for step in program.steps if step.family == "conv"}  # type: ignore[union-attr]
    assert len(rooms) == 1


def test_winograd_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strict float32 alone; ragged channels, a residual, padding of 0 to 2, all barriers watched."""
    monkeypatch.setattr("convc.backends.cuda.winograd.pays", lambda sizes, arch: True)
    b = Builder("winograd", seed=2)
    y = b.relu(b.conv(b.input("x", ("N", 5, 9, 7)), 10, kernel=3, padding=1))
    z = b.conv(b.relu(b.conv(y, 6, kernel=3, padding=0)), 10, kernel=3, padding=2)
    graph = b.finish(b.relu(b.add(z, y)))
    for passes in ("none", "default"):
        program = check_lockstep(graph, passes=passes, N=2, races=True)
        assert [name for name in program.kernels if "winograd" in name]
    other = lockstep_program(graph, "tf32")
    assert not [name for name in other.kernels if "winograd" in name]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x_pitch + lane", "x_pitch + lane + 1"),
        ("pixel * groups", "pixel * groups + 1"),
        ("inside(item", "inside(item + 1"),
    ],
)
def test_a_planted_fault_is_seen(old: str, new: str) -> None:
    """An index or a predicate that is off by one, in the kernels around the convolutions."""
    import dataclasses

    graph = inverted_residual()
    given = random_inputs(graph, 1, N=2)
    program = lockstep_program(graph)
    wrong = {name: source.replace(old, new) for name, source in program.kernels.items()}
    assert wrong != dict(program.kernels), f"no kernel says {old}"
    (want,) = expected_outputs(graph, given).values()
    try:
        (found,) = run_lockstep(dataclasses.replace(program, kernels=wrong), graph, given).values()
    except convc.Error:
        return
    assert not np.allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max(), equal_nan=False)
