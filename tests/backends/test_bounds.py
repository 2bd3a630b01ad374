"""Kernels stay within their memory: arena, inputs and constants end right before pages that cannot be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="guard pages are set up through Linux' mprotect")

CODE = """
import ctypes, mmap, sys
import numpy as np
import convc
from convc.backends import assemble
from convc.backends.cpu import executable

PAGE = mmap.PAGESIZE
protect = ctypes.CDLL(None, use_errno=True).mprotect
kept = []

def guarded(count):
    whole = mmap.mmap(-1, -(-count // PAGE) * PAGE + 2 * PAGE)
    kept.append(whole)
    bytes_ = np.frombuffer(whole, np.uint8)
    for at in (0, len(whole) - PAGE):
        assert protect(ctypes.c_void_p(bytes_.ctypes.data + at), ctypes.c_size_t(PAGE), 0) == 0
    end = len(whole) - PAGE
    return bytes_[end - count : end]

def copy(array):
    found = guarded(array.nbytes).view(array.dtype).reshape(array.shape)
    found[...] = array
    return found

executable.aligned_bytes = lambda count, **_: guarded(-(-count // 64) * 64)[:count]
assemble.aligned = lambda array: copy(np.ascontiguousarray(array).reshape(np.shape(array)))

def run(b, *ends):
    model = convc.compile(b.finish(list(ends)), passes="none", threads=2, target=sys.argv[1])
    random = np.random.default_rng(0)
    inputs = [copy(random.normal(size=p.shape).astype(p.dtype)) for p in model.inputs]
    outputs = model(*inputs)
    expected = convc.compile(model.graph, passes="none", target="reference")(*inputs)
    for found, wanted in zip([outputs] if len(ends) == 1 else outputs, [expected] if len(ends) == 1 else expected):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())

for shape, attrs in [
    ((1, 20, 1, 2000), dict(kernel=1, stride=(1, 400))),
    ((1, 20, 4, 900), dict(kernel=(4, 300), stride=(4, 300), padding=0)),
    ((1, 20, 1, 1), dict(kernel=1)),
    ((5, 20, 1, 1), dict(kernel=1)),
    ((1, 3, 9, 9), dict(kernel=3, stride=2)),
    ((1, 33, 5, 3), dict(kernel=3)),
    ((1, 1, 1, 5), dict(kernel=(1, 3), padding=0)),
]:
    b = convc.Builder("conv", seed=1)
    x = b.input("x", shape)
    run(b, b.conv(x, 17, **attrs))
    b = convc.Builder("conv", seed=1)
    run(b, b.conv(b.input("x", shape), shape[1], groups=shape[1], **attrs))

b = convc.Builder("transposed", seed=1)
run(b, b.conv_transpose(b.input("x", (1, 17, 3, 9)), 5, kernel=(1, 200), stride=(1, 200)))
b = convc.Builder("linear", seed=1)
x = b.input("x", (3, 19, 3, 2))
y = b.conv(x, 19, kernel=1)
run(b, b.linear(b.flatten(y), 21), b.linear(b.flatten(x), 5), b.linear(b.linear(b.input("v", (3, 3)), 19), 1))
b = convc.Builder("others", seed=1)
x = b.input("x", (2, 5, 3, 7))
y = b.conv(x, 5, kernel=1)
ones = np.ones(5, np.float32)
run(b, b.softmax(x), b.softmax(x, axis=1), x + y, b.tanh(x), b.reduce_sum(x, axes=(1,)), x * y * x,
    b.matmul(x, b.transpose(x, perm=(0, 1, 3, 2))), b.layer_norm(x, np.ones(7, np.float32)),
    b.group_norm(x, ones, ones, groups=5), b.lrn(x, size=3), b.pad(x, before=(0, 0, 1, 1), after=(0, 0, 0, 1)),
    b.max_pool2d(y, kernel=(3, 3), stride=(2, 2), ceil_mode=True), b.global_avg_pool(y),
    b.resize(y, size=(2, 5, 6, 9), scales=(1.0, 1.0, 2.0, 9 / 7), mode="linear"))
"""


@pytest.mark.parametrize("target", ["cpu", pytest.param("cpu:portable", marks=pytest.mark.slow)])
def test_nothing_is_read_beyond_the_end(target: str, tmp_path: Path) -> None:
    path = tmp_path / "guarded.py"
    path.write_text(CODE)
    done = subprocess.run([sys.executable, path, target], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.returncode}\n{done.stderr[-3000:]}"
