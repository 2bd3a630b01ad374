"""Winograd's kernel against the interpreter in float64, over sizes that tiles do not divide, and its matrices."""

from __future__ import annotations

import numpy as np
import pytest

import convc
from convc.backends.cpu import choice, convolution, winograd_plan
from convc.backends.cpu.isa import ISAS, Isa
from convc.backends.cpu.winograd_points import POINTS, matrices, transform_kernels, weigh_kernels, whole_matrix
from convc.interp import run_graph
from convc.ir.graph import Graph


def network(channels: int, out: int, padding: tuple[int, int, int, int], residual: bool, dilation: int = 1) -> Graph:
    b = convc.Builder("winograd", seed=3)
    x = b.input("x", ("N", channels, "H", "W"), nominal={"H": 9, "W": 9})
    y = b.conv(x, out, kernel=3, padding=padding, dilation=dilation)
    if residual:
        y = b.op("relu", [b.op("add", [y, b.conv(x, out, kernel=1)])])
    return b.finish(y)


@pytest.fixture(params=[(m, few) for m in sorted(POINTS) for few in (False, True)], ids=str)
def always(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """F(m), for few tiles or not, wherever it can be, however long it is predicted to take: a part of its name."""
    m, few = request.param
    every = choice.candidates.__wrapped__
    monkeypatch.setattr(choice, "WORTH", np.inf)
    monkeypatch.setattr(choice, "MOST", None)

    def only(isa: Isa, facts: choice.Facts) -> list[tuple[choice.Choice, float]]:
        found = every(isa, facts)
        return [one for one in found if (one[0].m, one[0].few) == (m, few)] or found

    monkeypatch.setattr(convolution, "candidates", only)
    return f"_f{m}3_few" if few else f"_f{m}3_"


@pytest.mark.parametrize("m", sorted(POINTS))
def test_matrices_compute_the_convolution(m: int) -> None:
    at, _, bt = matrices(m)
    rng = np.random.default_rng(m)
    d, w = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((1, 1, 3, 3))
    points = transform_kernels(w.astype(np.float64), m).reshape(m + 2, m + 2).astype(np.float64)
    direct = np.array([[(d[i : i + 3, j : j + 3] * w[0, 0]).sum() for j in range(m)] for i in range(m)])
    np.testing.assert_allclose(at @ (points * (bt @ d @ bt.T)) @ at.T, direct, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "out", "padding", "residual", "dilation"),
    [
        (16, 32, (1, 1, 1, 1), False, 1),
        (17, 35, (0, 0, 0, 0), False, 1),
        (33, 48, (1, 1, 1, 1), True, 1),
        (20, 3, (2, 0, 1, 3), False, 1),
        (18, 20, (2, 2, 2, 2), True, 2),
        (9, 33, (3, 1, 4, 3), False, 3),
    ],
)
def test_equals_the_interpreter(
    always: str, channels: int, out: int, padding: tuple[int, int, int, int], residual: bool, dilation: int
) -> None:
    graph = network(channels, out, padding, residual, dilation)
    model, team = (convc.compile(graph, threads=threads) for threads in (1, 3))
    (step,) = (s for s in model.program.steps if s.family == "winograd")
    assert always in step.kernel and always.endswith("few") == ("few" in step.kernel)
    for images, height, width in ((1, 9, 9), (3, 14, 7), (2, 3, 5), (1, 40, 31)):
        x = np.random.default_rng(height).standard_normal((images, channels, height, width)).astype(np.float32)
        expected = next(iter(run_graph(graph, {"x": x}, dtype="float64").values()))
        found = model(x)
        np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())
        np.testing.assert_array_equal(team(x), found)
        np.testing.assert_array_equal(model(x[-1:]), found[-1:])


def test_weights_that_are_not_finite_are_not_transformed(always: str) -> None:
    b = convc.Builder("inf", seed=0)
    w = np.ones((16, 16, 3, 3), np.float32)
    w[3, 5, 0, 0] = np.inf
    model = convc.compile(b.finish(b.conv2d(b.input("x", (1, 16, 8, 8)), w)), threads=1)
    assert "winograd" not in {step.family for step in model.program.steps}
    assert np.isinf(model(np.ones((1, 16, 8, 8), np.float32))[0, 3]).all()


def test_what_is_not_finite_stays_within_its_tiles(always: str) -> None:
    graph = network(17, 20, (1, 1, 1, 1), False)
    model, m = convc.compile(graph, threads=1), int(always[2])
    x = np.random.default_rng(0).standard_normal((2, 17, 13, 11)).astype(np.float32)
    clean = model(x)
    x[1, 16, 4, 6] = np.nan  # a tile of outputs from (i, j) on reads inputs from (i - 1, j - 1) to (i + m, j + m)
    touched = [range(-(-(at - m) // m) * m, (at + 1) // m * m + m) for at in (4, 6)]
    spread = np.zeros(clean.shape, bool)
    spread[1][np.ix_(range(20), *(range(max(r.start, 0), r.stop) for r in touched))] = True
    found = model(x)
    assert np.isnan(found[1, :, 3:6, 5:8]).all()
    np.testing.assert_array_equal(found[~spread], clean[~spread])


@pytest.mark.parametrize("m", sorted(POINTS))
def test_weighed_kernels_and_whole_factors_give_the_same_points(m: int) -> None:
    w = np.random.default_rng(m).standard_normal((3, 5, 3, 3))
    factors = whole_matrix(m)
    np.testing.assert_array_equal(factors, np.rint(factors))
    points = (factors @ weigh_kernels(w, m).astype(np.float64) @ factors.T).reshape(3, 5, -1)
    np.testing.assert_allclose(points, transform_kernels(w, m).transpose(1, 2, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [1, 4, 16, 49, 196, 3136])
def test_plans_cover_all_tiles_within_the_scratch_memory(threads: int, total: int) -> None:
    for isa in (ISAS["avx512"], ISAS["avx2"]):
        for blocks in (1, 4, 5, 32):
            tile = next(t for t in isa.tiles if t[1] <= blocks)
            plan = winograd_plan.plan_blocks(isa, 4, tile, blocks, blocks * isa.lanes, blocks, total, threads)
            whole = blocks % tile[1] == 0  # else all strips are full: the blocks left over know no smaller one
            assert plan.tiles % tile[0] in ({0, (tile[0] + 1) // 2} if whole else {0})
            assert 1 <= plan.parts <= max(threads, 1) and plan.cycles > 0
            assert plan.parts <= -(-blocks // tile[1])
            held = 36 * plan.tiles * 2 * blocks * isa.lanes * 4
            assert plan.tiles <= tile[0] or held <= 2 * winograd_plan.MOST_BYTES
            group = choice.few_tiles(isa, 4).rows
            plan = winograd_plan.plan_blocks(isa, 4, (group, 1), blocks, 16, blocks, total, threads, few=True)
            assert plan.tiles % group == 0 and 1 <= plan.parts <= min(max(threads, 1), blocks)


def test_is_chosen_where_it_pays_and_only_there() -> None:
    def kernels(kernel: int, channels: int, size: int, **options: int) -> set[str]:
        b = convc.Builder("chosen", seed=0)
        x, padding = b.input("x", (1, channels, size, size)), kernel // 2 * options.get("dilation", 1)
        y = b.conv(x, channels, kernel=kernel, padding=padding, **options)
        return {step.kernel for step in convc.compile(b.finish(y), threads=1).program.steps}

    def is_winograd(*facts: int, **options: int) -> bool:
        return any("winograd" in kernel for kernel in kernels(*facts, **options))

    assert is_winograd(3, 64, 28)
    assert is_winograd(3, 64, 28, dilation=2)
    assert any("few" in kernel for kernel in kernels(3, 512, 7))
    for kernel, channels, size, options in (
        (3, 64, 28, {"stride": 2}), (3, 64, 28, {"groups": 2}), (5, 64, 28, {}), (3, 8, 28, {}),
    ):  # fmt: skip
        assert not is_winograd(kernel, channels, size, **options)
