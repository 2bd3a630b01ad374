"""conv2d of 3x3 with stride 1 in strict float32 as calls of Winograd's kernels, at sizes where they are to pay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from convc.backends.cuda import conv, winograd
from convc.backends.cuda.binding_roles import Roles, bind
from convc.backends.cuda.layout import CudaAssembler
from convc.backends.cuda.machines import machine
from convc.backends.cuda.plan import Launch, LaunchPlan
from convc.backends.cuda.spec import ConvSizes, Epilogue, Math, Tile, WinogradSizes, padded
from convc.backends.cuda.winners import Shape, Winner
from convc.types import Array

CHUNK_BYTES = 1 << 28
"""Of workspace: so many images are taken at once, all where they fit."""
OFFSETS = tuple((r, s) for r in range(3) for s in range(3))


@dataclass(frozen=True, eq=False)
class WinogradCall:
    """The kernels of a layer, with the tile of each that multiplies, and the name of its transformed weights."""

    end: Epilogue
    spread: str
    products: tuple[tuple[Tile, str], ...]
    gather: str
    weights: str


def eligible(offsets: Sequence[tuple[int, int]], stride: tuple[int, int], groups: int, math: Math) -> bool:
    """Whether the layer has the shape for it."""
    return math == "f32" and groups == 1 and stride == (1, 1) and tuple(offsets) == OFFSETS


def append_winograd(
    asm: CudaAssembler, name: str, paying: Sequence[WinogradSizes], end: Epilogue, weights: Callable[[], Array]
) -> WinogradCall:
    """Keep the kernels for sizes at which they pay; `weights` makes [O, 3, 3, lanes]."""
    products = []
    for tile in dict.fromkeys(winograd.choose_tile(s, asm.arch) for s in paying):
        kernel, source = conv.emit(winograd.product_spec(tile), "cuda")
        asm.kernels[kernel] = source
        products.append((tile, kernel))
    spread, gather = winograd.emit_spread("cuda"), winograd.emit_gather(end, "cuda")
    asm.kernels.update([spread, gather])
    tile, first = products[0][0], paying[0]
    count = 16 * padded(first.outputs, winograd.V) * padded(first.channels, tile.bk)
    packed = asm.pack_later(f"{name}.w.winograd", count, lambda: winograd.pack_weights(tile, weights()))
    return WinogradCall(end, spread[0], tuple(products), gather[0], packed)


def winograd_sizes(s: ConvSizes) -> WinogradSizes:
    """The sizes of an eligible convolution."""
    return WinogradSizes(
        s.batch, s.height, s.width, s.channels, s.outputs, s.out_height, s.out_width, s.x_pitch, s.y_pitch, s.padding,
        s.residual_pitch, s.params,
    )  # fmt: skip


def takes(sizes: WinogradSizes, winners: Mapping[str, Winner], arch: str) -> bool:
    """Whether it pays at these sizes: as was measured for their class, else by the model."""
    pixels = sizes.batch * sizes.out_height * sizes.out_width
    winner = winners.get(Shape("f32", "square", pixels, sizes.outputs, 9 * sizes.channels, 1).key)
    return winner.winograd if winner is not None else winograd.pays(sizes, arch)


def winograd_launches(
    call: WinogradCall, sizes: WinogradSizes, roles: Roles, bound: LaunchPlan, arch: str
) -> Sequence[Launch]:
    """Spread, products and gather, for as many images at once as the workspace holds."""
    one = replace(sizes, batch=1)
    at_once = max(CHUNK_BYTES // (winograd.spread_bytes(one) + winograd.products_bytes(one)), 1)
    most = replace(sizes, batch=min(at_once, sizes.batch))
    where = machine(arch)
    tile, kernel = min(call.products, key=lambda product: winograd.product_clocks(product[0], most, where))
    space = bound.workspace(winograd.spread_bytes(most) + winograd.products_bytes(most))
    fixed = roles | {
        "w": bound.packed(call.weights), "spread": space, "products": space.moved(winograd.spread_bytes(most)),
    }  # fmt: skip
    out_area = sizes.out_height * sizes.out_width
    images = {"x": sizes.height * sizes.width * sizes.x_pitch, "y": out_area * sizes.y_pitch,
              "residual": out_area * sizes.residual_pitch}  # fmt: skip
    found: list[Launch] = []
    for start in range(0, sizes.batch, most.batch):
        s = replace(sizes, batch=min(most.batch, sizes.batch - start))
        here = fixed | {n: fixed[n].moved(start * every * 4) for n, every in images.items() if n in fixed}
        found.append(bind(call.spread, winograd.launch_spread(s), here))
        found.append(bind(kernel, winograd.launch_products(tile, s), here))
        found.append(bind(call.gather, winograd.launch_gather(call.end, s), here))
    return found
