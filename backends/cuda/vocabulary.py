"""The vocabulary of emitted kernels: what they may say. `primitives_ptx` and `primitives_numpy` bind every name.

Here p is a predicate, s a byte address in shared memory, i an index in elements, x a pointer.
- Indices: thread() block_x() block_y() block_z() shared().
- Integers: + - * & | ^ << >> and comparisons; i32(c) a constant; udiv(a, b), urem(a, b) for operands that are not
  negative; fastdiv(n, factor, shift) = n // d for the pair of `magic(d)`; inside(x, n): 0 <= x < n; select(p, a, b);
  negate(p); float_bits(x), bits_float(i), to_f32(i), to_i32(x) towards zero.
- Floats: + - * / and comparisons; f32(c); fma(a, b, c); maximum, minimum (NaN wins); absolute floor ceil rint sqrt
  rsqrt exp2 log2; round_tf32; and the functions of `primitives_math`.
- Global memory: load_f32(p, x, i), 0 where p is false; store_f32(p, x, i, v); the same with f32x2 f32x4 i32 i32x2 i32x4
  f16 f16x2 f16x4 f16x8 bf16 ... bf16x8 (float32 in registers, tuples where there are several), and b16 (raw bits).
- Asynchronous copies to shared memory: copy_b32(p, s, x, i), b32x2 b32x4 b16x2 b16x4 b16x8, zeros where p is false;
  commit() ends a group; wait(n) leaves at most n groups in flight; barrier().
- Shared memory: load_shared_f32(s), store_shared_f32(s, v), f32x2 f32x4 i32 i32x2 i32x4.
- Warps: shuffle_xor(v, mask); zeros, multiply_f32 ... multiply_bf16, lay_f32, lay_fragments: see `warp_tiles`.
"""

from __future__ import annotations

ELEMENT_BYTES = {"f32": 4, "i32": 4, "f16": 2, "bf16": 2, "b16": 2}
WIDTHS = {"f32": (1, 2, 4), "i32": (1, 2, 4), "f16": (1, 2, 4, 8), "bf16": (1, 2, 4, 8), "b16": (1,)}
COPIES = {"b32": (4, (1, 2, 4)), "b16": (2, (2, 4, 8))}


def suffix(kind: str, count: int) -> str:
    """`f32`, `f32x4`."""
    return kind if count == 1 else f"{kind}x{count}"


def magic(divisor: int) -> tuple[int, int]:
    """The pair (factor, shift) with which `fastdiv` divides any n < 2^31: factor = ceil(2^(31 + shift) / divisor).

    Source: Granlund & Montgomery 1994. The factor is an int32 word, so above 2^31 it is written as negative.
    """
    shift = (divisor - 1).bit_length()
    factor = -(-(1 << (31 + shift)) // divisor)
    return factor - (1 << 32) if factor >= 1 << 31 else factor, shift
