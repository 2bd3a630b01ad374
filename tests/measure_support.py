"""A small network on disk, as the tests of the command line use it."""

from __future__ import annotations

from pathlib import Path

from convc.frontends.builder import Builder
from convc.ir.graph import Graph
from convc.tensors import write_tensors


def small_graph() -> Graph:
    """A little classifier of pictures; its kernels are those of the network in tests/test_cli.py."""
    b = Builder("small", seed=1)
    x = b.input("x", ("N", 3, 16, 16), nominal={"N": 1})
    y = b.relu(b.batch_norm(b.conv(x, 8, kernel=3, name="stem"), name="norm"), name="act")
    return b.finish({"scores": b.linear(b.flatten(b.global_avg_pool(y)), 5, name="head")})


def write_small(folder: Path) -> str:
    """The path of its textual form, with the weights beside it."""
    graph = small_graph()
    path = folder / "small.txt"
    path.write_text(f"{graph}\n")
    path.with_suffix(".safetensors").write_bytes(b"".join(write_tensors(graph.weights())))
    return str(path)
