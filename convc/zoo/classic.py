"""AlexNet, VGG-16 and SqueezeNet: networks without (or, for VGG, also with) BatchNormalization."""

from __future__ import annotations

from convc.frontends.builder import Builder, Value
from convc.ir.graph import Graph
from convc.zoo.common import Batch, ImageSize, Seed, Weights, image_network


def _head(b: Builder, x: Value, names: tuple[str, str, str]) -> Graph:
    """Two hidden layers of 4,096, and the logits."""
    x = b.flatten(x)
    for name in names[:2]:
        x = b.relu(b.linear(x, 4096, name=name))
    return b.finish({"logits": b.linear(x, 1000, name=names[2])})


def alexnet(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """AlexNet of one column, as torchvision has it. Source: Krizhevsky 2014, arXiv:1404.5997."""
    b, x = image_network("alexnet", batch, size, seed, weights, fixed=True)
    pool = {"kernel": 3, "stride": 2}
    x = b.max_pool2d(b.relu(b.conv(x, 64, kernel=11, stride=4, padding=2, name="features.0")), **pool)
    x = b.max_pool2d(b.relu(b.conv(x, 192, kernel=5, name="features.3")), **pool)
    x = b.relu(b.conv(x, 384, kernel=3, name="features.6"))
    x = b.relu(b.conv(x, 256, kernel=3, name="features.8"))
    x = b.max_pool2d(b.relu(b.conv(x, 256, kernel=3, name="features.10")), **pool)
    return _head(b, x, ("classifier.1", "classifier.4", "classifier.6"))


def vgg16(
    batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None, batch_norm: bool = False
) -> Graph:
    """VGG configuration D. Source: Simonyan and Zisserman 2014, arXiv:1409.1556."""
    b, x = image_network("vgg16_bn" if batch_norm else "vgg16", batch, size, seed, weights, fixed=True, sample=64)
    index = 0
    for channels, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(layers):
            x = b.conv(x, channels, kernel=3, name=f"features.{index}")
            if batch_norm:
                x = b.batch_norm(x, name=f"features.{index + 1}")
            x = b.relu(x)
            index += 3 if batch_norm else 2
        x = b.max_pool2d(x, kernel=2, stride=2)
        index += 1
    return _head(b, x, ("classifier.0", "classifier.3", "classifier.6"))


def vgg16_bn(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """VGG-16 with BatchNormalization after each convolution, as torchvision has it."""
    return vgg16(batch, size, seed, weights, batch_norm=True)


def squeezenet(
    batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None, version: str = "1.1"
) -> Graph:
    """SqueezeNet 1.1, or 1.0 as in the paper. Source: Iandola et al. 2016, arXiv:1602.07360."""
    b, x = image_network(f"squeezenet{version.replace('.', '_')}", batch, size, seed, weights)
    channels, kernel, pools = (64, 3, (2, 4)) if version == "1.1" else (96, 7, (3, 7))
    x = b.relu(b.conv(x, channels, kernel=kernel, stride=2, padding=0, name="features.0"))
    x = b.max_pool2d(x, kernel=3, stride=2, ceil_mode=True)
    index = 3
    for fire, (squeeze, expand) in enumerate(
        ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
    ):
        if fire in pools:
            x = b.max_pool2d(x, kernel=3, stride=2, ceil_mode=True)
            index += 1
        with b.scope(f"features.{index}"):
            x = b.relu(b.conv(x, squeeze, kernel=1, name="squeeze"))
            left = b.relu(b.conv(x, expand, kernel=1, name="expand1x1"))
            right = b.relu(b.conv(x, expand, kernel=3, name="expand3x3"))
            x = b.concat([left, right])
        index += 1
    x = b.relu(b.conv(x, 1000, kernel=1, name="classifier.1"))
    return b.finish({"logits": b.flatten(b.global_avg_pool(x))})


def squeezenet1_0(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """SqueezeNet 1.0."""
    return squeezenet(batch, size, seed, weights, version="1.0")
