"""Pooling of 2 x 2 in the kernel of Winograd's convolution before it: where it happens, and that it changes no bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_support import replan

import convc
from convc.backends.cpu import lower
from convc.interp import run_graph
from convc.ir.graph import Graph

POOLS = ("max_pool2d", "avg_pool2d")


def network(op: str, channels: int, *, residual: bool = False, both: bool = False, **attrs: Any) -> Graph:
    b = convc.Builder("pooled", seed=4)
    x = b.input("x", ("N", channels, "H", "W"), nominal={"H": 24, "W": 24})
    y = b.conv(x, channels + 3, kernel=3, padding=1)
    if residual:
        y = b.op("add", [y, b.conv(x, channels + 3, kernel=1)])
    y = b.op("relu", [y])
    p = b.op(op, [y], **{"kernel": (2, 2), "stride": (2, 2), **attrs})
    return b.finish([p, b.op("neg", [y])]) if both else b.finish(p)


def families(graph: Graph, target: str = "cpu") -> list[str]:
    return [step.family for step in convc.compile(graph, threads=1, target=target).program.steps]


@pytest.mark.parametrize("op", POOLS)
@pytest.mark.parametrize(("channels", "residual"), [(32, False), (45, True)])
def test_pooled_outputs_are_the_same_to_the_bit(
    op: str, channels: int, residual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = network(op, channels, residual=residual)
    for target in ("cpu", "cpu:avx2"):
        with monkeypatch.context() as patch:
            patch.setattr(lower, "pool_behind", lambda asm, isa: None)
            apart = convc.compile(graph, threads=1, target=target)
        model, team = (convc.compile(graph, threads=threads, target=target) for threads in (1, 3))
        assert "pool" in {step.family for step in apart.program.steps}
        assert "pool" not in {step.family for step in model.program.steps}
        assert any("pool" in step.kernel for step in model.program.steps if step.family == "winograd")
        for images, height, width in ((1, 24, 24), (3, 15, 9), (2, 3, 2), (1, 6, 41)):
            x = np.random.default_rng(height).standard_normal((images, channels, height, width)).astype(np.float32)
            x[0, 0, 1, 1] = np.nan if height == 15 else 1.0
            found = model(x)
            np.testing.assert_array_equal(found, apart(x))
            np.testing.assert_array_equal(team(x), found)
            if height != 15:
                expected = next(iter(run_graph(graph, {"x": x}, dtype="float64").values()))
                np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())


def test_tiles_that_pool_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows would lie in two tiles, if smaller ones were among them."""
    replan(monkeypatch, MIXED_GAIN=0.0)
    b = convc.Builder("last", seed=2)
    y = b.op("relu", [b.conv(b.input("x", (1, 64, 14, 14)), 64, kernel=3, padding=1)])
    y = b.op("relu", [b.conv(y, 64, kernel=3, padding=1)])
    graph = b.finish(b.op("max_pool2d", [y], kernel=(2, 2), stride=(2, 2)))
    monkeypatch.setattr(lower, "host_processor", lambda: "znver4")
    model = convc.compile(graph, threads=1, target="cpu:portable")
    first, last = (step.kernel for step in model.program.steps if step.family == "winograd")
    assert "f4x4" in first and "mixed" in first and "mixed" not in last and "pool_max" in last
    x = np.random.default_rng(0).standard_normal((1, 64, 14, 14)).astype(np.float32)
    expected = next(iter(run_graph(graph, {"x": x}, dtype="float64").values()))
    np.testing.assert_allclose(model(x), expected, atol=3e-6 * np.abs(expected).max())


def test_one_kernel_serves_convolutions_with_and_without_a_pool() -> None:
    b = convc.Builder("vgg", seed=1)
    y = b.input("x", (1, 32, 48, 48))
    for pooled in (False, True, False):
        y = b.op("relu", [b.conv(y, 32, kernel=3, padding=1)])
        y = b.op("max_pool2d", [y], kernel=(2, 2), stride=(2, 2)) if pooled else y
    graph = b.finish(y)
    model = convc.compile(graph, threads=1)
    called = [step.kernel for step in model.program.steps if step.family == "winograd"]
    assert len(called) == 3 and len(set(called[:2])) == 1 and "pool_max" in called[0]
    x = np.random.default_rng(0).standard_normal((1, 32, 48, 48)).astype(np.float32)
    expected = next(iter(run_graph(graph, {"x": x}, dtype="float64").values()))
    np.testing.assert_allclose(model(x), expected, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("op", POOLS)
def test_other_pools_stay_apart(op: str) -> None:
    assert "pool" not in families(network(op, 32))
    for attrs in (
        {"ceil_mode": True}, {"padding": (1, 1, 1, 1)}, {"stride": (1, 1)}, {"stride": (2, 1)}, {"kernel": (3, 3)},
        {"both": True},
    ):  # fmt: skip
        assert "pool" in families(network(op, 32, **attrs)), attrs  # type: ignore[arg-type]


def test_what_is_read_twice_or_is_an_output_stays_whole() -> None:
    b = convc.Builder("pooled", seed=4)
    y = b.conv(b.input("x", (1, 32, 24, 24)), 32, kernel=3, padding=1)
    p = b.op("max_pool2d", [y], kernel=(2, 2), stride=(2, 2))
    graph = b.finish([p, y])
    assert "pool" in families(graph)
    x = np.random.default_rng(0).standard_normal((1, 32, 24, 24)).astype(np.float32)
    pooled, whole = convc.compile(graph, threads=1)(x)
    np.testing.assert_array_equal(pooled, whole.reshape(1, 32, 12, 2, 12, 2).max((3, 5)))


@pytest.mark.parametrize("alias", ["concat", "slice", "identity", "transpose"])
def test_what_an_output_shares_planes_with_stays_whole(alias: str) -> None:
    """No step reads a convolution for the sake of these: the output lies in its planes, under another name."""
    b = convc.Builder("pooled", seed=4)
    x = b.input("x", (1, 32, 24, 24))
    y = b.conv(x, 32, kernel=3, padding=1)
    p = b.op("max_pool2d", [y], kernel=(2, 2), stride=(2, 2))
    other = {
        "concat": lambda: b.concat([y, b.relu(x)], axis=1),
        "slice": lambda: b.op("slice", [y], axis=1, start=0, stop=16),
        "identity": lambda: b.op("identity", [y]),
        "transpose": lambda: b.transpose(y, perm=(0, 2, 3, 1)),
    }[alias]()
    graph = b.finish([p, other])
    given = np.random.default_rng(0).standard_normal((1, 32, 24, 24)).astype(np.float32)
    model = convc.compile(graph, threads=1, passes="none")
    for found, expected in zip(model(given), run_graph(graph, {"x": given}, dtype="float64").values(), strict=True):
        np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())


def test_dilated_convolutions_are_not_pooled() -> None:
    b = convc.Builder("pooled", seed=4)
    y = b.conv(b.input("x", (1, 64, 28, 28)), 64, kernel=3, padding=2, dilation=2)
    graph = b.finish(b.op("max_pool2d", [y], kernel=(2, 2), stride=(2, 2)))
    assert {"winograd", "pool"} <= set(families(graph))


def test_few_tiles_are_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    b = convc.Builder("pooled", seed=4)
    y = b.conv(b.input("x", (1, 512, 8, 8)), 512, kernel=3, padding=1)
    graph = b.finish(b.op("avg_pool2d", [y], kernel=(2, 2), stride=(2, 2)))
    model = convc.compile(graph, threads=1)
    (step,) = (s for s in model.program.steps if s.family == "winograd")
    assert "few" in step.kernel and step.params["call"].shrink == 2
    monkeypatch.setattr(lower, "pool_behind", lambda asm, isa: None)
    x = np.random.default_rng(0).standard_normal((1, 512, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(model(x), convc.compile(graph, threads=1)(x))


@pytest.mark.parametrize("kernel", [(7, 1), (1, 7), (5, 5)])
def test_tiles_of_other_kernels(kernel: tuple[int, int]) -> None:
    """Tiles that are one pixel wide hold no window; those of 5x5 kernels hold one."""
    b = convc.Builder("others", seed=4)
    x = b.input("x", ("N", 96, "H", "W"), nominal={"H": 17, "W": 17})
    y = b.relu(b.conv(x, 96, kernel=kernel, padding=(kernel[0] // 2, kernel[1] // 2) * 2))
    graph = b.finish(b.max_pool2d(y, kernel=2, stride=2))
    model = convc.compile(graph, threads=1)
    families = [step.family for step in model.program.steps]
    assert "winograd" in families and ("pool" in families) == (1 in kernel)
    for height, width in ((17, 17), (8, 13)):
        given = np.random.default_rng(height).standard_normal((2, 96, height, width)).astype(np.float32)
        expected = next(iter(run_graph(graph, {"x": given}, dtype="float64").values()))
        np.testing.assert_allclose(model(given), expected, atol=1e-5 * np.abs(expected).max())


def test_both_kinds_of_pool_in_a_network() -> None:
    """Each has a kernel of its own."""
    b = convc.Builder("both", seed=1)
    x = b.input("x", (1, 32, 24, 24))
    ends = [b.op(op, [b.relu(b.conv(x, 32, kernel=3, padding=1))], kernel=(2, 2), stride=(2, 2)) for op in POOLS]
    graph = b.finish(ends)
    assert families(graph).count("winograd") == 2 and "pool" not in families(graph)
    value = np.random.default_rng(0).standard_normal((1, 32, 24, 24)).astype(np.float32)
    expected = run_graph(graph, {"x": value}, dtype="float64").values()
    for found, want in zip(convc.compile(graph, threads=1)(value), expected, strict=True):
        np.testing.assert_allclose(found, want, atol=3e-6 * np.abs(want).max())
