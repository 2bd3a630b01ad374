"""Show the facts of this machine that decide what convc does: versions, processor, threads, kernel store."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from convc import __version__
from convc.cli.output import print_json, table

PACKAGES = ("numpy", "numba", "llvmlite", "networkx", "onnx", "safetensors", "rich", "pillow", "onnxruntime", "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the facts."""
    facts = environment()
    if args.json:
        print_json(facts)
        return 0
    versions = [(name, version or "not installed") for name, version in facts["packages"].items()]
    rows = [(name, _text(value)) for name, value in facts.items() if name != "packages"]
    table(["", ""], [*rows, *versions])
    return 0


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def version_of(package: str) -> str | None:
    """The installed version, None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """The facts as plain JSON values."""
    from convc.backends.cpu.isa import available
    from convc.backends.cpu.team import default_threads
    from convc.backends.store import store

    return {
        "convc": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "instruction_sets": list(available()),
        "threads": default_threads(),
        "store": str(store().folder),
        "packages": {name: version_of(name) for name in PACKAGES},
    }


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
