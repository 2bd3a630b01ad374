"""What it takes until the first answer, in new processes: from an empty kernel store, a full one, and a saved file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from convc.errors import Error, ModelError

KINDS = ("cold", "warm", "load")
COMPILED_KINDS = ("load_cold", "load")


@dataclass(frozen=True)
class Start:
    """One new process. `kind` is cold (empty kernel store), warm (full one), load (a saved file, full store), or
    load_cold (a saved file, empty store: its object code is not trusted, so kernels are made again).

    Seconds: to import convc, to read the description, to compile or load, and of the first inference. `peak_bytes` is
    the most memory that the process held up to its third inference.
    """

    kind: str
    import_seconds: float
    read_seconds: float | None
    ready_seconds: float
    first_seconds: float
    kernels_made: int
    peak_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def starts(
    source: str,
    shapes: Mapping[str, Sequence[int]],
    *,
    target: str = "cpu",
    passes: str | Sequence[str] = "default",
    threads: int | None = None,
    input_shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    tell: Callable[[str, int, int], None] | None = None,
) -> list[Start]:
    """Start `source`, a path or zoo:NAME, cold, warm, and from a saved file; a .convc file only as it is.

    `shapes` are those of the arrays that are put in. Raises ModelError where a process fails.
    """
    compiled = Path(source).suffix == ".convc" and not source.startswith("zoo:")
    with TemporaryDirectory(prefix="convc-bench-") as folder:
        saved = source if compiled else str(Path(folder) / "model.convc")
        found = []
        kinds = COMPILED_KINDS if compiled else KINDS
        for index, kind in enumerate(kinds):
            if tell is not None:
                tell(f"starting, {kind}", index, len(kinds))
            request = {
                "kind": kind, "source": source, "saved": saved, "target": target, "threads": threads,
                "passes": passes if isinstance(passes, str) else list(passes),
                "input_shapes": input_shapes and {k: list(v) for k, v in input_shapes.items()},
                "shapes": {name: list(shape) for name, shape in shapes.items()},
            }  # fmt: skip
            found.append(Start(**_ask(request, str(Path(folder) / "store"))))
        return found


def _ask(request: Mapping[str, Any], folder: str) -> dict[str, Any]:
    begin = f"import sys; sys.path[:] = {sys.path!r}; from convc.measure.startup import serve; serve()"
    done = subprocess.run(
        [sys.executable, "-c", begin],
        input=json.dumps(request), capture_output=True, text=True, check=False,
        env={**os.environ, "CONVC_CACHE_DIR": folder},
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ModelError(f"starting {request['source']} in a new process failed: {last[0]}", hint="leave the start out")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise ModelError(answer["error"], hint=answer["hint"])
    return answer


def serve() -> None:
    """Answer the one request on stdin, in a process that has done nothing yet."""
    request = json.loads(sys.stdin.read())
    try:
        answer = start(request)
    except Error as error:
        answer = {"error": error.message, "hint": error.hint}
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps(answer))


def start(request: Mapping[str, Any]) -> dict[str, Any]:
    """Go through one start and return the fields of a Start."""
    clock = time.perf_counter
    begin = clock()
    import convc.artifact
    import convc.compiler
    from convc.backends.store import store
    from convc.measure.environment import peak_memory
    from convc.measure.inputs import random_array

    imported = clock() - begin
    read = None
    kept = len(store().entries())
    if request["kind"] in COMPILED_KINDS:
        begin = clock()
        model = convc.artifact.load(request["saved"], threads=request["threads"])
    else:
        from convc.source import read_source

        begin = clock()
        graph = read_source(request["source"], input_shapes=request["input_shapes"])
        read = clock() - begin
        begin = clock()
        model = convc.compiler.compile(
            graph, target=request["target"], passes=request["passes"], threads=request["threads"]
        )
    ready = clock() - begin
    made = len(store().entries()) - kept
    arrays = [random_array(request["shapes"][port.name], port.dtype, 0) for port in model.inputs]
    begin = clock()
    model(*arrays)
    first = clock() - begin
    for _ in range(2):
        model(*arrays)
    if request["kind"] == "cold":
        model.save(request["saved"])
    return {
        "kind": request["kind"], "import_seconds": imported, "read_seconds": read, "ready_seconds": ready,
        "first_seconds": first, "kernels_made": made, "peak_bytes": peak_memory(),
    }  # fmt: skip


__all__ = ["COMPILED_KINDS", "KINDS", "Start", "starts"]
