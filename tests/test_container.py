"""The archive and the tensors in it: written, read back, and handed damaged ones."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.container import Container, _layout, pack_container, write_container
from convc.errors import Error, InputError, LimitError, ModelError
from convc.files import atomic_write
from convc.limits import Limits
from convc.tensors import read_tensors, write_tensors
from convc.types import Array, DType

WEIGHTS: dict[str, Array] = {
    "w": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "odd": np.array([1, 2, 3], np.int8),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 5), np.float16),
    "flags": np.array([True, False]),
    "slice": np.arange(12, dtype=np.float64).reshape(3, 4)[:, 1],
}


def archive() -> bytes:
    members = {"graph.txt": b"graph", "weights.safetensors": write_tensors(WEIGHTS), "code/k__avx2.o": bytes(100)}
    return b"".join(pack_container(members, {"target": "cpu"}))


def test_members_and_facts_come_back(tmp_path: Path) -> None:
    path = tmp_path / "net.convc"
    write_container(path, {"a": b"one", "b/c": [b"tw", memoryview(b"o")], "none": []}, {"inputs": [1, 2]})
    found = Container.open(path)
    assert found.names == ("a", "b/c", "none")
    assert {name: bytes(found.member(name)) for name in found.names} == {"a": b"one", "b/c": b"two", "none": b""}
    assert found.facts == {"inputs": [1, 2]}
    assert found.member("a").readonly
    with pytest.raises(ModelError, match=r"net\.convc has no member d\. Hint: it has a, b/c"):
        found.member("d")


def test_every_member_starts_at_a_multiple_of_64_and_any_unzip_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "net.convc"
    path.write_bytes(archive())
    start = np.frombuffer(Container.open(path)._data, np.uint8).__array_interface__["data"][0]
    found = Container.open(path)
    for name in found.names:
        view = np.frombuffer(found.member(name), np.uint8)
        assert (view.__array_interface__["data"][0] - start) % 64 == 0
    with zipfile.ZipFile(path) as other:
        assert other.testzip() is None
        assert other.read("graph.txt") == b"graph"
        assert json.loads(other.read("manifest.json"))["facts"] == {"target": "cpu"}


def test_the_same_members_make_the_same_file() -> None:
    assert archive() == archive()


@pytest.mark.parametrize("name", ["", "/a", "../a", "a//b", "a/", ".", "a b", "ä", "x" * 201, "manifest.json"])
def test_member_names_that_could_leave_a_folder_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a member. Hint: use a relative path"):
        pack_container({name: b""})


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "net.convc"
    path.write_bytes(archive())
    with pytest.raises(LimitError, match=r"limits\.model_bytes=10"):
        Container.open(path, limits=Limits(model_bytes=10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .convc file: it has 0 bytes"),
        (b"\x08\x07onnx" * 40, "not a .convc file"),
        (archive()[:-1], "no directory at its end; the file is damaged"),
        (archive() + b"x", "no directory at its end; the file is damaged"),
    ],
)
def test_foreign_and_cut_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "net.convc"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        Container.open(path)
    assert "net.convc" in str(caught.value) and "Hint: write it again" in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read .*absent.convc: No such file"):
        Container.open(tmp_path / "absent.convc")
    with pytest.raises(ModelError, match="no regular file"):
        Container.open(tmp_path)


def test_an_ordinary_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as other:
        other.writestr("manifest.json", "{}")
    with pytest.raises(ModelError, match="not laid out as convc writes it"):
        Container.open(path)


def test_an_edited_member_is_named(tmp_path: Path) -> None:
    data = bytearray(archive())
    data[data.index(b"graph\0" if b"graph\0" in data else b"graphPK")] ^= 1
    path = tmp_path / "net.convc"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"member graph\.txt does not match its digest; the file is damaged or was"):
        Container.open(path)


def test_a_newer_format_asks_to_compile_again() -> None:
    text = b"".join(pack_container({}, {})).replace(b'"version": 1', b'"version": 2')
    manifest = text[text.index(b"{") : text.rindex(b"}") + 1]
    old = struct.pack("<I", zlib.crc32(manifest.replace(b'"version": 2', b'"version": 1')))
    text = text.replace(old, struct.pack("<I", zlib.crc32(manifest)))
    with pytest.raises(ModelError, match="format version 2, expected 1. Hint: compile the model again"):
        Container(memoryview(text), "net.convc")


def crafted(manifest: object) -> memoryview:
    """A well laid out archive with one member and any manifest."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    parts = {"a": b"1", "manifest.json": text}
    entries, tail = _layout((name, zlib.crc32(part), len(part)) for name, part in parts.items())
    return memoryview(b"".join([*(entry.local + parts[entry.name] for entry in entries), tail]))


DIGEST = f"sha256:{hashlib.sha256(b'1').hexdigest()}"
GOOD: dict[str, Any] = {"format": "convc", "version": 1, "facts": {}, "members": {"a": DIGEST}}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"", "manifest.json is not JSON"),
        (b"[" * 100_000, "manifest.json is not JSON"),
        (b'{"format": "convc", "format": "convc"}', "a key is repeated"),
        ([], "a zip file, but not a .convc file"),
        ({**GOOD, "format": "other"}, "a zip file, but not a .convc file"),
        ({**GOOD, "version": "9" * 99}, "has format version 99999999999999999999, expected 1"),
        ({**GOOD, "facts": []}, "does not list the members"),
        ({**GOOD, "members": {}}, "does not list the members"),
        ({**GOOD, "members": {**GOOD["members"], "b": ""}}, "does not list the members"),
        ({**GOOD, "members": {"a": None}}, "member a does not match its digest"),
        ({**GOOD, "members": {"a": {}}}, "member a does not match its digest"),
    ],
)
def test_manifests_that_are_wrong_are_refused(manifest: object, message: str) -> None:
    assert Container(crafted(GOOD), "net.convc").names == ("a",)
    with pytest.raises(ModelError, match=message):
        Container(crafted(manifest), "net.convc")


def test_every_changed_byte_and_every_cut_is_found() -> None:
    whole = archive()
    chance = random.Random(0)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        with pytest.raises(Error):
            Container(memoryview(damaged), "net.convc")
        with pytest.raises(Error):
            Container(memoryview(whole[:at]), "net.convc")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3000), st.integers(0, 3000))
def test_spliced_bytes_never_raise_anything_else(noise: bytes, start: int, length: int) -> None:
    whole = archive()
    spliced = whole[:start] + noise + whole[start + length :]
    try:
        found = Container(memoryview(spliced), "net.convc")
    except Error:
        return
    assert bytes(found._data) == whole


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.convc"
    path.write_bytes(b"before")
    for failure in (KeyboardInterrupt(), RuntimeError()):
        with pytest.raises(type(failure)), atomic_write(path) as file:
            file.write(b"half")
            raise failure
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="net.convc: No space left on device"):
        write_container(path, {"a": b"x"})
    assert [p.name for p in tmp_path.iterdir()] == ["net.convc"]
    assert path.read_bytes() == b"before"


def test_writing_into_a_missing_folder_or_over_a_folder_or_device(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory. Hint: check folder"):
        write_container(tmp_path / "absent" / "net.convc", {})
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(InputError, match="no regular file"):
            write_container(path, {})


def test_a_symlink_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_container(tmp_path / "link", {"a": b"1"})
    assert (tmp_path / "link").is_symlink()
    assert Container.open(tmp_path / "real").names == ("a",)


# Tensors


def test_tensors_come_back_as_aligned_read_only_views() -> None:
    data = b"".join(write_tensors(WEIGHTS, {"by": "convc"}))
    found = read_tensors(memoryview(data))
    assert list(found) == list(WEIGHTS)
    base = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    for name, array in WEIGHTS.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable and not found[name].flags.owndata
        assert (found[name].__array_interface__["data"][0] - base) % 64 == 0


def test_writing_does_not_copy_contiguous_arrays() -> None:
    array = np.zeros(1000, np.float32)
    assert any(np.shares_memory(array, np.frombuffer(piece, np.uint8)) for piece in write_tensors({"w": array}))


def test_the_safetensors_package_reads_and_writes_the_same(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    theirs = safetensors.load(b"".join(write_tensors(WEIGHTS)))
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(theirs[name], array)
    plain = {name: np.ascontiguousarray(array) for name, array in WEIGHTS.items()}
    for name, array in read_tensors(safetensors.save(plain)).items():
        np.testing.assert_array_equal(array, WEIGHTS[name])


def tensor_file(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object) -> object:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header length is -1"),
        (struct.pack("<Q", 1 << 62) + b"{}", "header length is"),
        (tensor_file(b"[]"), "no JSON object"),
        (tensor_file(b"{{"), "not JSON"),
        (tensor_file(b"[" * 200_000), "nested too deeply|not JSON"),
        (tensor_file(b'{"w": 1, "w": 2}'), "a key is repeated"),
        (tensor_file(b"\xff\xfe\xfd"), "not JSON"),
        (tensor_file(b'{"w": ' + b"9" * 10_000 + b"}"), "not JSON|lacks a dtype"),
        (tensor_file({"w": None}), "'w' lacks a dtype, shape or data_offsets"),
        (tensor_file(entry(more=1), bytes(8)), "lacks a dtype, shape"),
        (tensor_file(entry("BF16", (2,), (0, 4)), bytes(4)), "dtype BF16. Hint: use F16, F32"),
        (tensor_file(entry(dtype=3), bytes(8)), "dtype 3"),
        (tensor_file(entry(shape=(-2,)), bytes(8)), "lacks a dtype, shape"),
        (tensor_file(entry(shape=(True, 2)), bytes(8)), "lacks a dtype, shape"),
        (tensor_file(entry(offsets=(0, 8, 9)), bytes(8)), "3 offsets"),
        (tensor_file(entry(offsets=(0, 12)), bytes(12)), r"'w' f32\[2\] is said to lie at bytes 0 to 12, expected 0"),
        (tensor_file(entry(), bytes(7)), "expected 0 to 8 of 7"),
        (tensor_file(entry(), bytes(9)), "tensors take 8 bytes, found 9"),
        (tensor_file(entry(offsets=(8, 16)), bytes(16)), "bytes 8 to 16, expected 0 to 8"),
        (tensor_file(entry(shape=(1 << 47, 1 << 47)), bytes(8)), "expected 0 to"),
        (tensor_file(entry(shape=(0, 1 << 47, 1 << 47), offsets=(0, 0))), "which NumPy cannot hold"),
        (tensor_file(entry("BOOL", (1,), (0, 1)), b"\2"), "neither 0 nor 1"),
    ],
)
def test_malformed_tensor_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_tensors(data, "weights.safetensors")
    assert str(caught.value).startswith("weights.safetensors")


def test_tensors_that_overlap_are_refused() -> None:
    two = {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}
    two["b"] = {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}
    with pytest.raises(ModelError, match="'b' u8.* bytes 2 to 6, expected 4 to 8"):
        read_tensors(tensor_file(two, bytes(6)))


@pytest.mark.parametrize("name", ["__metadata__", ".padding.1"])
def test_names_that_the_format_uses_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="the file format uses this name"):
        write_tensors({name: np.zeros(1)})


def test_a_dtype_that_convc_does_not_carry_is_refused() -> None:
    with pytest.raises(ModelError, match="complex64 is not supported"):
        write_tensors({"w": np.zeros(1, np.complex64)})


def test_big_endian_arrays_are_written_in_little_endian() -> None:
    data = b"".join(write_tensors({"w": np.array([1, 2], ">i4")}))
    np.testing.assert_array_equal(read_tensors(data)["w"], [1, 2])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_tensor_files_never_raise_anything_else(data: st.DataObject) -> None:
    whole = bytearray(b"".join(write_tensors(WEIGHTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays = read_tensors(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except Error:
        return
    for array in arrays.values():
        assert DType.of(array) and array.size >= 0
