"""The runtime of the CUDA target on a device that runs kernels in lock step: memory, graphs, arrays on the device."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from cuda_support import executable_in_lockstep
from support import random_inputs

import convc
from convc.backends.cuda.arrays import device_array, is_on_device
from convc.backends.cuda.executable import Executable
from convc.errors import InputError
from convc.frontends.builder import Builder
from convc.interp import run_graph
from convc.ir.graph import Graph
from convc.types import Array


def small() -> Graph:
    b = Builder("small", seed=3)
    x = b.input("x", ("N", 3, 6, 5))
    y = b.relu(b.conv(x, 10, kernel=3, padding=1))
    return b.finish({"map": y, "scores": b.linear(b.flatten(b.global_avg_pool(y)), 4)})


def expected(graph: Graph, x: Array) -> list[Array]:
    return list(run_graph(graph, {"x": x.astype(np.float64)}, dtype="float64").values())


def assert_outputs(found: list[Array], graph: Graph, x: Array) -> None:
    for got, want in zip(found, expected(graph, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_numpy_in_and_out_at_several_sizes() -> None:
    graph = small()
    executable, device = executable_in_lockstep(graph)
    executable.poison = True
    for size, seed in ((2, 0), (1, 1), (2, 2)):
        x = random_inputs(graph, seed, N=size)["x"]
        assert_outputs(executable.run([x], {"N": size}), graph, x)
    loaded = [name for name, _ in device.loaded]
    assert len(loaded) == len(set(loaded)), "a kernel is loaded once"
    weights = [b for b in device.blocks.values()]
    assert len(weights) == 3, "weights once, and one allocation a plan"
    assert len(device.kept) == len(loaded) + 2, "a module a kernel, a stream a plan"
    del executable, weights
    gc.collect()
    assert not device.blocks and not device.kept, "all is given back"


def test_calls_at_once_have_memory_of_their_own() -> None:
    graph = small()
    executable, _ = executable_in_lockstep(graph)
    plan = executable._plan({"N": 1})
    first, second = plan.take(), plan.take()
    assert not set(first.slots) & set(second.slots)
    plan.give_back(first)
    assert plan.take() is first


class OnDevice:
    """A caller's array: memory on the device behind `__cuda_array_interface__`."""

    def __init__(self, device: object, array: Array, strides: tuple[int, ...] | None = None) -> None:
        self.pointer = device.allocate(array.nbytes)  # type: ignore[attr-defined]
        device.upload(self.pointer, array, None)  # type: ignore[attr-defined]
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (self.pointer, False), "version": 3,
            "strides": strides,
        }  # fmt: skip


def test_arrays_on_the_device_are_used_in_place() -> None:
    graph = small()
    executable, device = executable_in_lockstep(graph)
    for seed in (0, 1):
        x = random_inputs(graph, seed, N=2)["x"]
        given = OnDevice(device, x)
        assert is_on_device(given) and not is_on_device(x)
        outputs = executable.run_on_device([Executable.take(given, "x")], {"N": 2}, stream=7)
        found = []
        for output in outputs:
            facts = output.__cuda_array_interface__
            assert facts["stream"] == 7 and facts["version"] == 3
            array = np.empty(facts["shape"], facts["typestr"])
            device.download(array, facts["data"][0], None)
            found.append(array)
        assert_outputs(found, graph, x)
    context = executable._plan({"N": 2}).take()
    assert context.graph.updates == 2 * len(context._touched), "the graph is patched, not made again"  # type: ignore[attr-defined]
    assert 0 < len(context._touched) < len(context._plan.bound.launches)
    before = len(device.blocks)
    del outputs, output
    assert len(device.blocks) == before - 2, "outputs that nobody holds are freed"


def test_calls_on_one_stream_do_not_wait_and_outputs_may_be_given() -> None:
    graph = small()
    executable, device = executable_in_lockstep(graph)
    x = random_inputs(graph, 3, N=1)["x"]
    given = [Executable.take(OnDevice(device, x), "x")]
    first = executable.run_on_device(given, {"N": 1}, stream=7)
    device.waits.clear()
    again = executable.run_on_device(given, {"N": 1}, 7, first)
    assert [a.pointer for a in again] == [a.pointer for a in first] and not device.waits
    executable.run_on_device(given, {"N": 1}, stream=8)
    assert device.waits == [7], "another stream shares the memory only once the first is done"
    with pytest.raises(InputError, match=r"output map is float32\[1, 4\], expected float32\[1, 10, 6, 5\]"):
        executable.run_on_device(given, {"N": 1}, 8, first[::-1])


def test_an_array_that_is_not_contiguous_is_refused_by_name() -> None:
    _, device = executable_in_lockstep(small())
    x = np.zeros((2, 3), np.float32)
    assert device_array(OnDevice(device, x, (12, 4)), "x").shape == (2, 3)
    with pytest.raises(InputError, match=r"input x is not contiguous.*contiguous\(\)"):
        device_array(OnDevice(device, x, (4, 8)), "x")


def test_a_batch_of_nothing() -> None:
    graph = small()
    executable, _ = executable_in_lockstep(graph)
    found = executable.run([np.zeros((0, 3, 6, 5), np.float32)], {"N": 0})
    assert [a.shape for a in found] == [(0, 10, 6, 5), (0, 4)]


def test_words_hold_floats_and_negative_numbers() -> None:
    b = Builder("words", seed=0)
    x = b.input("x", (2, 5))
    graph = b.finish(b.leaky_relu(b.pad(x, before=(0, 1), after=(0, 0), value=-2.5), alpha=0.3))
    executable, _ = executable_in_lockstep(graph)
    given = random_inputs(graph)
    (found,) = executable.run([given["x"]], {})
    np.testing.assert_allclose(found, next(iter(run_graph(graph, given).values())), rtol=1e-6)


@pytest.mark.parametrize("precision", ["float64", "int8"])
def test_unknown_precisions_are_refused(precision: str) -> None:
    with pytest.raises(InputError, match="precision"):
        convc.compile("zoo:digits", target="cuda:sm_90a", precision=precision)


def test_precisions_of_other_targets_are_refused() -> None:
    with pytest.raises(InputError, match=r"precision='float16' is not available for cpu.*target='cuda'"):
        convc.compile("zoo:digits", precision="float16")
