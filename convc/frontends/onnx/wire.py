"""Splits a serialised ModelProto into its structure and the large raw data of its initializers, which stay in place.

Protobuf's parser would copy every tensor, and reading `raw_data` copies again. Walking the wire format by hand over
the mapped file leaves the arrays made from it as the only copy of the weights.
Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_NAME, _TENSOR_RAW = 7, 5, 8, 9
_SMALL = 1024
"""Raw data of up to this many bytes is left to the parser."""


class _MalformedError(Exception):
    """The bytes are not in wire format; the parser will say so."""


def split(data: memoryview) -> tuple[bytes | memoryview, dict[str, memoryview]]:
    """The model without its initializers' large raw data, and that data by initializer name, as views.

    Bytes that are not in wire format, or have a graph in several pieces, come back whole.
    """
    try:
        fields = list(_fields(data))
        graphs = [f for f in fields if f[0] == _MODEL_GRAPH]
        if len(graphs) != 1 or graphs[0][1] != _BYTES:
            return data, {}
        found: dict[str, memoryview] = {}
        structure = _graph_structure(data[graphs[0][3] : graphs[0][4]], found)
    except _MalformedError:
        return data, {}
    if not found:
        return data, {}
    pieces = [_message(_MODEL_GRAPH, structure) if f[0] == _MODEL_GRAPH else data[f[2] : f[4]] for f in fields]
    return b"".join(pieces), found


def _graph_structure(graph: memoryview, found: dict[str, memoryview]) -> bytes:
    pieces: list[bytes | memoryview] = []
    for number, kind, start, body, end in _fields(graph):
        if number == _GRAPH_INITIALIZER and kind == _BYTES and end - body > _SMALL:
            pieces.append(_message(_GRAPH_INITIALIZER, _tensor_structure(graph[body:end], found)))
        else:
            pieces.append(graph[start:end])
    return b"".join(pieces)


def _tensor_structure(tensor: memoryview, found: dict[str, memoryview]) -> bytes:
    fields = list(_fields(tensor))
    names = [tensor[body:end] for number, _, _, body, end in fields if number == _TENSOR_NAME]
    raws = [tensor[body:end] for number, _, _, body, end in fields if number == _TENSOR_RAW]
    name = bytes(names[0]).decode("utf-8", "replace") if len(names) == 1 else ""
    if len(raws) != 1 or len(raws[0]) <= _SMALL or not name or name in found:
        return bytes(tensor)
    found[name] = raws[0]
    return b"".join(tensor[start:end] for number, _, start, _, end in fields if number != _TENSOR_RAW)


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int, int]]:
    """Field number, wire type, start of the tag, start of the payload, end."""
    position = 0
    while position < len(data):
        start = position
        tag, position = _varint(data, position)
        kind = tag & 7
        body = position
        if kind == _VARINT:
            _, position = _varint(data, position)
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        elif kind == _BYTES:
            length, body = _varint(data, position)
            position = body + length
        else:
            raise _MalformedError
        if position > len(data) or tag >> 3 == 0:
            raise _MalformedError
        yield tag >> 3, kind, start, body, position


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise _MalformedError
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _message(number: int, payload: bytes) -> bytes:
    return _encode(number << 3 | _BYTES) + _encode(len(payload)) + payload


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
