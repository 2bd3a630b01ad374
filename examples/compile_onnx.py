"""Compile an ONNX file, compare it with the interpreter, save it, and load it again.

python examples/compile_onnx.py net.onnx --output net.convc

Without a file, a small one is written first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import convc
from convc.frontends.onnx import load_onnx, save_onnx
from convc.interp import run_graph
from convc.measure.inputs import random_inputs


def write_stand_in(path: Path) -> None:
    b = convc.Builder("stand_in", seed=0)
    x = b.input("image", ("N", 3, 32, 32))
    x = b.relu(b.batch_norm(b.conv(x, 16, kernel=3, bias=False)))
    save_onnx(b.finish({"scores": b.linear(b.flatten(b.global_avg_pool(x)), 10)}), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="an ONNX file")
    parser.add_argument("--output", type=Path, help="where to save the compiled model")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = args.model or Path(folder) / "stand_in.onnx"
        if args.model is None:
            write_stand_in(path)
        output = args.output or Path(folder) / "model.convc"

        model = convc.compile(path)
        print(model)
        rewrites = sum(len(record.rewrites) for record in model.records)
        print(f"{rewrites} rewrites by {len(model.records)} passes; {len(model.program.steps)} steps are left")

        inputs = random_inputs(model)
        outputs = model.run(inputs)
        expected = run_graph(load_onnx(path), inputs, dtype=np.float64)
        for name, found in outputs.items():
            error = np.abs(found - expected[name]).max() / np.abs(expected[name]).max()
            print(f"{name}: {found.dtype}{list(found.shape)}, off by {error:.1e} of the largest value")

        model.save(output)
        again = convc.load(output).run(inputs)
        same = all(np.array_equal(again[name], outputs[name]) for name in outputs)
        print(f"saved as {output.stat().st_size:,} bytes; loaded, it gives {'the same' if same else 'other'} outputs")


if __name__ == "__main__":
    main()
