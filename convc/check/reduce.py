"""A fault on disk: the part that is wrong as .onnx, its inputs, and what was expected and found."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convc.check.locate import Fault
from convc.errors import Error, InputError
from convc.files import atomic_write, finite
from convc.types import Array

FILES = ("failing.onnx", "failing.txt", "inputs.npz", "expected.npz", "found.npz", "report.json")


def write_fault(fault: Fault, folder: str | os.PathLike[str], target: str) -> list[Path]:
    """Write the files into `folder`, making it where it is not there; returns those that were written.

    `failing.txt` is the textual form, for where the part has no ONNX form. Raises InputError where the folder cannot be
    written.
    """
    from convc.frontends.onnx import save_onnx

    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {place}: {error.strerror}", hint="choose another") from error
    written = [place / name for name in FILES]
    try:
        save_onnx(fault.part, written[0])
    except InputError:
        raise
    except Error:
        written.remove(place / FILES[0])
    _write(place / "failing.txt", f"{fault.part}\n".encode())
    if fault.part.constants:
        from convc.tensors import write_tensors

        _write(place / "failing.safetensors", b"".join(write_tensors(fault.part.weights())))
        written.append(place / "failing.safetensors")
    for name, arrays in (("inputs", fault.inputs), ("expected", fault.expected), ("found", fault.found)):
        _write(place / f"{name}.npz", _npz(arrays))
    model = "failing.onnx" if place / FILES[0] in written else "failing.txt"
    again = f"convc check {model} --input inputs.npz --target {target}"
    report = {**fault.to_json(), "again": again}
    _write(place / "report.json", f"{json.dumps(finite(report), indent=1)}\n".encode())
    return sorted(written)


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


def _npz(arrays: Mapping[str, Array]) -> bytes:
    import zipfile

    # Not numpy.savez, whose keyword arguments would clash with an array named "file".
    blob = io.BytesIO()
    with zipfile.ZipFile(blob, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return blob.getvalue()


__all__ = ["FILES", "write_fault"]
