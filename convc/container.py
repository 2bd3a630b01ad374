"""The archive behind a `.convc` file: a zip whose members are stored, 64-byte aligned, and digested in a manifest.

Any unzip reads it; only convc writes it, in one canonical layout: members in order without gaps, then `manifest.json`,
then the central directory. So a reader rebuilds every header from names and sizes and compares bytes, instead of
following what a file claims. Members are mapped, not copied; nothing in the file is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convc.errors import InputError, LimitError, ModelError
from convc.files import atomic_write, read_json, regular_file_size
from convc.limits import Limits

Bytes = bytes | bytearray | memoryview
Member = Bytes | Sequence[Bytes]

ALIGNMENT = 64
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAX_MEMBERS = 10_000
MAX_MANIFEST_BYTES = 64 << 20

_NAME = re.compile(r"(?!.*(?:^|/)\.{0,2}(?:/|$))[A-Za-z0-9_.+=@/-]{1,200}", re.ASCII)
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_EXTRA = struct.Struct("<3H")
_EXTRA_ID = 0xD935  # the field that Android's zipalign pads with: id, size, alignment, zeros
_VERSION, _DATE = 20, 0x21  # zip 2.0; 1 January 1980, so that the same members make the same file
_LARGEST = (1 << 32) - 2  # beyond it a zip needs 64-bit fields
_DAMAGED = "the file is damaged or was edited"


class _Entry:
    """One member's place: header at `offset`, data from `start` to `end`."""

    __slots__ = ("central", "end", "local", "name", "offset", "start")

    def __init__(self, name: str, crc: int, size: int, offset: int) -> None:
        path = name.encode("ascii")
        gap = -(offset + _LOCAL.size + len(path) + _EXTRA.size) % ALIGNMENT
        extra = _EXTRA.pack(_EXTRA_ID, 2 + gap, ALIGNMENT) + bytes(gap)
        facts = (_VERSION, 0, 0, 0, _DATE, crc, size, size, len(path))
        self.name = name
        self.offset = offset
        self.local = _LOCAL.pack(b"PK\3\4", *facts, len(extra)) + path + extra
        self.start = offset + len(self.local)
        self.end = self.start + size
        self.central = _CENTRAL.pack(b"PK\1\2", _VERSION, *facts, 0, 0, 0, 0, 0, min(offset, _LARGEST)) + path


def _layout(members: Iterable[tuple[str, int, int]]) -> tuple[list[_Entry], bytes]:
    """Places of members given as name, CRC-32 and size; and what follows them."""
    entries: list[_Entry] = []
    offset = 0
    for name, crc, size in members:
        entries.append(_Entry(name, crc, size, offset))
        offset = entries[-1].end
    central = b"".join(entry.central for entry in entries)
    if offset + len(central) > _LARGEST:
        raise LimitError(f"the file would take {offset} bytes, more than {_LARGEST}", hint="save a smaller model")
    count = len(entries)
    return entries, central + _END.pack(b"PK\5\6", 0, 0, count, count, len(central), offset, 0)


def pack_container(members: Mapping[str, Member], facts: Mapping[str, Any] | None = None) -> list[Bytes]:
    """The archive as buffers to be written one after another; arrays behind memoryviews are not copied.

    `facts` is kept in the manifest and must be plain JSON. Raises InputError for a member name that is not a relative
    path of letters, digits and `_.+=@-`, and LimitError beyond 4 GiB.
    """
    parts = {name: _pieces(member) for name, member in members.items()}
    for name in parts:
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise InputError(f"{name!r} cannot name a member", hint="use a relative path of letters, digits and _.+=@-")
    if len(parts) >= MAX_MEMBERS:
        raise LimitError(f"{len(parts)} members, more than {MAX_MEMBERS - 1}", hint="join small members")
    manifest = {
        "format": "convc",
        "version": FORMAT_VERSION,
        "facts": dict(facts or {}),
        "members": {name: _digest(pieces) for name, pieces in parts.items()},
    }
    parts[MANIFEST] = [memoryview(json.dumps(manifest, indent=1, ensure_ascii=True).encode())]
    sizes = {name: sum(piece.nbytes for piece in pieces) for name, pieces in parts.items()}
    if sum(sizes.values()) > _LARGEST or sizes[MANIFEST] > MAX_MANIFEST_BYTES:
        raise LimitError(f"members take {sum(sizes.values())} bytes, more than 4 GiB", hint="save a smaller model")
    entries, tail = _layout((name, _crc(pieces), sizes[name]) for name, pieces in parts.items())
    result: list[Bytes] = []
    for entry in entries:
        result += [entry.local, *parts[entry.name]]
    return [*result, tail]


def write_container(
    path: str | os.PathLike[str], members: Mapping[str, Member], facts: Mapping[str, Any] | None = None
) -> None:
    """Write the archive at `path`, whole or not at all. Raises InputError, and what `pack_container` raises."""
    pieces = pack_container(members, facts)
    with atomic_write(path) as file:
        for piece in pieces:
            file.write(piece)


WINDOW = 8 << 20
"""Bytes that are held against a digest at a time."""


class Container:
    """An archive that has been checked from end to end: layout, sizes, and the digest of every member.

    `facts` are the writer's. Views keep the mapping alive. A file must not be shortened while it is mapped;
    `write_container` never does that, since it replaces files.
    """

    def __init__(self, data: memoryview, label: str) -> None:
        """Check `data`, a whole archive; `label` names it in errors. Raises ModelError."""
        self.label = label
        self._data = data
        self._places = self._read_layout()
        manifest = self._read_manifest()
        self.facts: dict[str, Any] = manifest["facts"]
        for name, digest in manifest["members"].items():
            if _digest(self._windows(name)) != digest:
                raise ModelError(f"{label}: member {name} does not match its digest; {_DAMAGED}", hint=_HINT)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, limits: Limits | None = None) -> Container:
        """Map a file and check it. Raises ModelError, and LimitError where it is larger than `limits.model_bytes`."""
        label = os.fspath(path)
        most = (limits or Limits()).model_bytes
        try:
            size = regular_file_size(path)
            if size > most:
                raise LimitError(
                    f"{label} has {size} bytes, more than limits.model_bytes={most}", hint="raise convc.Limits"
                )
            if size < _END.size:
                raise ModelError(f"{label} is not a .convc file: it has {size} bytes", hint=_HINT)
            with Path(path).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ModelError(f"cannot read {label}: {reason}", hint="check the path and its permissions") from error
        return cls(memoryview(mapped), label)

    @property
    def names(self) -> tuple[str, ...]:
        """Members but the manifest, in order."""
        return tuple(self._places)[:-1]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def member(self, name: str) -> memoryview:
        """The bytes of a member, read-only and mapped. Raises ModelError where there is none of that name."""
        if name not in self._places:
            raise ModelError(f"{self.label} has no member {name}", hint=f"it has {', '.join(self._places)}")
        start, end = self._places[name]
        return self._data[start:end].toreadonly()

    def _windows(self, name: str) -> Iterator[memoryview]:
        """The bytes of a member, piece by piece; pages of a mapped file do not stay in memory for having been read."""
        start, end = self._places[name]
        mapped = self._data.obj
        for at in range(start, end, WINDOW):
            yield self._data[at : min(at + WINDOW, end)]
            if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                first = at // mmap.PAGESIZE * mmap.PAGESIZE
                mapped.madvise(mmap.MADV_DONTNEED, first, min(at + WINDOW, end) - first)

    def _read_layout(self) -> dict[str, tuple[int, int]]:
        data, size = self._data, self._data.nbytes
        if size < _END.size or bytes(data[:4]) != b"PK\3\4":
            raise ModelError(f"{self.label} is not a .convc file", hint=_HINT)
        mark, _, _, _, count, central_size, central_at, _ = _END.unpack_from(data, size - _END.size)
        if mark != b"PK\5\6" or central_at + central_size + _END.size != size or not 1 <= count <= MAX_MEMBERS:
            raise ModelError(f"{self.label} has no directory at its end; {_DAMAGED}", hint=_HINT)
        listed: list[tuple[str, int, int]] = []
        at = central_at
        while len(listed) < count:
            if at + _CENTRAL.size > size:
                raise ModelError(f"{self.label} has too short a directory; {_DAMAGED}", hint=_HINT)
            fields = _CENTRAL.unpack_from(data, at)
            crc, length, name_length = fields[7], fields[9], fields[10]
            at += _CENTRAL.size + name_length
            name = bytes(data[at - name_length : at]).decode("ascii", "replace")
            if not _NAME.fullmatch(name):
                raise ModelError(f"{self.label} has a member named {name[:40]!r}; {_DAMAGED}", hint=_HINT)
            listed.append((name, crc, length))
        if sum(length for _, _, length in listed) > size:
            raise ModelError(f"{self.label} lists more bytes than it has; {_DAMAGED}", hint=_HINT)
        entries, tail = _layout(listed)
        same = entries[-1].end == central_at and data[central_at:] == tail
        if not same or any(data[e.offset : e.start] != e.local for e in entries):
            raise ModelError(f"{self.label} is not laid out as convc writes it; {_DAMAGED}", hint=_HINT)
        places = {e.name: (e.start, e.end) for e in entries}
        if len(places) < count or listed[-1][0] != MANIFEST:
            raise ModelError(f"{self.label} repeats a member or lacks its manifest; {_DAMAGED}", hint=_HINT)
        if listed[-1][2] > MAX_MANIFEST_BYTES or _crc([self._data[slice(*places[MANIFEST])]]) != listed[-1][1]:
            raise ModelError(f"{self.label}: {MANIFEST} does not match its checksum; {_DAMAGED}", hint=_HINT)
        return places

    def _read_manifest(self) -> dict[str, Any]:
        try:
            manifest = read_json(self.member(MANIFEST))
        except ValueError as error:
            raise ModelError(f"{self.label}: {MANIFEST} is not JSON ({error}); {_DAMAGED}", hint=_HINT) from error
        if not isinstance(manifest, dict) or manifest.get("format") != "convc":
            raise ModelError(f"{self.label} is a zip file, but not a .convc file", hint=_HINT)
        if manifest.get("version") != FORMAT_VERSION:
            raise ModelError(
                f"{self.label} has format version {str(manifest.get('version'))[:20]}, expected {FORMAT_VERSION}",
                hint="compile the model again with this version of convc",
            )
        members, facts = manifest.get("members"), manifest.get("facts")
        if not isinstance(members, dict) or not isinstance(facts, dict) or set(members) != set(self.names):
            raise ModelError(f"{self.label}: {MANIFEST} does not list the members; {_DAMAGED}", hint=_HINT)
        return manifest


_HINT = "write it again with model.save or convc compile"


def _pieces(member: Member) -> list[memoryview]:
    parts = [member] if isinstance(member, (bytes, bytearray, memoryview)) else member
    return [memoryview(part).cast("B") if memoryview(part).nbytes else memoryview(b"") for part in parts]


def _digest(pieces: Iterable[memoryview]) -> str:
    state = hashlib.sha256()
    for piece in pieces:
        state.update(piece)
    return f"sha256:{state.hexdigest()}"


def _crc(pieces: Iterable[memoryview]) -> int:
    crc = 0
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
    return crc


__all__ = ["ALIGNMENT", "Container", "pack_container", "write_container"]
