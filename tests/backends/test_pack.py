"""Between the caller's layout and planes: squares in registers, runs of channels, planes listed twice."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_support import TARGETS, check

from convc.frontends.builder import Builder
from convc.model import CompiledModel


def kernels(model: CompiledModel) -> set[str]:
    return {step.kernel.split("__")[0] for step in model.program.steps if step.family in {"pack", "unpack"}}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("plane", [(1, 1), (1, 5), (3, 16), (7, 7), (2, 33)])
@pytest.mark.parametrize("channels", [1, 15, 16, 35])
def test_there_and_back(target: str, plane: tuple[int, int], channels: int) -> None:
    b = Builder("moves", seed=1)
    x = b.input("x", (2, channels, *plane))
    y = b.op("abs", [b.global_max_pool(x)]) * b.max_pool2d(x, kernel=(3, 3), padding=(1, 1, 1, 1))
    found = check(b.finish({"y": y, "half": b.conv(y, 9, kernel=3)}), target=target, threads=3)
    assert any(name.startswith("f32_pack") for name in kernels(found))


@pytest.mark.parametrize("threads", [1, 3])
def test_channels_that_lie_in_one_place(threads: int) -> None:
    """What is taken twice from planes is written twice, and what is left out is not."""
    b = Builder("moves", seed=1)
    y = b.conv(b.input("x", (2, 3, 5, 6)), 37, kernel=3)
    picked = b.gather(y, np.array([3, 3, 36, 0, 17, 3, 16]), axis=1)
    check(b.finish({"picked": picked, "joined": b.concat([y, picked, y], axis=1)}), threads=threads)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [(1,), (3, 5), (40,), (2, 7, 9)])
@pytest.mark.parametrize(("features", "out"), [(5, 33), (64, 48), (19, 7)])
def test_rows_of_linear_layers(target: str, rows: tuple[int, ...], features: int, out: int) -> None:
    """Many rows are a convolution's pixels; layers that follow each other have nothing in between."""
    b = Builder("rows", seed=features)
    x = b.input("x", (*rows, features))
    y = b.linear(b.gelu(b.linear(x, out)), out)
    model = check(b.finish(b.relu(y + b.linear(x, out))), target=target, passes="default", threads=3)
    many = int(np.prod(rows)) >= 8
    families = [step.family for step in model.program.steps]
    assert ("linear" in families) != many and families.count("unpack") == 1
    assert not many or {"f32_pack_runs", "f32_unpack_runs"} == kernels(model)
