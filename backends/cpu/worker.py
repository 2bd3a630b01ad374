"""A second process that compiles kernels: `python -m convc.backends.cpu.worker` reads JSON lines and answers each.

LLVM holds one lock a process, so a second kernel at a time needs a second process. A request is {"name", "source",
"isa"}; the answer {"name", "code"} in base64.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from convc.backends.cpu.isa import ISAS, Isa


def serve() -> None:
    """Answer requests until the input ends."""
    from convc.backends.cpu.jit import compile_object

    for line in sys.stdin:
        request = json.loads(line)
        code = compile_object(request["name"], request["source"], ISAS[request["isa"]])
        print(json.dumps({"name": request["name"], "code": base64.b64encode(code).decode()}), flush=True)


Ask = Callable[[str, str], bytes]


@contextmanager
def workers(count: int, isa: Isa) -> Iterator[list[Ask]]:
    """Functions that compile (name, source) in processes of their own; they raise OSError where theirs has ended."""
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            with suppress(OSError):
                started.append(_start())
        yield [_asker(process, isa) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


def _start() -> subprocess.Popen[str]:
    begin = f"import sys; sys.path[:] = {sys.path!r}; from convc.backends.cpu.worker import serve; serve()"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", begin], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    )


def _asker(process: subprocess.Popen[str], isa: Isa) -> Ask:
    def ask(name: str, source: str) -> bytes:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"name": name, "source": source, "isa": isa.name}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise OSError("the compiling process has ended")
        return base64.b64decode(json.loads(line)["code"])

    return ask


if __name__ == "__main__":
    serve()
