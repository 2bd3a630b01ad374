"""Every kind of description becomes a graph, and takes other input shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convc.container import write_container
from convc.errors import InputError, LimitError, ModelError
from convc.files import atomic_write
from convc.frontends.builder import Builder
from convc.interp import run_graph
from convc.ir.graph import Graph
from convc.limits import Limits
from convc.source import read_source
from convc.tensors import write_tensors


def small() -> Graph:
    b = Builder("small", seed=1)
    x = b.input("x", ("N", 3, "H", "W"), nominal={"N": 2, "H": 8, "W": 6})
    return b.finish({"y": b.flatten(b.global_avg_pool(b.relu(b.conv(x, 8, kernel=3))))})


def test_a_graph_is_itself() -> None:
    graph = small()
    assert read_source(graph) is graph


def test_the_zoo_has_a_prefix() -> None:
    assert read_source("zoo:dcgan").name == "dcgan"
    with pytest.raises(InputError, match="the zoo has no network 'nothing'"):
        read_source("zoo:nothing")


def test_a_text_is_read_with_the_weights_beside_it(tmp_path: Path) -> None:
    graph = small()
    (tmp_path / "net.txt").write_text(f"{graph}\n")
    with atomic_write(tmp_path / "net.safetensors") as file:
        for piece in write_tensors(graph.weights()):
            file.write(piece)
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 5), np.float32)
    found = read_source(tmp_path / "net.txt")
    assert str(found) == str(graph)
    np.testing.assert_array_equal(run_graph(found, {"x": x})["y"], run_graph(graph, {"x": x})["y"])
    (tmp_path / "net.safetensors").write_bytes(b"12345678")
    with pytest.raises(ModelError, match="net.safetensors is not a safetensors file"):
        read_source(tmp_path / "net.txt")


def test_texts_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read .*absent.txt: No such file"):
        read_source(tmp_path / "absent.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xff")
    with pytest.raises(ModelError, match="bad.txt: .*utf-8"):
        read_source(tmp_path / "bad.txt")
    with pytest.raises(LimitError, match="larger than limits.model_bytes"):
        read_source(tmp_path / "bad.txt", limits=Limits(model_bytes=1))


def test_compiled_files_and_other_objects_are_refused(tmp_path: Path) -> None:
    write_container(tmp_path / "net.convc", {})
    with pytest.raises(InputError, match="net.convc is compiled already. Hint: use convc.load"):
        read_source(tmp_path / "net.convc")
    with pytest.raises(InputError, match="net.pt2 is one of PyTorch's files.* Hint: load it with torch"):
        read_source(tmp_path / "net.pt2")
    with pytest.raises(InputError, match="a dict is no model. Hint: give a path"):
        read_source({})


def test_a_number_fixes_a_size_and_a_name_makes_it_symbolic() -> None:
    graph = read_source(small(), input_shapes={"x": (None, 3, 32, "Z")})
    assert str(graph.inputs[0].type) == "f32[N, 3, 32, Z]"
    assert str(graph["conv"].type) == "f32[N, 8, 32, Z]"
    assert graph.nominal == {"N": 2, "Z": 6}
    again = read_source(graph, input_shapes={"x": ("B", 3, 16, 16)})
    assert str(again["conv"].type) == "f32[B, 8, 16, 16]"
    assert read_source(again, input_shapes={"x": ("B", 3, "H", 16)})["conv"].type.shape[2:] == (
        read_source(again, input_shapes={"x": (None, None, "H", None)})["conv"].type.shape[2:]
    )


def test_symbols_may_change_places() -> None:
    graph = read_source(small(), input_shapes={"x": (None, None, "W", "H")})
    assert str(graph["conv"].type) == "f32[N, 8, W, H]"
    assert graph.nominal == {"N": 2, "W": 8, "H": 6}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": (1,)}, "input_shapes names y, which is no input. Hint: inputs are x"),
        ({"x": (1, 3)}, r"gives x the shape \(1, 3\), expected 4 sizes as in f32\[N, 3, H, W\]"),
        ({"x": "1x3"}, "expected 4 sizes"),
        ({"x": (0, 3, 8, 8)}, "axis 0 of x as 0. Hint: use a positive number"),
        ({"x": (True, 3, 8, 8)}, "axis 0 of x as True"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_source(small(), input_shapes=shapes)


def test_sizes_of_one_symbol_must_agree() -> None:
    b = Builder("two")
    graph = b.finish(b.input("x", ("N", 2)) + b.input("y", ("N", 2)))
    with pytest.raises(InputError, match="gives N as both 1 and 2"):
        read_source(graph, input_shapes={"x": (1, 2), "y": (2, 2)})
    assert str(read_source(graph, input_shapes={"x": (4, 2)}).inputs[1].type) == "f32[4, 2]"


def test_a_network_that_cannot_take_the_shape_names_the_node() -> None:
    with pytest.raises(ModelError, match="conv2d %conv: "):
        read_source(small(), input_shapes={"x": (None, 4, None, None)})


@pytest.mark.parametrize("shapes", ["x:1x3x8x8", {"x": 3}, [("x", (1, 3, 8, 8))]])
def test_shapes_that_are_no_sizes_by_input(shapes: Any) -> None:
    with pytest.raises(InputError, match="gives no sizes by input.*Hint: use a dict such as"):
        read_source(small(), input_shapes=shapes)
