"""Save and load: what a `.convc` file holds.

    graph.txt             the graph after its passes             weights.safetensors   constants by digest
    records.json          the account of the passes              packed.safetensors    constants as kernels read them
    stages.json           the graph before and after each pass   kernels/KEY.o         object code by the store's key

Packed constants serve the instruction set and the version of the backends that made them; elsewhere they are made again
from the weights. Object code is linked only where the caller trusts the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.container import Container, write_container
from convc.errors import InputError, ModelError
from convc.files import read_json
from convc.ir.parser import parse
from convc.ir.printer import print_tensor
from convc.limits import Limits
from convc.tensors import read_tensors, write_tensors
from convc.types import Tensor

if TYPE_CHECKING:
    from convc.model import CompiledModel

_PACKED = "%"  # before every packed name, so that none meets a name that the tensor format keeps for itself


def save(model: CompiledModel, path: str | os.PathLike[str]) -> None:
    """Write a model, whole or not at all. Raises InputError where the file cannot be written."""
    from convc import __version__

    path_of(path)
    program = model.program
    tensors = [node.value for node in model.graph.constants if _is_outside_text(node.value)]
    objects = getattr(model.runnable, "objects", {})
    members: dict[str, Any] = {
        "graph.txt": str(model.graph).encode(),
        "records.json": json.dumps([record.to_json() for record in model.records]).encode(),
        **({"stages.json": json.dumps(model.stages.to_json()).encode()} if model.stages is not None else {}),
        "weights.safetensors": write_tensors({tensor.digest: tensor.array for tensor in tensors}),
        "packed.safetensors": write_tensors({_PACKED + name: array for name, array in program.packed.items()}),
        **{f"kernels/{key}.o": code for key, code in sorted(objects.items())},
    }
    facts = {
        "convc": __version__,
        "target": model.options.target,
        "built_for": program.target,
        "precision": model.options.precision,
        "backends": backends_digest(),
        "choices": dict(program.choices),
        "processor": program.processor,
    }
    write_container(path, members, facts)


def load(
    path: str | os.PathLike[str], *, threads: int | None = None, trust_code: bool = False, limits: Limits | None = None
) -> CompiledModel:
    """Map a file that `CompiledModel.save` wrote, and make it run on this machine.

    With `trust_code`, object code in the file is run; otherwise kernels come from this machine's store or are made.
    Raises ModelError for a damaged or foreign file, LimitError beyond `limits`, TargetError where this machine lacks
    the instruction set that the model was compiled for by name.
    """
    from convc.compiler import build_runnable
    from convc.model import CompiledModel, Options
    from convc.passes.base import PassRecord
    from convc.passes.stages import Stages

    limits = limits or Limits()
    label = path_of(path)
    found = Container.open(path, limits=limits)
    try:
        text = str(found.member("graph.txt"), "utf-8")
        records = [PassRecord.from_json(record) for record in read_json(found.member("records.json"))]
        kept = read_json(found.member("stages.json")) if "stages.json" in found.names else None
        stages = Stages.from_json(kept) if kept is not None else None
        if stages is not None and len(stages.at) != len(records) + 1:
            raise ValueError("the stages do not fit the records")
        target, built_for = str(found.facts["target"]), str(found.facts["built_for"])
        precision = str(found.facts.get("precision", "float32"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{label} was not written by convc ({error})", hint="compile the model again") from error
    weights = read_tensors(found.member("weights.safetensors"), f"{label}: weights.safetensors")
    packed = read_tensors(found.member("packed.safetensors"), f"{label}: packed.safetensors")
    code = {Path(name).stem: bytes(found.member(name)) for name in found.names if name.startswith("kernels/")}
    # Members have been held against their digests, so constants need not be hashed once more.
    graph = parse(text, weights=weights, check=False, limits=limits)
    options = Options(target, threads, limits, precision)
    same = found.facts.get("backends") == backends_digest()
    runnable = build_runnable(
        graph,
        options,
        packed={name.removeprefix(_PACKED): array for name, array in packed.items()} if same else None,
        code=code if trust_code else None,
        built_for=built_for,
        choices=found.facts.get("choices"),
        processor=str(found.facts.get("processor", "")),
    )
    return CompiledModel(graph, records, options, runnable, stages)


def path_of(path: object) -> str:
    """The path as a string. Raises InputError for what is none."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"{path!r} is no path", hint="give the name of a .convc file")
    return str(os.fspath(path))


@cache
def backends_digest() -> str:
    """Digest of the source of the backends: packed constants are good for the very code that packed them."""
    import convc.backends

    state = hashlib.sha256()
    for folder in convc.backends.__path__:
        for file in sorted(Path(folder).rglob("*.py")):
            state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()


def _is_outside_text(tensor: Tensor) -> bool:
    return print_tensor(tensor) == tensor.digest


__all__ = ["load", "save"]
