"""From a MODEL argument to a graph or a compiled model, with the options that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.cli.output import progress
from convc.errors import InputError

if TYPE_CHECKING:
    from convc.ir.graph import Graph
    from convc.model import CompiledModel, Port
    from convc.passes.base import PassRecord
    from convc.passes.manager import Instrument

SOURCE_HELP = "an .onnx file, a .txt file in convc's textual form, or zoo:NAME (see convc zoo)"
MODEL_HELP = f"a .convc file, {SOURCE_HELP}"


@dataclass(frozen=True)
class Described:
    """A graph with its inputs as a compiled model has them: what inputs can be gathered for."""

    graph: Graph
    inputs: tuple[Port, ...]

    @staticmethod
    def of(graph: Graph) -> Described:
        from convc.model import Port

        return Described(graph, tuple(Port.of(node.name, node.type) for node in graph.inputs))


def add_compile_options(parser: argparse.ArgumentParser, *, several_threads: bool = False) -> None:
    """Options that say how MODEL is compiled; with `several_threads`, `--threads` takes a list."""
    parser.add_argument("--target", help="cpu, cpu:avx512, cpu:avx2, cpu:portable or reference (default: cpu)")
    parser.add_argument("--passes", help="default, none, or names joined by commas (see convc passes)")
    if several_threads:
        parser.add_argument(
            "--threads", type=positives, metavar="T,T", help="how many threads run it (default: one for each core)"
        )
    else:
        parser.add_argument("--threads", type=positive, help="how many threads run it (default: one for each core)")
    parser.add_argument(
        "--input-shape", "--shapes", action="append", default=[], metavar="X:1x3x224x224",
        help="shape of an input, sizes joined by x or by commas; a name stands for any size; may be repeated",
    )  # fmt: skip


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def positives(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, joined by commas, for argparse."""
    return tuple(positive(part) for part in text.split(","))


def parse_shapes(texts: list[str]) -> dict[str, tuple[int | str, ...]]:
    """`x:1x3xHxW` and the like, by input name. Raises InputError."""
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        parts = [part.strip() for part in sizes.split("," if "," in sizes else "x")]
        if not colon or not name or not all(part.isdecimal() or part.isidentifier() for part in parts):
            raise InputError(f"--input-shape {text} cannot be read", hint="write --input-shape x:1x3x224x224")
        shapes[name] = tuple(int(part) if part.isdecimal() else part for part in parts)
    return shapes


def parse_passes(text: str | None) -> str | list[str]:
    """A pipeline's name, or a list of passes."""
    from convc.passes import PIPELINES

    if text is None or text in PIPELINES:
        return text or "default"
    return [name.strip() for name in text.split(",") if name.strip()]


def is_compiled(model: str) -> bool:
    """Whether MODEL names a `.convc` file, by its suffix or its first bytes."""
    if model.startswith("zoo:"):
        return False
    path = Path(model)
    if path.suffix == ".convc":
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\3\4"
    except OSError:
        return False


def read_graph(args: argparse.Namespace) -> Graph:
    """The graph of MODEL as it was read, before any pass. Raises ModelError."""
    from convc.source import read_source

    return read_source(args.model, input_shapes=parse_shapes(args.input_shape))


def run_passes(
    args: argparse.Namespace, instruments: Sequence[Instrument] = (), **more: Any
) -> tuple[Graph, tuple[PassRecord, ...]]:
    """The graph of MODEL after the passes that compiling it for the target would run, and their records."""
    from convc.compiler import optimise
    from convc.model import Options

    graph, options = read_graph(args), Options(args.target or "cpu", args.threads)
    return optimise(graph, options, parse_passes(args.passes), instruments=instruments, **more)


def load_or_compile(args: argparse.Namespace) -> CompiledModel:
    """The compiled model that MODEL names, or that is made of it. Raises convc.Error."""
    if is_compiled(args.model):
        if args.target or args.passes:
            raise InputError(f"{args.model} is compiled already", hint="leave out --target and --passes")
        from convc.artifact import load

        return load(args.model, threads=args.threads)
    return compile_source(args)


def compile_source(args: argparse.Namespace) -> CompiledModel:
    """Compile MODEL with the options given, showing progress on a terminal."""
    from convc.compiler import compile

    with progress(args.model) as report:
        return compile(
            args.model,
            target=args.target or "cpu",
            passes=parse_passes(args.passes),
            threads=args.threads,
            input_shapes=parse_shapes(args.input_shape) or None,
            dump_dir=getattr(args, "dump_dir", None),
            progress=report,
        )
