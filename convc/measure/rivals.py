"""Other engines, where they are installed, on the same network, inputs and threads."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from convc.errors import Error, InputError, TargetError
from convc.types import Array

Runner = Callable[[], list[Array]]
"""One inference on inputs given before: outputs in the model's order."""


def open_rival(name: str, model: Path, inputs: Sequence[tuple[str, Array]], threads: int) -> Runner:
    """An engine ready to run the ONNX file `model` on inputs by name, in order, with `threads` threads.

    Raises TargetError where the engine is not installed or refuses the model, InputError where there is none such.
    """
    if name not in RIVALS:
        raise InputError(f"there is no engine {name!r} to compare with", hint=f"use {', '.join(RIVALS)}")
    packages, opener = RIVALS[name]
    missing = [package for package in packages if util.find_spec(package) is None]
    if missing:
        said = "is not installed" if missing == [name] else f"needs {', '.join(missing)}"
        raise TargetError(f"{name} {said}", hint=f"pip install {' '.join(missing)}")
    try:
        return opener(model, inputs, threads)
    except Error:
        raise
    except Exception as error:  # each engine has exceptions of its own, most of them RuntimeError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise TargetError(f"{name} cannot run this model: {reason}", hint=f"leave {name} out") from error


def _onnxruntime(model: Path, inputs: Sequence[tuple[str, Array]], threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    given = dict(inputs)
    session.run(None, given)
    return lambda: list(session.run(None, given))


def _openvino(model: Path, inputs: Sequence[tuple[str, Array]], threads: int) -> Runner:
    import openvino

    core = openvino.Core()
    read = core.read_model(str(model))
    read.reshape({name: list(array.shape) for name, array in inputs})
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(read, "CPU", options).create_infer_request()
    given = {name: openvino.Tensor(array, shared_memory=True) for name, array in inputs}
    count = len(read.outputs)

    def run() -> list[Array]:
        request.infer(given)
        return [request.get_output_tensor(index).data for index in range(count)]

    run()
    return run


def _ncnn(model: Path, inputs: Sequence[tuple[str, Array]], threads: int) -> Runner:
    """Through pnnx, which turns an ONNX file into ncnn's two files."""
    import ncnn

    tool = _pnnx()
    if tool is None:
        raise TargetError("ncnn needs pnnx to read ONNX", hint="pip install pnnx")
    if any(array.ndim != 4 or array.shape[0] != 1 or array.dtype != np.float32 for _, array in inputs):
        raise TargetError("ncnn takes one image at a time, as float32", hint="leave ncnn out")
    with TemporaryDirectory(prefix="convc-bench-") as folder:
        net = _converted(ncnn.Net(), tool, model, inputs, threads, Path(folder))
    mats = [ncnn.Mat(np.ascontiguousarray(array[0])) for _, array in inputs]
    blobs = list(zip(net.input_names(), mats, strict=True))

    def run() -> list[Array]:
        extractor = net.create_extractor()
        for blob, mat in blobs:
            extractor.input(blob, mat)
        return [np.array(extractor.extract(blob)[1])[None] for blob in net.output_names()]

    run()
    return run


def _pnnx() -> str | None:
    """The program: in the package where there is one, whose script of that name needs torch; else on the path."""
    spec = util.find_spec("pnnx")
    if spec is not None and spec.origin and (packaged := Path(spec.origin).with_name("pnnx")).is_file():
        return str(packaged)
    return shutil.which("pnnx")


def _converted(
    net: Any, tool: str, model: Path, inputs: Sequence[tuple[str, Array]], threads: int, folder: Path
) -> Any:
    """A net with what pnnx made of the model; all that pnnx writes goes to `folder`."""
    shapes = ",".join(f"[{','.join(map(str, array.shape))}]f32" for _, array in inputs)
    files = ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnparam", "ncnnbin", "ncnnpy")
    words = [tool, str(model.resolve()), f"inputshape={shapes}", "fp16=0", *(f"{one}={folder / one}" for one in files)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if not (folder / "ncnnparam").exists() or not (folder / "ncnnbin").exists():
        raise TargetError(f"pnnx cannot convert this model: exit code {done.returncode}", hint="leave ncnn out")
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(folder / "ncnnparam")) or net.load_model(str(folder / "ncnnbin")):
        raise TargetError("ncnn cannot load what pnnx made of this model", hint="leave ncnn out")
    return net


def _torch(model: Path, inputs: Sequence[tuple[str, Array]], threads: int) -> Runner:
    import onnx2torch
    import torch

    torch.set_num_threads(threads)
    module = onnx2torch.convert(str(model)).eval()
    tensors = [torch.from_numpy(np.array(array)) for _, array in inputs]

    def run() -> list[Array]:
        with torch.inference_mode():
            found = module(*tensors)
        return [one.numpy() for one in (found if isinstance(found, (tuple, list)) else [found])]

    run()
    return run


RIVALS: dict[str, tuple[tuple[str, ...], Callable[[Path, Sequence[tuple[str, Array]], int], Runner]]] = {
    "onnxruntime": (("onnxruntime",), _onnxruntime),
    "openvino": (("openvino",), _openvino),
    "ncnn": (("ncnn",), _ncnn),
    "torch": (("torch", "onnx2torch"), _torch),
}
"""Engines by name: the packages that each needs, and what opens it."""


def same_shapes(found: Sequence[Array], expected: Sequence[Array]) -> list[Any]:
    """Outputs of an engine in the shapes that were expected, where they have as many elements."""
    pairs = zip(found, expected, strict=True)
    return [one.reshape(want.shape) if one.size == want.size else one for one, want in pairs]


__all__ = ["RIVALS", "Runner", "open_rival", "same_shapes"]
