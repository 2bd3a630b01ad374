"""Files that are written whole or not at all, and JSON from strangers."""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from convc.errors import InputError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends, and vanishes where the block fails.

    It is made in the same folder, so the last step is one rename; a symlink is followed. Raises InputError where the
    folder or the file cannot be written, and for a path that is no regular file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        if target.exists() and not target.is_file():
            raise InputError(f"cannot write {target}: it is no regular file", hint="choose another path")
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise InputError(f"cannot write {target}: {reason}", hint="check folder, permissions and space") from error
        raise


def regular_file_size(path: str | os.PathLike[str]) -> int:
    """Bytes of a regular file. Raises OSError where there is none (pipes and devices could block a reader for ever)."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{os.fspath(path)} is no regular file")
    return found.st_size


def read_json(data: bytes | memoryview) -> Any:
    """Parse UTF-8 JSON. Raises ValueError for everything that is wrong, repeated keys and endless nesting included."""
    try:
        return json.loads(bytes(data).decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def finite(value: Any) -> Any:
    """The value as strict JSON can hold it: keys are text, tuples lists, and figures that are not finite null."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key is repeated")
    return result
