"""A torch.export.ExportedProgram becomes the graph that its module does. Skipped where torch is not installed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import convc
from convc.errors import InputError, ModelError
from convc.interp import run_graph
from convc.source import read_source

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
nn = torch.nn


class Network(nn.Module):  # type: ignore[misc]
    """Parameters, buffers of both kinds, a constant, a size, two results."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        self.register_buffer("scale", torch.rand(5, 1, 1), persistent=False)
        self.features[1].running_mean.normal_()

    def forward(self, x: Any, add: Any = None) -> dict[str, Any]:
        y = self.features(x) * self.scale + torch.arange(5.0).view(5, 1, 1)
        return {"maps": y, "flat": y.reshape(x.shape[0], -1), "same": x if add is None else x + add}


def exported(**dynamic: Any) -> tuple[Any, Any, Any]:
    """The module, an input, and the program of the module for it."""
    torch.manual_seed(0)
    module, x = Network().eval(), torch.randn(2, 3, 8, 9)
    axes = {int(axis.removeprefix("axis_")): size for axis, size in dynamic.items()}
    return module, x, torch.export.export(module, (x,), dynamic_shapes={"x": axes} if axes else None)


def equals(program: Any, module: Any, x: Any) -> None:
    graph = read_source(program)
    found = run_graph(graph, {"x": x.numpy()})
    with torch.no_grad():
        expected = module(x)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), atol=1e-5)


def saved(program: Any) -> Any:
    """As it comes back from a file."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("again", [False, True], ids=["made", "loaded"])
@pytest.mark.parametrize("core", [False, True], ids=["training", "core"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_it_computes_what_its_module_does(dynamic: bool, core: bool, again: bool) -> None:
    auto = torch.export.Dim.AUTO
    module, x, program = exported(**({"axis_0": auto, "axis_2": auto, "axis_3": auto} if dynamic else {}))
    program = program.run_decompositions() if core else program
    program = saved(program) if again else program
    equals(program, module, x)
    if dynamic:
        equals(program, module, torch.randn(4, 3, 5, 21))
        assert [str(size) for size in read_source(program).inputs[0].type.shape] == ["N", "3", "x_2", "x_3"]


def test_nodes_are_called_after_their_modules() -> None:
    _, _, program = exported()
    graph = read_source(saved(program))
    assert graph.name == "Network" and {"features.0", "features.1", "features.2", "x"} <= {n.name for n in graph.nodes}


def test_it_compiles() -> None:
    module, x, program = exported(axis_0=torch.export.Dim("batch"))
    model = convc.compile(program, target="reference")
    with torch.no_grad():
        np.testing.assert_allclose(model.run({"x": x[:1].numpy()})["maps"], module(x[:1])["maps"], atol=1e-5)


def test_sizes_are_fixed_and_named() -> None:
    auto = torch.export.Dim.AUTO
    _, _, program = exported(axis_0=auto, axis_2=auto, axis_3=auto)
    graph = read_source(program, input_shapes={"x": ("B", None, 16, "W")})
    assert [str(size) for size in graph.inputs[0].type.shape] == ["B", "3", "16", "W"]
    assert graph.nominal == {"B": 2, "W": 9}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (None, "was exported for sizes x_2 of 4 to 64 only"),
        ({"x": (None, 3, 65, 9)}, "x_2 is 65, and the program was exported for 4 to 64"),
        ({"x": (None, 4, 8, 9)}, "axis 1 of x as 4, and it was exported as 3"),
        ({"x": (None, 3, 8, "W")}, "axis 3 of x as 'W', and it was exported as 9"),
        ({"x": (0, 3, 8, 9)}, "axis 0 of x as 0"),
        ({"x": (1, 3, 8)}, "expected 4 sizes"),
        ({"y": (1, 3, 8, 9)}, "names y, which is no input"),
    ],
)
def test_other_shapes_are_refused(shapes: Any, message: str) -> None:
    _, _, program = exported(axis_0=torch.export.Dim("batch"), axis_2=torch.export.Dim("height", min=4, max=64))
    with pytest.raises(InputError, match=message):
        read_source(program, input_shapes=shapes)
    assert read_source(program, input_shapes={"x": (None, 3, 64, 9)}).inputs[0].type.shape[2] == 64


def test_what_convc_cannot_take_is_refused() -> None:
    module, x, program = exported()
    with pytest.raises(ModelError, match=r"features.0.weight is float16"):
        read_source(torch.export.export(Network().half().eval(), (x.half(),)))
    with pytest.raises(ModelError, match="writes to its buffer"):
        read_source(torch.export.export(module.train(), (x,)))
    with pytest.raises(InputError, match="example_inputs belongs to PyTorch modules"):
        read_source(program, example_inputs=(x,))
