"""The table of rooms: what each part of convc may import, read from the source; and what importing convc costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"convc": ROOT / "convc", "convc.passes": ROOT / "passes", "convc.backends": ROOT / "backends"}

RIVALS = frozenset({"onnxruntime", "openvino", "ncnn", "torch", "onnx2torch"})
"""Engines that convc is measured against, where they are installed."""
BASE = {"base"}
IR = BASE | {"ops", "ir"}
SHARED = IR | {"backends"}
STAGES = SHARED | {"container", "frontends", "zoo", "data", "interp", "passes", "cpu", "cuda", "model", "compiler"}
EVERYTHING = STAGES | {"measure", "check", "report", "cli"}


@dataclass(frozen=True)
class Room:
    """Modules under any of `homes`; the rooms they may import (their own always); packages beside numpy."""

    homes: tuple[str, ...]
    rooms: set[str]
    packages: frozenset[str] = frozenset()


ROOMS = {
    "base": Room(
        (
            "convc", "convc.errors", "convc.dims", "convc.types", "convc.limits", "convc.files", "convc.interrupts",
            "convc.processors", "convc.parallel", "convc.collector",
        ),
        set(),
    ),
    "container": Room(("convc.container", "convc.tensors"), BASE),
    "ops": Room(("convc.ops",), BASE),
    "ir": Room(("convc.ir",), BASE | {"ops"}, frozenset({"networkx"})),
    "frontends": Room(("convc.frontends",), IR | {"container"}, frozenset({"onnx", "google", "torch"})),
    "zoo": Room(("convc.zoo",), IR | {"frontends", "container", "data"}),
    "data": Room(("convc.data",), IR | {"frontends", "container"}),
    "interp": Room(("convc.interp",), IR),
    "passes": Room(("convc.passes",), IR | {"interp"}),
    "backends": Room(("convc.backends",), IR | {"container"}),
    "cpu": Room(("convc.backends.cpu",), SHARED, frozenset({"numba", "llvmlite"})),
    "cuda": Room(("convc.backends.cuda",), SHARED, frozenset({"numba", "llvmlite", "cuda"})),
    # Loading and unpickling walk the last stages again, so these call the compiler, which calls them.
    "model": Room(("convc.model", "convc.artifact"), SHARED | {"container", "interp", "passes", "compiler", "report"}),
    "compiler": Room(("convc.compiler", "convc.source"), STAGES, frozenset({"threadpoolctl"})),
    "measure": Room(("convc.measure",), STAGES, RIVALS | {"matplotlib"}),
    "check": Room(("convc.check",), STAGES | {"measure"}),
    "report": Room(("convc.report",), EVERYTHING - {"cli"}),
    "cli": Room(("convc.cli", "convc.__main__"), EVERYTHING, frozenset({"rich", "PIL"})),
}
ONE_FILE = {"networkx": "convc.ir.dag"}
LAZY = ("numba", "numba_cuda", "cuda", "llvmlite", "onnx", "torch", "networkx", "rich", "PIL")


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    """The room with the longest home that `module` lies under; the public face, `convc` itself, holds only itself."""
    lengths = {
        home: name
        for name, room in ROOMS.items()
        for home in room.homes
        if module == home or (home != "convc" and module.startswith(home + "."))
    }
    assert lengths, f"{module} is in no room: add it to ROOMS and to the tables in the documents"
    return lengths[max(lengths, key=len)]


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Absolute names that a module imports, at any depth, without those for type checkers."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import; write the whole name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in MODULES else str(node.module), node.lineno)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_stay_within_the_rooms(module: str) -> None:
    name = room_of(module)
    room = ROOMS[name]
    wrong = []
    for imported, line in imports(module):
        top = imported.partition(".")[0]
        if top == "convc":
            if room_of(imported) not in room.rooms | {name}:
                wrong.append(f"{module}:{line} imports {imported}; {name} may import {sorted(room.rooms)}")
        elif top not in sys.stdlib_module_names and top not in room.packages | {"numpy"}:
            wrong.append(f"{module}:{line} imports {imported}; {name} may import numpy, {sorted(room.packages)}")
        elif ONE_FILE.get(top, module) != module:
            wrong.append(f"{module}:{line} imports {imported}, which only {ONE_FILE[top]} may")
    assert not wrong, "\n".join(wrong)


def test_the_table_refuses_what_it_should() -> None:
    assert room_of("convc.backends.cpu.runtime") == "cpu"
    assert room_of("convc.backends.plan") == "backends"
    assert "backends" not in ROOMS["passes"].rooms
    assert "passes" not in ROOMS["backends"].rooms | ROOMS["cpu"].rooms
    with pytest.raises(AssertionError, match="in no room"):
        room_of("convc.unknown")


def test_modules_stay_short() -> None:
    long = {name: count for name, path in MODULES.items() if (count := len(path.read_text("utf-8").splitlines())) > 400}
    assert not long, f"over 400 lines: {long}; is each one thing?"


def test_every_package_is_listed_in_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert not {name for name in packages if f'"{name}"' not in text}


def in_fresh_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", ["", "Graph", "Builder", "Limits", "ModelError", "compile", "load", "parse", "zoo"])
def test_importing_convc_leaves_the_heavy_packages_alone(name: str) -> None:
    use = f"convc.{name}" if name else "pass"
    found = in_fresh_python(
        f"import sys, json, convc\n{use}\nprint(json.dumps([p for p in {LAZY!r} if p in sys.modules]))"
    )
    assert json.loads(found) == []


def test_importing_convc_is_quick() -> None:
    """Processor time, not the clock's, so that a busy machine does not decide; the best of five."""
    code = "import time; start = time.process_time(); import convc; print(time.process_time() - start)"
    assert min(float(in_fresh_python(code)) for _ in range(5)) < 0.25


def test_the_public_names_are_there() -> None:
    import convc

    for name in convc.__all__:
        assert getattr(convc, name) is not None, name
    assert set(convc.__all__) <= set(dir(convc))
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = convc.unknown  # type: ignore[attr-defined]


def test_no_module_reads_pickles_or_runs_strings_outside_the_kernel_loader() -> None:
    for module, path in MODULES.items():
        calls = {n.func.id for n in ast.walk(ast.parse(path.read_text("utf-8")))
                 if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
        assert not calls & {"eval"}, module
        assert "exec" not in calls or module.startswith("convc.backends."), module
        assert not {top.partition(".")[0] for top, _ in imports(module)} & {"pickle", "marshal", "shelve"}, module


def test_the_ruff_of_pyproject_matches_the_pre_commit_hook() -> None:
    version = (ROOT / "pyproject.toml").read_text("utf-8").split('"ruff==')[1].split('"')[0]
    assert f"ruff=={version}" in (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
