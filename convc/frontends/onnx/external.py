"""Reads tensors' external data, only from regular files inside the model's own folder.

A location may neither leave the folder nor pass through a link: absolute paths, `..`, symbolic links in any component
and files with a second hard link are refused, as each has been used to read other files (CVE-2022-25882,
CVE-2024-27318, CVE-2025-51480). Components are opened one by one without following links, so nothing can be swapped
in between.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convc.errors import ModelError
from convc.types import Array

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_COPY = "keep the data in one plain file beside the model"


def read_external(folder: Path | None, entries: Mapping[str, str], size: int, what: str) -> Array:
    """`size` bytes from the file, offset and length that `entries` name. Raises ModelError where they cannot be had."""
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(
            f"{what} keeps its data in {location!r}, but the model came without a folder",
            hint="pass the path of the .onnx file, or load the data into the ModelProto first",
        )
    offset = _number(entries, "offset", 0, what)
    length = _number(entries, "length", size, what)
    if length != size:
        raise ModelError(
            f"{what}: external data {location!r} has length {length}, its shape needs {size}", hint="export it again"
        )
    handle = _open_inside(folder, _parts(location, what), f"{what}: external data {location!r}")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ModelError(f"{what}: external data {location!r} is not a regular file", hint=_COPY)
    with os.fdopen(handle, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if status.st_nlink > 1:
            raise ModelError(f"{what}: external data {location!r} is a hard link", hint=_COPY)
        if offset + length > status.st_size:
            raise ModelError(
                f"{what}: external data {location!r} has {status.st_size} bytes, expected {length} at offset {offset}",
                hint="the file is short; export or download it again",
            )
        data = np.empty(size, np.uint8)
        file.seek(offset)
        view, done = data.data, 0
        while done < size:
            count = file.readinto(view[done:])
            if not count:
                raise ModelError(f"{what}: external data {location!r} ended early", hint="export or download it again")
            done += count
    return data


def _number(entries: Mapping[str, str], key: str, default: int, what: str) -> int:
    text = entries.get(key, "") or str(default)
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"{what}: external data has {key} {text!r}", hint="expected a number that is not negative")
    return int(text)


def _parts(location: str, what: str) -> list[str]:
    parts = location.replace("\\", "/").split("/")
    if parts and parts[0] == ".":
        parts = parts[1:]
    drive = len(location) > 1 and location[1] == ":"
    if not location or location.startswith(("/", "\\")) or drive or "\0" in location:
        raise ModelError(f"{what}: external data at {location!r} is not a relative path", hint=_COPY)
    if any(part in {"", ".", ".."} for part in parts):
        raise ModelError(f"{what}: external data at {location!r} leaves or bends the model's folder", hint=_COPY)
    return parts


def _open_inside(folder: Path, parts: list[str], what: str) -> int:
    """A descriptor of the file, each component opened without following links."""
    try:
        if os.open not in os.supports_dir_fd:
            return _open_checked(folder, parts, what)
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | _NOFOLLOW, dir_fd=here)
                os.close(here)
                here = below
            return os.open(parts[-1], os.O_RDONLY | os.O_NONBLOCK | _NOFOLLOW, dir_fd=here)
        finally:
            os.close(here)
    except FileNotFoundError:
        raise ModelError(f"{what} does not exist in {folder}", hint="put the data file beside the model") from None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK} or _passes_link(folder, parts):
            raise ModelError(f"{what} passes through a symbolic link", hint=_COPY) from None
        raise ModelError(f"{what} cannot be read: {error}", hint=_COPY) from error


def _passes_link(folder: Path, parts: list[str]) -> bool:
    return any(folder.joinpath(*parts[: count + 1]).is_symlink() for count in range(len(parts)))


def _open_checked(folder: Path, parts: list[str], what: str) -> int:
    """For systems that cannot open relative to a directory: look first, then open."""
    if _passes_link(folder, parts):
        raise ModelError(f"{what} passes through a symbolic link", hint=_COPY)
    return os.open(folder.joinpath(*parts), os.O_RDONLY | _NOFOLLOW)
