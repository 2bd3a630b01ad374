"""Running compiled networks: the same bits always, concurrent calls, other processes, plans, and what callers pass."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_support import TARGETS, clear_halos

import convc
from convc.backends.aligned import HUGE, aligned_bytes
from convc.backends.binding import Binding
from convc.backends.cpu import executable, isa, jit, link, team
from convc.backends.cpu.lower import ARGUMENTS, lower
from convc.errors import InputError, LimitError
from convc.frontends.builder import Builder
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.model import CompiledModel
from convc.types import Array


def network() -> Graph:
    """Every kind of step: narrow and wide convolutions, groups, joins, halos, pools, plain tensors, several outputs."""
    b = Builder("net", seed=3)
    x = b.input("x", ("N", 3, "H", "W"), nominal={"N": 1, "H": 20, "W": 20})
    y = b.relu(b.batch_norm(b.conv(x, 34, kernel=3, stride=2)))
    z = b.silu(b.conv(y, 34, kernel=3, groups=34)) + y
    half = b.conv(b.slice(z, axis=1, start=0, stop=17), 17, kernel=3)
    z = b.channel_shuffle(b.concat([half, b.slice(z, axis=1, start=17, stop=34)]), groups=2)
    z = b.relu(b.conv(z, 34, kernel=1) + z) * b.sigmoid(b.conv(b.global_avg_pool(z), 34, kernel=1))
    z = b.max_pool2d(b.conv(z, 20, kernel=3, groups=2), kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    scores = b.linear(b.reshape(b.global_avg_pool(z), ("N", 20)), 10)
    return b.finish({"scores": b.softmax(scores), "map": b.conv_transpose(z, 3, kernel=4, stride=2, padding=1)})


GRAPH = network()
IMAGES = np.random.default_rng(1).normal(size=(5, 3, 20, 22)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return convc.compile(GRAPH, threads=2)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the kernels that are compiled from here on."""
    names: list[str] = []
    real = jit.compile_object

    def spy(name: str, source: str, kind: isa.Isa) -> bytes:
        names.append(name)
        return real(name, source, kind)

    monkeypatch.setattr(jit, "compile_object", spy)
    yield names


def bits(outputs: Any) -> list[bytes]:
    return [array.tobytes() for array in outputs]


@pytest.mark.parametrize("target", TARGETS[:2])
@pytest.mark.parametrize("passes", ["default", "none"])
def test_the_same_bits_for_any_threads_run_and_batch(target: str, passes: str) -> None:
    wanted: list[bytes] = []
    for threads in (1, 2, 3, 7):
        model = convc.compile(GRAPH, target=target, passes=passes, threads=threads)
        for _ in range(3):
            together = model(IMAGES)
            wanted = wanted or bits(together)
            assert bits(together) == wanted
        for index in (0, 2, 4):
            alone = model(IMAGES[index : index + 1])
            assert bits(alone) == bits(array[index : index + 1] for array in together)
        assert bits(model(IMAGES[1:4])) == bits(array[1:4] for array in together)


@pytest.mark.parametrize("target", [TARGETS[0], *(pytest.param(t, marks=pytest.mark.slow) for t in TARGETS[1:])])
def test_what_the_arena_held_before_does_not_matter(target: str) -> None:
    model = convc.compile(GRAPH, target=target, passes="none", threads=2)
    wanted = bits(model(IMAGES))
    plan: Any = model.runnable.plan({"N": 5, "H": 20, "W": 22})  # type: ignore[attr-defined]
    for filling in (0xFF, 0x7F, 0x00):  # NaN, large numbers, zero
        context = plan.take()
        context.arena[:] = filling
        clear_halos(plan.bound, context.arena, plan.bound.clean)  # which nothing else touches
        plan.give_back(context)
        assert bits(model(IMAGES)) == wanted
        assert plan.take() is context
        plan.give_back(context)


def test_many_threads_call_one_model(model: CompiledModel) -> None:
    alone = [bits(model(IMAGES[i : i + 1])) for i in range(5)]
    start = threading.Barrier(8)

    def call(worker: int) -> bool:
        start.wait()
        turns = [(worker + turn) % 5 for turn in range(20)]
        return all(bits(model(IMAGES[i : i + 1])) == alone[i] for i in turns)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))


def test_models_with_teams_of_several_sizes_at_once() -> None:
    models = [convc.compile(GRAPH, threads=threads) for threads in (1, 2, 3)]
    wanted = bits(models[0](IMAGES))
    with ThreadPoolExecutor(6) as pool:
        found = pool.map(lambda i: bits(models[i % 3](IMAGES)), range(30))
        assert all(each == wanted for each in found)


def send(model: CompiledModel, pipe: Any) -> None:
    """In another process: run, and send the bits back."""
    pipe.send(bits(model(IMAGES)))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_other_processes(model: CompiledModel, method: str) -> None:
    """After the parent has run it, and once more after the child has."""
    wanted = bits(model(IMAGES))
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=send, args=(model, there))
    child.start()
    assert here.poll(300), "the child does not answer"
    assert here.recv() == wanted
    child.join(60)
    assert child.exitcode == 0
    assert bits(model(IMAGES)) == wanted


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_others_run(model: CompiledModel) -> None:
    wanted, stop = bits(model(IMAGES)), threading.Event()

    def keep_running() -> None:
        while not stop.is_set():
            model(IMAGES)

    runner = threading.Thread(target=keep_running)
    runner.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if bits(model(IMAGES)) == wanted else 1)
            assert _exit_code(child) == 0
    finally:
        stop.set()
        runner.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_finds_locks_open_that_another_thread_held(model: CompiledModel) -> None:
    wanted = bits(model(IMAGES))
    runnable: Any = model.runnable
    with runnable._lock, link._lock, team._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if bits(model(IMAGES)) == wanted else 1)
        assert _exit_code(child) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("zero", [False, True])
def test_a_child_does_not_write_into_its_parents_memory(zero: bool) -> None:
    """Large arrays are mapped, where writing is seen by all who share a mapping."""
    area = aligned_bytes(5 * HUGE, zero=zero)
    area[...] = 1
    child = os.fork()
    if child == 0:
        area[...] = 2
        os._exit(0)
    assert _exit_code(child) == 0
    assert (area == 1).all()


def test_large_memory_lies_on_huge_pages() -> None:
    try:
        words = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text("ascii")
        mapped = Path("/proc/self/smaps_rollup").read_text("ascii")
    except OSError:
        pytest.skip("this system does not say what huge pages it has")
    if "[never]" in words:
        pytest.skip("this system is set up to give no huge pages")

    def huge(text: str) -> int:
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("AnonHugePages"))

    area = aligned_bytes(64 * HUGE)
    area[...] = 1
    assert huge(Path("/proc/self/smaps_rollup").read_text("ascii")) >= huge(mapped) + 32 * (HUGE >> 10)
    assert area.ctypes.data % HUGE == 0


def _exit_code(child: int) -> int:
    for _ in range(2400):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def test_pickling(model: CompiledModel) -> None:
    again = pickle.loads(pickle.dumps(model))
    assert bits(again(IMAGES)) == bits(model(IMAGES))
    assert again.options == model.options and str(again.graph) == str(model.graph)
    unused = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))
    assert unused.inputs == model.inputs


def awkward(kind: str) -> Array:
    """The images in an array of another make."""
    if kind == "read-only":
        given = IMAGES.copy()
        given.flags.writeable = False
    elif kind == "transposed":
        given = np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    elif kind == "strided":
        given = np.repeat(IMAGES, 2, axis=3)[..., ::2]
    elif kind == "backwards":
        given = np.ascontiguousarray(IMAGES[:, ::-1])[:, ::-1]
    elif kind == "byte-swapped":
        given = IMAGES.astype(IMAGES.dtype.newbyteorder())
    else:
        given = np.zeros(IMAGES.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(IMAGES.shape)
        given[...] = IMAGES
    return given


@pytest.mark.parametrize("kind", ["read-only", "transposed", "strided", "backwards", "byte-swapped", "misaligned"])
def test_arrays_of_any_make(model: CompiledModel, kind: str) -> None:
    given = awkward(kind)
    before = given.tobytes()
    assert bits(model(given)) == bits(model(IMAGES))
    assert bits(model.run({"x": given}).values()) == bits(model(IMAGES))
    assert given.tobytes() == before


def test_outputs_belong_to_the_caller(model: CompiledModel) -> None:
    first = model(IMAGES)
    kept = bits(first)
    model(IMAGES + 1)
    assert bits(first) == kept
    first[0][...] = 7
    assert bits(model(IMAGES)) == kept


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([], "net got 0 arrays, expected 1.*inputs are x: float32"),
        ([IMAGES, IMAGES], "net got 2 arrays, expected 1"),
        ([IMAGES.astype(np.float64)], r"input x has dtype float64, expected float32.*astype\('float32'\)"),
        ([IMAGES[0]], r"input x has shape \[3, 20, 22\], expected f32\[N, 3, H, W\]"),
        ([IMAGES[:, :2]], r"input x has shape \[5, 2, 20, 22\]"),
        ([np.zeros((1, 3, 0, 5), np.float32)], "does not take N=1, H=0, W=5"),
        ([[[1.0, 2.0], [3.0]]], r"input x is no array: .*Hint: give an array x: float32\[N, 3, H, W\]"),
        ([None], "input x has dtype object"),
    ],
)
def test_wrong_calls_are_refused(model: CompiledModel, arrays: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(*arrays)


def test_wrong_names_are_refused(model: CompiledModel) -> None:
    with pytest.raises(InputError, match="net has no input y. Hint: its inputs are x"):
        model.run({"x": IMAGES, "y": IMAGES})
    with pytest.raises(InputError, match="run takes arrays by name, not ndarray. Hint: call the model"):
        model.run(np.zeros((1, 2), np.float32))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="input x.* is missing"):
        model.run({})


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_wrong_threads_are_refused(threads: Any) -> None:
    with pytest.raises(InputError, match="threads=.* is no positive number"):
        convc.compile(GRAPH, threads=threads)


def test_limits_hold_at_each_call() -> None:
    model = convc.compile(GRAPH, limits=Limits(arena_bytes=1 << 20), threads=1)
    model(IMAGES[:1])
    with pytest.raises(LimitError, match="more than limits.arena_bytes"):
        model(np.zeros((9, 3, 200, 200), np.float32))
    model(IMAGES[:1])


def test_another_size_compiles_nothing(model: CompiledModel, compiled: list[str]) -> None:
    for shape in ((1, 3, 7, 9), (2, 3, 64, 33), (3, 3, 20, 20)):
        model(np.ones(shape, np.float32))
    assert not compiled


def test_networks_share_kernels(compiled: list[str]) -> None:
    convc.compile(GRAPH, threads=1)
    compiled.clear()
    b = Builder("other", seed=9)
    x = b.input("x", ("N", 3, "H", "W"), nominal={"N": 1, "H": 20, "W": 20})
    convc.compile(b.finish(b.relu(b.conv(x, 34, kernel=3, stride=2))), threads=1)
    assert not compiled


def test_plans_are_quick_and_bounded(model: CompiledModel) -> None:
    runnable: Any = model.runnable
    for height in range(5, 45):
        model(np.zeros((1, 3, height, 6), np.float32))
    assert len(runnable._plans) == executable.PLANS
    kept = runnable.plan({"N": 1, "H": 44, "W": 6})
    model(np.zeros((1, 3, 44, 6), np.float32))
    assert runnable.plan({"N": 1, "H": 44, "W": 6}) is kept
    assert len(kept._free) == 1


def test_planning_a_deep_network_takes_milliseconds() -> None:
    graph = convc.zoo.build("resnet50")
    program = lower(graph, isa.choose())
    seconds = 1.0
    for _ in range(20):  # others may be at work on this machine
        start = time.perf_counter()
        Binding(program, graph.nominal, ARGUMENTS, Limits())
        seconds = min(seconds, time.perf_counter() - start)
        if seconds < 0.05:
            break
    assert seconds < 0.05


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors are not chosen here")
def test_sleeping_workers_wake_elsewhere_than_their_caller() -> None:
    allowed = os.sched_getaffinity(0)
    model = convc.compile(GRAPH, threads=2)
    model(IMAGES)
    (worker,) = team._teams[2].workers
    end = time.monotonic() + 5
    while not worker.sleeping and time.monotonic() < end:
        time.sleep(0.001)
    assert worker.sleeping
    try:
        os.sched_setaffinity(0, {min(allowed)})
        model(IMAGES)
        os.sched_setaffinity(0, allowed)
        while not worker.sleeping and time.monotonic() < end:
            time.sleep(0.001)
        model(IMAGES)
    finally:
        os.sched_setaffinity(0, allowed)
    assert worker.native_id is not None
    where = os.sched_getaffinity(worker.native_id)
    assert where < allowed and len(where) == len(allowed) - 1 if len(allowed) > 1 else where == allowed


IDLE = """
import glob, time
import numpy as np
import convc

b = convc.Builder("idle", seed=0)
graph = b.finish(b.conv(b.input("x", (1, 256, 28, 28)), 256, kernel=3))
x = np.zeros((1, 256, 28, 28), np.float32)


def used():
    return sum(int(open(path).read().split()[0]) for path in glob.glob("/proc/self/task/*/schedstat")) / 1e6


convc.compile(graph, threads=2)
time.sleep(0.3)
convc.compile(graph, threads=2)(x)  # with kernels from the store: what ran a moment ago may still spin
time.sleep(0.001)
begin = used()
time.sleep(0.1)
print(used() - begin)
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not tell the time of threads")
def test_nothing_runs_after_an_inference() -> None:
    """Neither the team nor threads of a library, in ms of the 100 that follow."""
    done = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) < 10, done.stdout
