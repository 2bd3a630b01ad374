"""Winograd's kernel against the interpreter in float64, over sizes that tiles do not divide, and its matrices."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_support import replan

import convc
from convc.backends.cpu import choice, convolution, lower, winograd_plan
from convc.backends.cpu.isa import ISAS, TYPICAL, Isa, Speed, speed_of
from convc.backends.cpu.isa import choose as choose_isa
from convc.backends.cpu.winograd_points import (
    Form,
    forms_of,
    input_matrix,
    kernel_matrix,
    output_matrix,
    places,
    shrinks,
    transform_kernels,
    weigh_kernels,
    whole_matrix,
)  # fmt: skip
from convc.interp import run_graph
from convc.ir.graph import Graph

SQUARE = forms_of((3, 3))
OTHERS = [form for size in ((5, 5), (2, 2), (4, 4), (3, 5), (1, 7), (7, 1), (1, 3), (5, 1)) for form in forms_of(size)]
TOLERANCES = {4: 3e-6, 6: 3e-6, 8: 3e-6, 10: 1e-5}
"""Of the largest output, by points along an axis."""


def network(
    channels: int, out: int, padding: tuple[int, int, int, int], residual: bool, dilation: int = 1,
    kernel: tuple[int, int] = (3, 3), nominal: int = 9,
) -> Graph:  # fmt: skip
    b = convc.Builder("winograd", seed=3)
    x = b.input("x", ("N", channels, "H", "W"), nominal={"H": nominal, "W": nominal})
    y = b.conv(x, out, kernel=kernel, padding=padding, dilation=dilation)
    if residual:
        y = b.op("relu", [b.op("add", [y, b.conv(x, out, kernel=1)])])
    return b.finish(y)


def use(monkeypatch: pytest.MonkeyPatch, form: Form, few: bool, mixed: bool) -> None:
    """The form, for few tiles or in mixed ones, wherever it can be, however long it is predicted to take."""
    replan(monkeypatch, MIXED_GAIN=0.0 if mixed else np.inf)
    every = choice.candidates.__wrapped__
    monkeypatch.setattr(choice, "WORTH", np.inf)
    monkeypatch.setattr(choice, "MOST", None)

    def only(isa: Isa, facts: choice.Facts, speed: Speed) -> list[tuple[choice.Choice, float]]:
        found = every(isa, facts, speed)
        return [one for one in found if (one[0].form, one[0].few) == (form, few)] or found

    monkeypatch.setattr(convolution, "candidates", only)


ALWAYS = [(form, few, False) for form in SQUARE for few in (False, True)] + [(SQUARE[1], False, True)]
"""Each form of 3x3 kernels, whether for few tiles, and whether in mixed ones."""


@pytest.fixture(params=ALWAYS, ids=str)
def always(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Form, bool, bool]:
    """One of ALWAYS, in use."""
    form, few, mixed = request.param
    use(monkeypatch, form, few, mixed)
    return form, few, mixed


def equals_the_interpreter(graph: Graph, channels: int, form: Form, few: bool, mixed: bool) -> None:
    model, team = (convc.compile(graph, threads=threads) for threads in (1, 3))
    (step,) = (s for s in model.program.steps if s.family == "winograd")
    assert f"_{form}_" in step.kernel and few == ("few" in step.kernel)
    assert mixed == ("mixed" in step.kernel)
    for images, height, width in ((1, 9, 9), (3, 14, 7), (2, 3, 5), (1, 40, 31)):
        x = np.random.default_rng(height).standard_normal((images, channels, height, width)).astype(np.float32)
        expected = next(iter(run_graph(graph, {"x": x}, dtype="float64").values()))
        found = model(x)
        tolerance = TOLERANCES[max(form.rows, form.columns)]
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
        np.testing.assert_array_equal(team(x), found)
        np.testing.assert_array_equal(model(x[-1:]), found[-1:])
        assert model(x[:0]).shape == (0, *found.shape[1:])


SMALLER = [Form(f.down - (f.down > 2), f.across - (f.across > 2), f.height, f.breadth) for f in (*SQUARE, *OTHERS)]


@pytest.mark.parametrize("form", dict.fromkeys([*SQUARE, *OTHERS, *SMALLER]), ids=str)
def test_matrices_compute_the_convolution(form: Form) -> None:
    rng = np.random.default_rng(form.points)
    d, w = rng.standard_normal((form.rows, form.columns)), rng.standard_normal((form.height, form.breadth))
    points = np.empty((form.points, 1), np.float32)
    transform_kernels(form, w.reshape(-1, 1), points)
    inputs = input_matrix(form.rows) @ d @ input_matrix(form.columns).T
    direct = np.array(
        [
            [(d[i : i + form.height, j : j + form.breadth] * w).sum() for j in range(form.across)]
            for i in range(form.down)
        ]
    )
    products = points.reshape(inputs.shape).astype(np.float64) * inputs
    found = output_matrix(form.down, form.rows) @ products @ output_matrix(form.across, form.columns).T
    np.testing.assert_allclose(found, direct, atol=3e-6)


def test_forms_have_as_many_points_along_both_axes() -> None:
    assert [str(form) for form in SQUARE] == ["f2x2_3x3", "f4x4_3x3"]
    assert [str(form) for form in forms_of((1, 7))] == ["f1x2_1x7", "f1x4_1x7"]
    assert [str(form) for form in forms_of((3, 5))] == ["f4x2_3x5"]
    assert not forms_of((1, 1)) and not forms_of((7, 7)) and not forms_of((11, 1))


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
    always: tuple[Form, bool, bool], channels: int, out: int, padding: tuple[int, int, int, int], residual: bool,
    dilation: int,
) -> None:  # fmt: skip
    equals_the_interpreter(network(channels, out, padding, residual, dilation), channels, *always)


@pytest.mark.parametrize(
    ("channels", "out", "residual", "dilation"), [(33, 48, True, 1), (17, 35, False, 2)], ids=["residual", "dilated"]
)
@pytest.mark.parametrize(
    ("form", "mixed"), [(f, m) for f in OTHERS for m in (False, True) if not m or max(f.down, f.across) > 2], ids=str
)
def test_other_kernels_equal_the_interpreter(
    monkeypatch: pytest.MonkeyPatch, form: Form, mixed: bool, channels: int, out: int, residual: bool, dilation: int
) -> None:
    use(monkeypatch, form, False, mixed)
    kernel = form.height, form.breadth
    down, along = ((taps - 1) * dilation for taps in kernel)
    # where there is a residual, outputs are as large as inputs
    padding = (down // 2, along // 2, down - down // 2, along - along // 2) if residual else (down, along, 1, 2)
    nominal = 9
    while (
        mixed
        and not winograd_plan.Grid.of(
            form, 1, nominal + padding[0] + padding[2] - down, nominal + padding[1] + padding[3] - along, dilation
        ).uneven
    ):
        nominal += 1
    graph = network(channels, out, padding, residual, dilation, kernel, nominal)
    equals_the_interpreter(graph, channels, form, False, mixed)


def test_an_axis_with_one_tap_may_be_dilated_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, form) = forms_of((5, 1))[:2]
    use(monkeypatch, form, False, False)
    b = convc.Builder("factorised", seed=0)
    y = b.conv(b.input("x", ("N", 16, "H", "W")), 16, kernel=(5, 1), padding=(6, 0, 6, 0), dilation=(3, 1))
    equals_the_interpreter(b.finish(y), 16, form, False, False)


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (3, 5)])
def test_axes_that_are_dilated_apart_have_no_form(kernel: tuple[int, int]) -> None:
    b = convc.Builder("apart", seed=0)
    y = b.conv(b.input("x", (1, 64, 28, 28)), 64, kernel=kernel, padding=(2, 4, 2, 4), dilation=(1, 2))
    graph = b.finish(y)
    model = convc.compile(graph, threads=1)
    assert "winograd" not in {step.family for step in model.program.steps}
    x = np.random.default_rng(0).standard_normal((1, 64, 28, 28)).astype(np.float32)
    (expected,) = run_graph(graph, {"x": x}, dtype="float64").values()
    np.testing.assert_allclose(model(x), expected, atol=3e-6 * np.abs(expected).max())


def test_weights_that_are_not_finite_are_not_transformed(always: tuple[Form, bool, bool]) -> None:
    b = convc.Builder("inf", seed=0)
    w = np.ones((16, 16, 3, 3), np.float32)
    w[3, 5, 0, 0] = np.inf
    model = convc.compile(b.finish(b.conv2d(b.input("x", (1, 16, 8, 8)), w)), threads=1)
    assert "winograd" not in {step.family for step in model.program.steps}
    assert np.isinf(model(np.ones((1, 16, 8, 8), np.float32))[0, 3]).all()


def test_what_is_not_finite_stays_within_its_tiles(always: tuple[Form, bool, bool]) -> None:
    graph = network(17, 20, (1, 1, 1, 1), False)
    model, m, mixed = convc.compile(graph, threads=1), always[0].down, always[2]
    x = np.random.default_rng(0).standard_normal((2, 17, 13, 11)).astype(np.float32)
    clean = model(x)
    x[1, 16, 4, 6] = np.nan  # a tile of outputs from i to j reads inputs from i - 1 to j
    touched = []
    for at, size in ((4, 13), (6, 11)):
        starts = np.cumsum([0, *([m, *[m - 1] * 3] if size == 13 else [m, m, m - 1])]) if mixed else np.arange(0, 16, m)
        hit = [(i, j) for i, j in itertools.pairwise(starts) if i - 1 <= at <= j]
        touched.append(range(hit[0][0], min(hit[-1][1], size)))
    spread = np.zeros(clean.shape, bool)
    spread[1][np.ix_(range(20), *touched)] = True
    found = model(x)
    assert np.isnan(found[1, :, 3:6, 5:8]).all()
    np.testing.assert_array_equal(found[~spread], clean[~spread])


@pytest.mark.parametrize("form", SQUARE, ids=str)
def test_weighed_kernels_and_whole_factors_give_the_same_points(form: Form) -> None:
    w, n = np.random.default_rng(form.down).standard_normal((3, 5, 3, 3)), form.rows
    factors = whole_matrix(3, n)
    np.testing.assert_array_equal(factors, np.rint(factors))
    points = (factors @ weigh_kernels(w, n).astype(np.float64) @ factors.T).reshape(3, 5, -1)
    g = kernel_matrix(3, n)
    np.testing.assert_allclose(points, (g @ w @ g.T).reshape(3, 5, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [1, 4, 16, 49, 196, 3136])
def test_plans_cover_all_tiles_within_the_scratch_memory(threads: int, total: int) -> None:
    grid = winograd_plan.Grid(1, 1, total, 1, total)
    for isa in (ISAS["avx512"], ISAS["avx2"]):
        for blocks in (1, 4, 5, 32):
            tile = next(t for t in isa.tiles if t[1] <= blocks)
            plan = winograd_plan.plan_blocks(isa, SQUARE[1], tile, blocks, blocks * isa.lanes, blocks, grid, threads)
            whole = blocks % tile[1] == 0  # else all strips are full: the blocks left over know no smaller one
            assert plan.tiles % tile[0] in ({0, (tile[0] + 1) // 2} if whole else {0})
            assert 1 <= plan.parts <= max(threads, 1) and plan.cycles > 0
            assert plan.parts <= -(-blocks // tile[1])
            held = 36 * plan.tiles * 2 * blocks * isa.lanes * 4
            assert plan.tiles <= tile[0] or held <= 2 * winograd_plan.MOST_BYTES
            group = choice.few_tiles(isa, SQUARE[1]).rows
            plan = winograd_plan.plan_blocks(isa, SQUARE[1], (group, 1), blocks, 16, blocks, grid, threads, few=True)
            assert plan.tiles % group == 0 and 1 <= plan.parts <= min(max(threads, 1), blocks)


@pytest.mark.parametrize(
    ("size", "apart", "rows", "full"),
    [(14, 1, 4, 2), (13, 1, 4, 1), (9, 1, 3, 0), (5, 1, 2, 0), (28, 4, 2, 1), (28, 1, 7, 7)],
)
def test_mixed_tiles_cover_maps_evenly(size: int, apart: int, rows: int, full: int) -> None:
    isa, form = ISAS["avx512"], SQUARE[1]
    grid = winograd_plan.Grid.of(form, 2, size, size, apart)
    assert grid == winograd_plan.Grid(2 * apart**2, rows, rows, full, full)
    assert grid.uneven == (rows != full)
    for threads in (1, 3):
        plan = winograd_plan.plan_blocks(isa, form, (14, 2), 4, 64, 4, grid, threads, mixed=True)
        assert plan.maps == 1 or plan.bands == 1
        assert plan.tiles == plan.maps * -(-rows // plan.bands) * rows


def test_large_maps_are_cut_into_bands_of_mixed_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes far beyond those that a kernel was chosen for: a block is a row of tiles at least."""
    use(monkeypatch, SQUARE[1], False, True)
    replan(monkeypatch, MOST_BYTES=1 << 16)
    equals_the_interpreter(network(20, 33, (1, 1, 1, 1), True), 20, SQUARE[1], False, True)
    grid = winograd_plan.Grid.of(SQUARE[1], 1, 40, 31, 1)
    plan = winograd_plan.plan_blocks(ISAS["avx512"], SQUARE[1], (14, 2), 2, 20, 3, grid, 1, mixed=True)
    assert (plan.maps, plan.bands, plan.tiles) == (1, 10, 8)


@pytest.mark.parametrize(("nominal", "dilation"), [(7, 1), (6, 1), (14, 2), (13, 2)])
@pytest.mark.parametrize(("channels", "out", "residual"), [(20, 33, True), (70, 16, False)])
def test_few_tiles_are_mixed_where_maps_are_pairs_of_them(
    monkeypatch: pytest.MonkeyPatch, nominal: int, dilation: int, channels: int, out: int, residual: bool
) -> None:
    """Of 4 + 3 outputs along both axes; the same kernel serves any other size."""
    use(monkeypatch, SQUARE[1], True, True)
    paired = nominal != 6 and choice.few_tiles(choose_isa(), SQUARE[1]).rows == 4
    graph = network(channels, out, (dilation,) * 4, residual, dilation, (3, 3), nominal)
    equals_the_interpreter(graph, channels, SQUARE[1], True, paired)
    model, team = (convc.compile(graph, threads=threads) for threads in (1, 3))
    for images, size in ((1, 7), (5, 7), (3, 14), (2, 13)):
        x = np.random.default_rng(size).standard_normal((images, channels, size, size)).astype(np.float32)
        expected = next(iter(run_graph(graph, {"x": x}, dtype="float64").values()))
        found = model(x)
        np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())
        np.testing.assert_array_equal(team(x), found)


@pytest.mark.parametrize("form", [form for form in (*SQUARE, *OTHERS) if max(form.down, form.across) > 2], ids=str)
def test_smaller_tiles_have_transformed_kernels_in_common(form: Form) -> None:
    for outputs, taps in ((form.down, form.height), (form.across, form.breadth)):
        if shrinks(outputs, taps):
            n = outputs + taps - 1
            np.testing.assert_array_equal(kernel_matrix(taps, n - 1), kernel_matrix(taps, n)[list(places(n - 1))])


def test_is_chosen_where_it_pays_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower, "host_processor", lambda: "generic")

    def kernels(kernel: tuple[int, int], channels: int, size: int, **options: int) -> set[str]:
        b = convc.Builder("chosen", seed=0)
        down, along = (taps // 2 * options.get("dilation", 1) for taps in kernel)
        x = b.input("x", (1, channels, size, size))
        y = b.conv(x, channels, kernel=kernel, padding=(down, along, down, along), **options)
        return {step.kernel for step in convc.compile(b.finish(y), threads=1).program.steps}

    def is_winograd(*facts: Any, **options: int) -> bool:
        return any("winograd" in kernel for kernel in kernels(*facts, **options))

    assert is_winograd((3, 3), 64, 28)
    assert is_winograd((3, 3), 64, 28, dilation=2)
    assert is_winograd((5, 5), 64, 28)
    assert is_winograd((1, 7), 192, 17)
    assert is_winograd((7, 1), 192, 17)
    assert any("few" in kernel for kernel in kernels((3, 3), 512, 7))
    for kernel, channels, size, options in (
        ((3, 3), 64, 28, {"stride": 2}), ((3, 3), 64, 28, {"groups": 2}), ((3, 3), 8, 28, {}), ((7, 7), 64, 28, {}),
        ((1, 1), 64, 28, {}),
    ):  # fmt: skip
        assert not is_winograd(kernel, channels, size, **options)


def test_what_is_chosen_is_for_the_processor() -> None:
    """Zen 4 makes half of the multiply-adds in a cycle and reads weights faster: saving multiplications gains more."""
    isa = ISAS["avx512"]
    facts = choice.Facts.of((1, 512, 14, 14), 32, 512, (3, 3), 32, False, 1)
    typical, zen = (choice.candidates(isa, facts, speed_of(isa, name))[0] for name in ("sapphirerapids", "znver4"))
    assert typical[0].form == Form(2, 2, 3, 3) and zen[0].form == Form(4, 4, 3, 3)
    facts = choice.Facts.of((1, 512, 14, 14), 32, 512, (1, 1), 32, False, 0)
    typical, zen = (choice.candidates(isa, facts, speed_of(isa, name))[0] for name in ("sapphirerapids", "znver4"))
    assert typical[1] < zen[1]
    assert speed_of(ISAS["avx2"], "znver4").multiply_adds == speed_of(isa, "znver5").multiply_adds == 2.0


def test_a_file_keeps_the_choices_of_the_processor_that_wrote_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Packed weights are in the order of what was chosen: another order of as many would be taken for it."""
    b = convc.Builder("kept", seed=0)
    y = b.conv(b.input("x", (1, 128, 14, 14)), 128, kernel=3)
    x = np.random.default_rng(0).standard_normal((1, 128, 14, 14)).astype(np.float32)
    monkeypatch.setattr(lower, "host_processor", lambda: "generic")
    model = convc.compile(b.finish(b.relu(y)), threads=1)
    every = choice.candidates.__wrapped__
    model.save(tmp_path / "kept.convc")

    def other(isa: Isa, facts: choice.Facts, speed: Speed) -> list[tuple[choice.Choice, float]]:
        """On another processor, the tile of the same form that is likely the slowest."""
        found = every(isa, facts, TYPICAL)
        same = [one for one in found if one[0].form == found[0][0].form and not one[0].few]
        return list(found if speed == TYPICAL else same[::-1])

    monkeypatch.setattr(lower, "host_processor", lambda: "znver4")
    monkeypatch.setattr(convolution, "candidates", other)
    loaded = convc.load(tmp_path / "kept.convc", threads=1)
    assert loaded.program.processor == "generic"
    assert [step.kernel for step in loaded.program.steps] == [step.kernel for step in model.program.steps]
    np.testing.assert_array_equal(loaded(x), model(x))
