"""What the networks share: their input, and the layers that most of them are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convc.dims import Size
from convc.errors import InputError
from convc.frontends.builder import Builder, Value
from convc.types import Array

Batch = int | str
ImageSize = int | tuple[int, int] | None
Seed = int | None
Weights = Mapping[str, Array] | None


def image_network(
    name: str,
    batch: Batch,
    size: ImageSize,
    seed: Seed,
    weights: Weights,
    *,
    nominal: int = 224,
    fixed: bool = False,
    sample: int = 128,
) -> tuple[Builder, Value]:
    """A builder, and an input `image` of three channels.

    Without `size` the image is H by W, two symbols of value `nominal`; or, where `fixed`, just `nominal` square.
    `sample` is the side of the image that BatchNormalization statistics come from: large enough that the last feature
    maps have some 16 pixels, small enough to be quick.
    """
    b = Builder(name, seed=seed, weights=weights, sample=sample)
    if size is None and fixed:
        size = nominal
    if size is None:
        height_width: tuple[Size | str, ...] = ("H", "W")
    else:
        height_width = (size, size) if isinstance(size, int) else tuple(size)
    if len(height_width) != 2:
        raise InputError(f"{name}: size={size!r}", hint="give one number, or (height, width)")
    image = b.input("image", (batch, 3, *height_width), nominal={"H": nominal, "W": nominal})
    return b, image


def conv_bn(
    b: Builder,
    x: Value,
    channels: int,
    kernel: int | Sequence[int],
    *,
    names: tuple[str, str],
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = "same",
    dilation: int = 1,
    groups: int = 1,
    epsilon: float = 1e-5,
    scale: float = 1.0,
) -> Value:
    """Convolution without bias, then BatchNormalization with gammas around `scale`, under the two names."""
    y = b.conv(
        x,
        channels,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=False,
        name=names[0],
    )
    return b.batch_norm(y, epsilon=epsilon, scale=scale, name=names[1])


def shuffle(b: Builder, x: Value, groups: int) -> Value:
    """Channel shuffle as exporters write it: reshape, transpose, reshape."""
    n, c, h, w = x.shape
    apart = b.reshape(x, (n, groups, c // groups, h, w))
    return b.reshape(b.transpose(apart, perm=(0, 2, 1, 3, 4)), x.shape)


def classify(b: Builder, x: Value, classes: int, name: str) -> Value:
    """Global average pooling, and a linear layer of that name."""
    return b.linear(b.flatten(b.global_avg_pool(x)), classes, name=name)
