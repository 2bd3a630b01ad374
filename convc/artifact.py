"""What a `.convc` file holds: the graph after its passes, their records, weights, packed weights, object code.

    graph.txt             the textual form                       weights.safetensors   constants by digest
    records.json          the account of the passes              packed.safetensors    constants as kernels read them
    kernels/KEY.o         object code by the kernel store's key

Packed constants belong to one lowering and one instruction set; elsewhere they are made again from the weights. Object
code is handed out as bytes only: whoever links it must have been told to trust the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convc.container import Container, write_container
from convc.errors import ModelError
from convc.files import read_json
from convc.ir.graph import Graph
from convc.ir.parser import parse
from convc.ir.printer import print_tensor
from convc.limits import Limits
from convc.tensors import read_tensors, write_tensors
from convc.types import Array

_PACKED = "%"  # before every packed name, so that none meets a name that the tensor format keeps for itself


@dataclass(frozen=True)
class Artifact:
    """A compiled model at rest. `records` are plain JSON; `target` is as compile takes it.

    `built_for` names the instruction set and the lowering that `packed` belongs to.
    """

    graph: Graph
    records: Sequence[Mapping[str, Any]]
    target: str
    built_for: str
    packed: Mapping[str, Array]
    objects: Mapping[str, bytes]


def write_artifact(path: str | os.PathLike[str], artifact: Artifact) -> None:
    """Write the file, whole or not at all. Raises InputError where it cannot be written."""
    from convc import __version__

    constants = [node.value for node in artifact.graph.constants if not node.value.present or _is_outside(node.value)]
    members: dict[str, Any] = {
        "graph.txt": str(artifact.graph).encode(),
        "records.json": json.dumps(list(artifact.records)).encode(),
        "weights.safetensors": write_tensors({tensor.digest: tensor.array for tensor in constants}),
        "packed.safetensors": write_tensors({_PACKED + name: array for name, array in artifact.packed.items()}),
        **{f"kernels/{key}.o": code for key, code in artifact.objects.items()},
    }
    write_container(
        path, members, {"convc": __version__, "target": artifact.target, "built_for": artifact.built_for}
    )


def read_artifact(path: str | os.PathLike[str], limits: Limits) -> Artifact:
    """Map a file and check it. Raises ModelError for what is damaged or foreign, LimitError beyond `limits`."""
    found = Container.open(path, limits=limits)
    label = os.fspath(path)
    try:
        text = str(found.member("graph.txt"), "utf-8")
        records = read_json(found.member("records.json"))
    except ValueError as error:
        raise ModelError(f"{label}: {error}", hint="compile the model again") from error
    target, built_for = found.facts.get("target"), found.facts.get("built_for")
    is_list = isinstance(records, list) and all(isinstance(record, dict) for record in records)
    if not is_list or not isinstance(target, str) or not isinstance(built_for, str):
        raise ModelError(f"{label} lacks its records or its target", hint="compile the model again")
    weights = read_tensors(found.member("weights.safetensors"), f"{label}: weights.safetensors")
    packed = read_tensors(found.member("packed.safetensors"), f"{label}: packed.safetensors")
    objects = {
        name.removeprefix("kernels/").removesuffix(".o"): bytes(found.member(name))
        for name in found.names
        if name.startswith("kernels/")
    }
    # Every member has been held against its digest, so the constants need not be hashed once more.
    graph = parse(text, weights=weights, check=False, limits=limits)
    return Artifact(
        graph, records, target, built_for, {name.removeprefix(_PACKED): a for name, a in packed.items()}, objects
    )


def _is_outside(tensor: Any) -> bool:
    return print_tensor(tensor) == tensor.digest


__all__ = ["Artifact", "read_artifact", "write_artifact"]
