"""Run MODEL, a compiled file or a source that is compiled first, and show or keep its outputs.

Examples
--------
  convc run mobilenet.convc --input cat.jpg --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --top 5
  convc run net.onnx --input x=x.npy --input mask=random --seed 1 --output y.npz
"""

from __future__ import annotations

import argparse
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convc.cli import inputs, models
from convc.cli.output import note, print_json, say, table
from convc.errors import InputError
from convc.files import atomic_write
from convc.types import Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("model", metavar="MODEL", help=models.MODEL_HELP)
    inputs.add_input_options(parser)
    models.add_compile_options(parser)
    parser.add_argument("--output", metavar="FILE", help="write the outputs as .npz, or a single one as .npy")
    parser.add_argument("--top", type=models.positive, metavar="K", help="show the K largest classes of each image")
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, one a line")
    parser.add_argument("--json", action="store_true", help="print figures and classes as JSON")


def run(args: argparse.Namespace) -> int:
    """Run once; print what came out."""
    if args.output and Path(args.output).suffix not in {".npy", ".npz"}:
        raise InputError(f"--output {args.output} is neither .npy nor .npz", hint="choose one of them")
    labels = _read_labels(args.labels) if args.labels else []
    model = models.load_or_compile(args)
    arrays = inputs.gather(model, args)
    start = time.perf_counter()
    outputs = model.run(arrays)
    seconds = time.perf_counter() - start
    if args.output:
        write_arrays(args.output, outputs)
        note(f"wrote {args.output}")
    top = {name: top_classes(value, args.top, labels) for name, value in outputs.items()} if args.top else {}
    if args.json:
        facts = {name: describe(value) for name, value in outputs.items()}
        print_json({"seconds": seconds, "outputs": facts, "top": top})
        return 0
    rows = [(name, *(str(v) for v in describe(value).values())) for name, value in outputs.items()]
    table(["output", "dtype", "shape", ">min", ">max", ">mean"], rows)
    for name, images in top.items():
        for index, found in enumerate(images):
            say(f"\n{name}" + (f", image {index}" if len(images) > 1 else ""))
            table([">class", ">value", "label"], [(f["class"], f"{f['value']:.4f}", f["label"]) for f in found])
    return 0


def describe(value: Array) -> dict[str, Any]:
    """Dtype, shape, and the range of an array."""
    numbers = value.astype(np.float64)
    spread = [float(f"{v:.6g}") for v in (numbers.min(), numbers.max(), numbers.mean())] if value.size else [None] * 3
    return {
        "dtype": str(value.dtype), "shape": list(value.shape), **dict(zip(("min", "max", "mean"), spread, strict=True))
    }  # fmt: skip


def top_classes(value: Array, top: int, labels: Sequence[str]) -> list[list[dict[str, Any]]]:
    """For each image the `top` largest entries; the first of equals comes first.

    Raises InputError unless the output is [N, classes], or [N, classes, 1, 1].
    """
    if value.ndim < 2 or value.size != value.shape[0] * value.shape[1] or not value.size:
        shape = "x".join(map(str, value.shape))
        raise InputError(f"--top needs an output of N x classes, found {shape}", hint="leave out --top, use --output")
    scores = value.reshape(value.shape[:2])
    order = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :top]
    return [
        [
            {"class": int(c), "value": float(row[c]), "label": labels[c] if c < len(labels) else ""}
            for c in chosen
        ]
        for row, chosen in zip(scores, order, strict=True)
    ]  # fmt: skip


def write_arrays(path: str, arrays: Mapping[str, Array]) -> None:
    """Write .npy or .npz, whole or not at all. Raises InputError for several arrays in an .npy."""
    if Path(path).suffix == ".npy":
        if len(arrays) > 1:
            raise InputError(f"{len(arrays)} outputs do not fit in {path}", hint="use .npz")
        with atomic_write(path) as file:
            np.save(file, next(iter(arrays.values())), allow_pickle=False)
        return
    # Not numpy.savez, whose keyword arguments would clash with an output named "file".
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _read_labels(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read --labels {path}: {error}", hint="give a UTF-8 text, one name a line") from error
