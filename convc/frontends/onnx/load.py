"""Reads a model's structure from a path, bytes or a ModelProto, within limits, and inlines its local functions."""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from convc.errors import InputError, LimitError, ModelError
from convc.frontends.onnx.wire import split
from convc.limits import Limits

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto
OLDEST_OPSET = 7
FUNCTION_DEPTH = 32
"""Functions may call functions this deep."""


@dataclass(frozen=True)
class Loaded:
    """A model's structure: `raw` holds large initializers by name, `folder` is where external data may lie."""

    model: onnx.ModelProto
    raw: dict[str, memoryview] = field(default_factory=dict)
    folder: Path | None = None
    label: str = "model"
    opset: int = OLDEST_OPSET


def load(source: Source, limits: Limits) -> Loaded:
    """Read `source`. Raises ModelError where it is no ONNX model that can be read, LimitError where it is too large."""
    label, folder = "model", None
    if isinstance(source, onnx.ModelProto):
        model, raw = source, dict[str, memoryview]()
        check_bytes(label, model.ByteSize(), limits)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        label, folder = str(path), path.parent
        model, raw = _parse(read_file(path, limits), label)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        label = "the given bytes"
        check_bytes(label, memoryview(source).nbytes, limits)
        model, raw = _parse(memoryview(source).cast("B"), label)
    else:
        raise InputError(
            f"cannot load a model from {type(source).__name__}", hint="pass a path, bytes, or an onnx.ModelProto"
        )
    if not model.HasField("graph"):
        raise ModelError(f"{label} is not an ONNX model: it has no graph", hint="check the file; export it again")
    opset = _opset(model, label)
    return Loaded(_inlined(model, label, limits), raw, folder, label, opset)


def check_bytes(label: str, size: int, limits: Limits) -> None:
    """Raise LimitError where `size` exceeds `limits.model_bytes`."""
    if size > limits.model_bytes:
        raise LimitError(
            f"{label} takes {size} bytes, more than limits.model_bytes={limits.model_bytes}",
            hint="use a smaller model, or raise convc.Limits(model_bytes=...)",
        )


def read_file(path: Path, limits: Limits) -> memoryview:
    """A regular file's bytes, mapped. Raises ModelError that says what the path is instead."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(
                f"{path} is a directory, not an ONNX file", hint=f"name the file, as in {path / 'model.onnx'}"
            )
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} is not a regular file", hint="copy the model to a file")
        check_bytes(str(path), status.st_size, limits)
        if status.st_size == 0:
            return memoryview(b"")
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist", hint=f"check the path (current folder: {Path.cwd()})") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="check the path and its permissions") from error


def _parse(data: memoryview, label: str) -> tuple[onnx.ModelProto, dict[str, memoryview]]:
    if not len(data):
        raise ModelError(f"{label} is empty, not an ONNX file", hint="export or download the model again")
    structure, raw = split(data)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(bytes(structure))
    except (DecodeError, RuntimeError) as error:
        if data[0] == 0x08:
            raise ModelError(
                f"{label} is truncated or damaged ({len(data)} bytes): {error}", hint="export or download it again"
            ) from error
        raise ModelError(
            f"{label} is not an ONNX file: {error}", hint="convc reads .onnx files, binary protobuf, not its text form"
        ) from error
    return model, raw


def _opset(model: onnx.ModelProto, label: str) -> int:
    newest = onnx.defs.onnx_opset_version()
    versions = [o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}]
    opset = int(max(versions, default=1))
    if not versions and model.opset_import:
        opset = newest
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"{label} uses opset {opset}, older than {OLDEST_OPSET}",
            hint="export it again, or use onnx.version_converter",
        )
    if opset > newest:
        raise ModelError(
            f"{label} uses opset {opset}, newer than {newest}, which onnx {onnx.__version__} knows",
            hint="upgrade the onnx package, or export with an older opset",
        )
    return opset


def _inlined(model: onnx.ModelProto, label: str, limits: Limits) -> onnx.ModelProto:
    """The model with calls of its local functions replaced by their nodes."""
    if len(model.graph.node) > limits.nodes:
        _too_many(label, len(model.graph.node), limits)
    if not model.functions:
        return model
    functions = {(f.domain, f.name): f for f in model.functions}
    counts: dict[tuple[str, str], tuple[int, int]] = {}

    def measure(nodes: list[onnx.NodeProto], path: tuple[tuple[str, str], ...]) -> tuple[int, int]:
        """How many nodes these become, and how deep their calls go."""
        total, depth = 0, 0
        for node in nodes:
            key = (node.domain, node.op_type)
            inner = [g for a in node.attribute for g in ([a.g] if a.HasField("g") else list(a.graphs))]
            if key in functions:
                if key in path:
                    raise ModelError(f"{label}: function {node.op_type} calls itself", hint="export without recursion")
                if len(path) >= FUNCTION_DEPTH:
                    raise LimitError(
                        f"{label}: functions call functions more than {FUNCTION_DEPTH} deep", hint="inline them first"
                    )
                if key not in counts:
                    counts[key] = measure(list(functions[key].node), (*path, key))
                size, below = counts[key]
                depth = max(depth, below + 1)
            else:
                size = 1
            for graph in inner:
                size += measure(list(graph.node), path)[0]
            total += size
            if total > limits.nodes or depth > FUNCTION_DEPTH:
                _too_many(label, total, limits)
        return total, depth

    measure(list(model.graph.node), ())
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # the C++ inliner raises bare RuntimeError and DecodeError
        raise ModelError(
            f"{label}: its functions cannot be inlined: {error}", hint="export without functions"
        ) from error


def _too_many(label: str, count: int, limits: Limits) -> None:
    raise LimitError(
        f"{label} has {count} nodes or more, above limits.nodes={limits.nodes}",
        hint="use a smaller model, or raise convc.Limits(nodes=...)",
    )
