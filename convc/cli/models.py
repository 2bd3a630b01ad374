"""From a MODEL argument to a graph or a compiled model, with the options that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.cli.output import note, progress
from convc.errors import InputError

if TYPE_CHECKING:
    from convc.ir.graph import Graph
    from convc.model import CompiledModel, Port
    from convc.passes.base import PassRecord
    from convc.passes.manager import Instrument
    from convc.types import Array

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


def add_compile_options(
    parser: argparse.ArgumentParser, *, several_threads: bool = False, rewrites: bool = False
) -> None:
    """Options that say how MODEL is compiled; with `several_threads`, `--threads` takes a list; with `rewrites`, those
    that approximate and force are there.
    """
    parser.add_argument("--target", help="cpu, cpu:avx2, cuda, cuda:sm_90a, reference and the like (default: cpu)")
    parser.add_argument(
        "--precision", choices=("float32", "tf32", "float16", "bfloat16"), default="float32",
        help="of products and activations, for cuda (default: float32, strictly)",
    )  # fmt: skip
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
    if rewrites:
        parser.add_argument(
            "--budget", type=float, metavar="SHARE", help="error of the outputs that approximations may cause, as 0.01"
        )
        parser.add_argument(
            "--calibration", action="append", default=[], metavar="X=FILE",
            help=".npy, .npz or image files to measure that error on, as --input of convc run (default: random)",
        )  # fmt: skip
        parser.add_argument("--mean", type=numbers, default=(0.0,), help="subtracted from images scaled to 0..1")
        parser.add_argument("--std", type=numbers, default=(1.0,), help="divides images, after --mean")
        parser.add_argument(
            "--tune", action="store_true", help="measure what runs each convolution fastest, and keep it on disk"
        )
        parser.add_argument(
            "--force", action="store_true", help="rewrite also where the cost model sees no gain, to experiment"
        )


def target_of(args: argparse.Namespace) -> dict[str, Any]:
    """Target and precision, as `convc.compile` names them."""
    return {"target": args.target or "cpu", "precision": args.precision}


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def positives(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, joined by commas, for argparse."""
    return tuple(positive(part) for part in text.split(","))


def numbers(text: str) -> tuple[float, ...]:
    """`0.485,0.456,0.406`, for argparse."""
    return tuple(float(part) for part in text.split(","))


def parse_shapes(texts: list[str]) -> dict[str, tuple[int | str, ...]]:
    """`x:1x3xHxW` and the like, by input name. Raises InputError."""
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        parts = [part.strip() for part in sizes.split("," if "," in sizes else "x")]
        if not colon or not name or not all(part.isdecimal() or part.isidentifier() for part in parts):
            raise InputError(f"--input-shape {text} cannot be read", hint="write NAME:1x3x224x224, NAME of an input")
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


def keep_apart(args: argparse.Namespace, *outputs: str | None) -> None:
    """Raise InputError where an output file is the model that is read."""
    for output in outputs:
        try:
            same = bool(output) and Path(args.model).samefile(str(output))
        except OSError:  # one of them is no file
            continue
        if same:
            raise InputError(f"{output} is the model that is read", hint="write to another file")


def read_graph(args: argparse.Namespace) -> Graph:
    """The graph of MODEL as it was read, before any pass. Raises ModelError."""
    from convc.source import read_source

    return read_source(args.model, input_shapes=parse_shapes(args.input_shape))


def run_passes(
    args: argparse.Namespace, instruments: Sequence[Instrument] = (), **more: Any
) -> tuple[Graph, tuple[PassRecord, ...]]:
    """The graph of MODEL after the passes that compiling it for the target would run, and their records."""
    from convc.compiler import choose_passes, optimise
    from convc.model import Options

    graph, options = read_graph(args), Options(args.target or "cpu", args.threads, precision=args.precision)
    budget = getattr(args, "budget", None)
    passes = choose_passes(parse_passes(args.passes), budget, calibration_of(args, graph))
    return optimise(graph, options, passes, instruments=instruments, force=getattr(args, "force", False), **more)


def calibration_of(args: argparse.Namespace, graph: Graph) -> dict[str, Array] | None:
    """The arrays that --calibration names, for every input; None where it names none. Raises InputError."""
    files = getattr(args, "calibration", None)
    if not files:
        if getattr(args, "budget", None) is not None:
            note("--budget is measured on seeded normal inputs: --calibration X=FILE gives what the network will see")
        return None
    from convc.cli.inputs import gather

    given = argparse.Namespace(input=files, seed=0, input_shape=args.input_shape, mean=args.mean, std=args.std)
    return gather(Described.of(graph), given, option="--calibration")


def load_or_compile(args: argparse.Namespace) -> CompiledModel:
    """The compiled model that MODEL names, or that is made of it. Raises convc.Error."""
    if is_compiled(args.model):
        rewrites = [f"--{name}" for name in ("budget", "calibration", "force") if getattr(args, name, None)]
        if args.target or args.passes or rewrites:
            *options, last = ["--target", "--passes", *rewrites]
            raise InputError(f"{args.model} is compiled already", hint=f"leave out {', '.join(options)} and {last}")
        from convc.artifact import load

        return load(args.model, threads=args.threads)
    return compile_source(args)


def compile_source(args: argparse.Namespace) -> CompiledModel:
    """Compile MODEL with the options given, showing progress on a terminal."""
    from convc.compiler import compile

    with progress(args.model) as report:
        graph = read_graph(args)
        return compile(
            graph,
            **target_of(args),
            passes=parse_passes(args.passes),
            budget=getattr(args, "budget", None),
            calibration=calibration_of(args, graph),
            force=getattr(args, "force", False),
            tune=getattr(args, "tune", False),
            threads=args.threads,
            dump_dir=getattr(args, "dump_dir", None),
            progress=report,
        )
