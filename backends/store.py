"""The kernel store: object code on disk, keyed by content, written atomically, checked by digest when read.

A file is a line `convc-kernel 1 <sha256 of the rest>` and the object code. A folder that cannot be used is given up
with one warning; compilation goes on without it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from pathlib import Path

from convc.backends.locks import ForkLock
from convc.errors import StoreWarning

MAGIC = b"convc-kernel 1 "


def default_folder() -> Path:
    """`$CONVC_CACHE_DIR`, or `convc` in the user's cache folder."""
    chosen = os.environ.get("CONVC_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "convc"


class Store:
    """Object code by key, in one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or default_folder()) / "kernels"
        self._trouble = ""
        self._told = False
        self._lock = ForkLock()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.o"

    def get(self, key: str) -> bytes | None:
        """The object code kept under `key`; None where there is none or it is damaged."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        head, _, code = data.partition(b"\n")
        if head != MAGIC + hashlib.sha256(code).hexdigest().encode():
            return None
        return code

    def put(self, key: str, code: bytes) -> None:
        """Keep object code, if the folder allows. Two processes may put the same key at once: each replaces files."""
        with self._lock:
            if not self._trouble:
                self._put(key, code)

    def warn(self) -> None:
        """Warn, once, if the folder was found unusable. `put` itself does not: while one thread compiles with Numba,
        which changes the process's warning filters, a warning from another may be lost.
        """
        with self._lock:
            told, self._told = self._told, bool(self._trouble)
        if self._trouble and not told:
            warnings.warn(
                f"kernel store {self.folder} cannot be written ({self._trouble}): compiling without it. "
                "Hint: free space or set CONVC_CACHE_DIR to a writable folder",
                StoreWarning,
                stacklevel=2,
            )

    def _put(self, key: str, code: bytes) -> None:
        temporary = ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(MAGIC + hashlib.sha256(code).hexdigest().encode() + b"\n" + code)
            os.replace(temporary, self._path(key))
        except OSError as error:
            self._trouble = error.strerror or str(error)
            if temporary:
                _remove(temporary)
        except BaseException:
            if temporary:
                _remove(temporary)
            raise

    def entries(self) -> list[tuple[str, int]]:
        """Keys and bytes of what is kept."""
        try:
            return sorted((p.stem, p.stat().st_size) for p in self.folder.glob("*.o"))
        except OSError:
            return []

    def clear(self) -> int:
        """Remove everything that is kept; returns how many files went."""
        removed = 0
        for path in [*self.folder.glob("*.o"), *self.folder.glob("*.part")] if self.folder.is_dir() else []:
            removed += _remove(str(path))
        return removed


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


_stores: dict[Path, Store] = {}


def store(folder: Path | None = None) -> Store:
    """The store of a folder; one object each, so that a warning comes once."""
    key = folder or default_folder()
    if key not in _stores:
        _stores[key] = Store(key)
    return _stores[key]
