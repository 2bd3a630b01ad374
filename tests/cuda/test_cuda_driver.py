"""driver.py through cuda.bindings to a library that stands in for the driver: every call arrives as it should.

No kernel runs: what the calls do on a GPU is for `make test-gpu`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convc.backends.cuda import compile as compiling

COMPILER = shutil.which("cc")
pytestmark = [
    pytest.mark.skipif(compiling.missing() != "", reason=f"the cuda extra lacks {compiling.missing()}"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="stands in for libcuda.so.1"),
]

SCRIPT = """
import json, sys
import numpy as np
import convc
from convc.backends.cuda.driver import described, this_device

class Given:
    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, False), "version": 3,
            "strides": None,
        }

assert described() == "Stand-in, sm_90"
device = this_device()
x = np.zeros((2, 64, 8, 8), np.float32)
b = convc.Builder("driven", seed=0)
y = b.relu(b.conv(b.input("x", ("N", 64, 8, 8)), 128, kernel=3, padding=1))
graph = b.finish(b.conv(y, 128, kernel=1))
print("compiling", file=sys.stderr)
model = convc.compile(graph, target="cuda", precision="tf32")
model.runnable.poison = True
print("running", file=sys.stderr)
shape = model(x).shape
print("given", file=sys.stderr)
given = Given(x)
found = model(given)
launches = [
    (l.kernel, *l.grid, l.threads, l.shared) for l in model.runnable.plan({"N": 2}).launches
]
print("tuning", file=sys.stderr)
tuned = convc.compile(graph.bind(N=1), target="cuda", precision="tf32", tune=True)
print("done", file=sys.stderr)
facts = [device.name, device.arch, device.processors, shape, found.shape, given.array.ctypes.data, launches]
print(json.dumps([*facts, tuned.program.choices]))
del found, model, tuned
"""


def test_calls_arrive_at_the_driver(tmp_path: Path) -> None:
    source = Path(__file__).with_name("stand_in_driver.c")
    library = tmp_path / "libcuda.so.1"
    subprocess.run(
        [str(COMPILER), "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source), "-ldl"],
        check=True,
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "CONVC_CACHE_DIR": str(tmp_path / "store")}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    name, arch, processors, shape, given_shape, pointer, launches, choices = json.loads(ran.stdout)
    assert (name, arch, processors) == ("Stand-in", "sm_90a", 132)
    assert shape == given_shape == [2, 128, 8, 8]
    told = ran.stderr.split("compiling\n")[1]
    compiled, told = told.split("running\n")
    running, told = told.split("given\n")
    given, told = told.split("tuning\n")
    tuning, ended = told.split("done\n")
    assert "node" not in compiled, "nothing is loaded before the first run"
    nodes = [line for line in running.splitlines() if line.startswith("node ")]
    assert len(nodes) == len(launches) > 2
    for index, (node, (kernel, *grid, threads, shared)) in enumerate(zip(nodes, launches, strict=True)):
        words = f"node {kernel} {grid[0]} {grid[1]} {grid[2]}, {threads}, {shared}: after {min(index, 1)}, "
        assert node.startswith(words)
        assert (f"allow {kernel} {shared}" in running) == (shared > 48 << 10)
    assert running.count("launch\n") == given.count("launch\n") == 1
    again = [line for line in given.splitlines() if line.startswith("again ")]
    assert any(line.endswith(f"first word {pointer:x}") for line in again), "the caller's array is read in place"
    assert choices and tuning.count("launch\n") >= 15 * 2 * len(choices)
    assert ended.splitlines()[-1] == "live 0", "all memory is given back"
