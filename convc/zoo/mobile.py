"""Networks for small devices: MobileNet v1 and v2, ShuffleNet v1 and v2, EffNet."""

from __future__ import annotations

from convc.frontends.builder import Builder, Value
from convc.ir.graph import Graph
from convc.zoo.common import Batch, ImageSize, Seed, Weights, classify, conv_bn, image_network, shuffle


def _channels(x: Value) -> int:
    count = x.shape[1]
    assert isinstance(count, int)
    return count


def mobilenet_v1(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """MobileNet 1.0. Source: Howard et al. 2017, arXiv:1704.04861."""
    b, x = image_network("mobilenet_v1", batch, size, seed, weights)
    x = b.relu6(conv_bn(b, x, 32, 3, stride=2, names=("conv1", "conv1_bn")))
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for index, (channels, stride) in enumerate(plan, start=1):
        with b.scope(f"block{index}"):
            x = b.relu6(conv_bn(b, x, _channels(x), 3, stride=stride, groups=_channels(x), names=("dw", "dw_bn")))
            x = b.relu6(conv_bn(b, x, channels, 1, names=("pw", "pw_bn")))
    return b.finish({"logits": classify(b, x, 1000, "fc")})


def mobilenet_v2(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """MobileNet v2 1.0. Source: Sandler et al. 2018, arXiv:1801.04381."""
    b, x = image_network("mobilenet_v2", batch, size, seed, weights)
    x = b.relu6(conv_bn(b, x, 32, 3, stride=2, names=("features.0.0", "features.0.1")))
    index = 1
    for expand, channels, repeat, first_stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for layer in range(repeat):
            with b.scope(f"features.{index}.conv"):
                stride, hidden = first_stride if layer == 0 else 1, _channels(x) * expand
                y, at = x, 0
                if expand > 1:
                    y, at = b.relu6(conv_bn(b, y, hidden, 1, names=("0.0", "0.1"))), 1
                y = b.relu6(conv_bn(b, y, hidden, 3, stride=stride, groups=hidden, names=(f"{at}.0", f"{at}.1")))
                y = conv_bn(b, y, channels, 1, names=(f"{at + 1}", f"{at + 2}"))
                x = y + x if stride == 1 and _channels(x) == channels else y
            index += 1
    x = b.relu6(conv_bn(b, x, 1280, 1, names=(f"features.{index}.0", f"features.{index}.1")))
    return b.finish({"logits": classify(b, x, 1000, "classifier.1")})


def shufflenet_v1(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """ShuffleNet 1x with three groups. Source: Zhang et al. 2017, arXiv:1707.01083.

    As in the paper, the first 1x1 convolution of stage 2 is not grouped.
    """
    b, x = image_network("shufflenet_v1", batch, size, seed, weights)
    x = b.relu(conv_bn(b, x, 24, 3, stride=2, names=("conv1", "bn1")))
    x = b.max_pool2d(x, kernel=3, stride=2, padding=1)
    groups = 3
    for stage, (channels, repeat) in enumerate(((240, 4), (480, 8), (960, 4)), start=2):
        for unit in range(repeat):
            with b.scope(f"stage{stage}.{unit}"):
                first = unit == 0
                outputs = channels - _channels(x) if first else channels
                y = conv_bn(
                    b, x, channels // 4, 1, groups=1 if first and stage == 2 else groups, names=("conv1", "bn1")
                )
                y = shuffle(b, b.relu(y), groups)
                y = conv_bn(
                    b, y, channels // 4, 3, stride=2 if first else 1, groups=channels // 4, names=("conv2", "bn2")
                )
                y = conv_bn(b, y, outputs, 1, groups=groups, names=("conv3", "bn3"))
                if first:
                    y = b.concat([b.avg_pool2d(x, kernel=3, stride=2, padding=1, count_include_pad=True), y])
                else:
                    y = y + x
                x = b.relu(y)
    return b.finish({"logits": classify(b, x, 1000, "fc")})


def _halves(b: Builder, x: Value) -> tuple[Value, Value]:
    middle = _channels(x) // 2
    return b.slice(x, axis=1, start=0, stop=middle), b.slice(x, axis=1, start=middle, stop=2 * middle)


def shufflenet_v2(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """ShuffleNet v2 1x. Source: Ma et al. 2018, arXiv:1807.11164."""
    b, x = image_network("shufflenet_v2", batch, size, seed, weights)
    x = b.relu(conv_bn(b, x, 24, 3, stride=2, names=("conv1.0", "conv1.1")))
    x = b.max_pool2d(x, kernel=3, stride=2, padding=1)
    for stage, (channels, repeat) in enumerate(((116, 4), (232, 8), (464, 4)), start=2):
        for unit in range(repeat):
            with b.scope(f"stage{stage}.{unit}"):
                stride, half = (2 if unit == 0 else 1), channels // 2
                left, right = (x, x) if stride == 2 else _halves(b, x)
                if stride == 2:
                    left = conv_bn(
                        b, left, _channels(x), 3, stride=2, groups=_channels(x), names=("branch1.0", "branch1.1")
                    )
                    left = b.relu(conv_bn(b, left, half, 1, names=("branch1.2", "branch1.3")))
                right = b.relu(conv_bn(b, right, half, 1, names=("branch2.0", "branch2.1")))
                right = conv_bn(b, right, half, 3, stride=stride, groups=half, names=("branch2.3", "branch2.4"))
                right = b.relu(conv_bn(b, right, half, 1, names=("branch2.5", "branch2.6")))
                x = shuffle(b, b.concat([left, right]), 2)
    x = b.relu(conv_bn(b, x, 1024, 1, names=("conv5.0", "conv5.1")))
    return b.finish({"logits": classify(b, x, 1000, "fc")})


def effnet(
    batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None, classes: int = 10
) -> Graph:
    """EffNet for 32x32 images. Source: Freeman et al. 2018, arXiv:1801.06434, table 2.

    A block: 1x1, depthwise 1x3, pooling 2x1, depthwise 3x1, then 2x1 of stride 1x2 to twice the channels: width and
    height are halved one after the other. BatchNormalization and a leaky ReLU follow each convolution.
    """
    b, x = image_network("effnet", batch, size, seed, weights, nominal=32, fixed=True, sample=32)

    def layer(x: Value, channels: int, kernel: tuple[int, int], name: str, stride: tuple[int, int] = (1, 1)) -> Value:
        groups = channels if name.startswith("dw") else 1
        y = conv_bn(b, x, channels, kernel, stride=stride, groups=groups, names=(name, f"{name}_bn"))
        return b.leaky_relu(y, alpha=0.3)

    for index, channels in enumerate((32, 64, 128), start=1):
        with b.scope(f"block{index}"):
            x = layer(x, channels, (1, 1), "conv1x1")
            x = b.max_pool2d(layer(x, channels, (1, 3), "dw1x3"), kernel=(2, 1), stride=(2, 1))
            x = layer(x, channels, (3, 1), "dw3x1")
            x = layer(x, 2 * channels, (2, 1), "conv2x1", stride=(1, 2))
    return b.finish({"logits": b.linear(b.flatten(x), classes, name="fc")})
