"""GoogLeNet and Inception v3, without their auxiliary classifiers, as torchvision has them."""

from __future__ import annotations

from collections.abc import Sequence

from convc.frontends.builder import Builder, Value
from convc.ir.graph import Graph
from convc.zoo.common import Batch, ImageSize, Seed, Weights, classify, conv_bn, image_network


def _conv(
    b: Builder,
    x: Value,
    channels: int,
    kernel: int | Sequence[int],
    name: str,
    stride: int = 1,
    padding: int | str | Sequence[int] = "same",
) -> Value:
    y = conv_bn(
        b, x, channels, kernel, stride=stride, padding=padding, epsilon=1e-3, names=(f"{name}.conv", f"{name}.bn")
    )
    return b.relu(y)


GOOGLENET = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
"""Channels of each inception block: 1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; after pooling."""


def googlenet(
    batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None, third_kernel: int = 3
) -> Graph:
    """GoogLeNet with BatchNormalization. Source: Szegedy et al. 2014, arXiv:1409.4842.

    `third_kernel=5` gives the third branch the paper's 5x5 kernel; torchvision's is 3x3.
    """
    b, x = image_network("googlenet", batch, size, seed, weights)
    x = _conv(b, x, 64, 7, "conv1", stride=2)
    x = b.max_pool2d(x, kernel=3, stride=2, ceil_mode=True)
    x = _conv(b, _conv(b, x, 64, 1, "conv2"), 192, 3, "conv3")
    x = b.max_pool2d(x, kernel=3, stride=2, ceil_mode=True)
    for block, (one, three_in, three, five_in, five, pooled) in GOOGLENET.items():
        if block in {"4a", "5a"}:
            x = b.max_pool2d(x, kernel=3 if block == "4a" else 2, stride=2, ceil_mode=True)
        with b.scope(f"inception{block}"):
            first = _conv(b, x, one, 1, "branch1")
            second = _conv(b, _conv(b, x, three_in, 1, "branch2.0"), three, 3, "branch2.1")
            third = _conv(b, _conv(b, x, five_in, 1, "branch3.0"), five, third_kernel, "branch3.1")
            fourth = _conv(b, b.max_pool2d(x, kernel=3, padding=1), pooled, 1, "branch4.1")
            x = b.concat([first, second, third, fourth])
    return b.finish({"logits": classify(b, x, 1000, "fc")})


def _pooled(b: Builder, x: Value, channels: int) -> Value:
    return _conv(b, b.avg_pool2d(x, kernel=3, padding=1, count_include_pad=True), channels, 1, "branch_pool")


def _block_a(b: Builder, x: Value, pool_channels: int) -> Value:
    """35x35: 1x1, 5x5, two 3x3, pooling."""
    one = _conv(b, x, 64, 1, "branch1x1")
    five = _conv(b, _conv(b, x, 48, 1, "branch5x5_1"), 64, 5, "branch5x5_2")
    double = _conv(b, _conv(b, x, 64, 1, "branch3x3dbl_1"), 96, 3, "branch3x3dbl_2")
    return b.concat([one, five, _conv(b, double, 96, 3, "branch3x3dbl_3"), _pooled(b, x, pool_channels)])


def _block_b(b: Builder, x: Value) -> Value:
    """35x35 to 17x17."""
    three = _conv(b, x, 384, 3, "branch3x3", stride=2, padding=0)
    double = _conv(b, _conv(b, x, 64, 1, "branch3x3dbl_1"), 96, 3, "branch3x3dbl_2")
    double = _conv(b, double, 96, 3, "branch3x3dbl_3", stride=2, padding=0)
    return b.concat([three, double, b.max_pool2d(x, kernel=3, stride=2)])


def _block_c(b: Builder, x: Value, channels: int) -> Value:
    """17x17: 7x7 as 1x7 and 7x1, once and twice."""
    one = _conv(b, x, 192, 1, "branch1x1")
    seven = _conv(b, _conv(b, x, channels, 1, "branch7x7_1"), channels, (1, 7), "branch7x7_2")
    seven = _conv(b, seven, 192, (7, 1), "branch7x7_3")
    double = _conv(b, _conv(b, x, channels, 1, "branch7x7dbl_1"), channels, (7, 1), "branch7x7dbl_2")
    double = _conv(b, _conv(b, double, channels, (1, 7), "branch7x7dbl_3"), channels, (7, 1), "branch7x7dbl_4")
    return b.concat([one, seven, _conv(b, double, 192, (1, 7), "branch7x7dbl_5"), _pooled(b, x, 192)])


def _block_d(b: Builder, x: Value) -> Value:
    """17x17 to 8x8."""
    three = _conv(b, _conv(b, x, 192, 1, "branch3x3_1"), 320, 3, "branch3x3_2", stride=2, padding=0)
    seven = _conv(b, _conv(b, x, 192, 1, "branch7x7x3_1"), 192, (1, 7), "branch7x7x3_2")
    seven = _conv(b, _conv(b, seven, 192, (7, 1), "branch7x7x3_3"), 192, 3, "branch7x7x3_4", stride=2, padding=0)
    return b.concat([three, seven, b.max_pool2d(x, kernel=3, stride=2)])


def _block_e(b: Builder, x: Value) -> Value:
    """8x8: 3x3 as 1x3 beside 3x1."""

    def cross(y: Value, name: str) -> Value:
        return b.concat([_conv(b, y, 384, (1, 3), f"{name}a"), _conv(b, y, 384, (3, 1), f"{name}b")])

    one = _conv(b, x, 320, 1, "branch1x1")
    three = cross(_conv(b, x, 384, 1, "branch3x3_1"), "branch3x3_2")
    double = _conv(b, _conv(b, x, 448, 1, "branch3x3dbl_1"), 384, 3, "branch3x3dbl_2")
    return b.concat([one, three, cross(double, "branch3x3dbl_3"), _pooled(b, x, 192)])


def inception_v3(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """Inception v3, nominal size 299. Source: Szegedy et al. 2015, arXiv:1512.00567."""
    b, x = image_network("inception_v3", batch, size, seed, weights, nominal=299, sample=224)
    x = _conv(b, x, 32, 3, "Conv2d_1a_3x3", stride=2, padding=0)
    x = _conv(b, x, 32, 3, "Conv2d_2a_3x3", padding=0)
    x = b.max_pool2d(_conv(b, x, 64, 3, "Conv2d_2b_3x3"), kernel=3, stride=2)
    x = _conv(b, x, 80, 1, "Conv2d_3b_1x1")
    x = b.max_pool2d(_conv(b, x, 192, 3, "Conv2d_4a_3x3", padding=0), kernel=3, stride=2)
    for name, channels in (("5b", 32), ("5c", 64), ("5d", 64)):
        with b.scope(f"Mixed_{name}"):
            x = _block_a(b, x, channels)
    with b.scope("Mixed_6a"):
        x = _block_b(b, x)
    for name, channels in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        with b.scope(f"Mixed_{name}"):
            x = _block_c(b, x, channels)
    with b.scope("Mixed_7a"):
        x = _block_d(b, x)
    for name in ("7b", "7c"):
        with b.scope(f"Mixed_{name}"):
            x = _block_e(b, x)
    return b.finish({"logits": classify(b, x, 1000, "fc")})
