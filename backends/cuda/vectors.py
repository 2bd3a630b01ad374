"""Writing 16-byte accesses: `VECTOR[storage]` lanes of a pixel as float32 variables."""

from __future__ import annotations

from convc.backends.cuda.writer import MEMORY, VECTOR, Writer


def load(out: Writer, storage: str, base: str, index: str, to: str, ok: str = "ok") -> None:
    """`to`_0, `to`_1, ...: the lanes at `index`, zeros where not `ok`."""
    width = VECTOR[storage]
    out(f"{to} = load_{MEMORY[storage]}x{width}({ok}, {base}, {index})")
    out(*(f"{to}_{j} = {to}[{j}]" for j in range(width)))


def constant_lanes(out: Writer, width: int, base: str, index: str, to: str) -> None:
    """`to`_0, ...: so many float32 at `index`."""
    for start in range(0, width, 4):
        out(f"{to} = load_f32x4(ok, {base}, {index} + {start})")
        out(*(f"{to}_{start + j} = {to}[{j}]" for j in range(4)))


def keep_channels(out: Writer, width: int, lane: str, channels: str, value: str = "r") -> None:
    """Make lanes beyond the channels zero: a dense convolution reads them."""
    out(*(f"{value}{j} = select({lane} + {j} < {channels}, {value}{j}, 0.0)" for j in range(width)))


def store(out: Writer, storage: str, base: str, index: str, value: str = "r", ok: str = "ok") -> None:
    """Store `value`0, `value`1, ... at `index`, where `ok`."""
    width = VECTOR[storage]
    if storage == "tf32":
        out(*(f"{value}{j} = round_tf32({value}{j})" for j in range(width)))
    out(f"store_{MEMORY[storage]}x{width}({ok}, {base}, {index}, ({', '.join(f'{value}{j}' for j in range(width))}))")


__all__ = ["constant_lanes", "keep_channels", "load", "store"]
