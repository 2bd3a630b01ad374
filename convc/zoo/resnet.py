"""ResNet and its kin: ResNeXt, SE-ResNet, and the fully convolutional network on a dilated ResNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convc.frontends.builder import Builder, Value
from convc.ir.graph import Graph
from convc.zoo.common import Batch, ImageSize, Seed, Weights, classify, conv_bn, image_network


@dataclass(frozen=True, slots=True)
class Design:
    """What the members of the family differ in.

    `reduction` is that of a squeeze-and-excitation unit at the end of each block, 0 for none. From stage `dilated_from`
    on (counted from 0), stages dilate instead of striding.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    groups: int = 1
    width: int = 64
    reduction: int = 0
    dilated_from: int = 4

    @property
    def branch(self) -> float:
        """What the gammas at the end of a branch lie around. Training leaves them small; with 1, each block amplifies
        the rounding of those before it by a third, and fifty layers by a hundred. A gate halves the branch already.
        """
        return 1.0 if self.reduction else 0.4


def _basic(b: Builder, x: Value, design: Design, planes: int, stride: int, dilation: int) -> Value:
    y = b.relu(conv_bn(b, x, planes, 3, stride=stride, dilation=dilation, names=("conv1", "bn1")))
    return conv_bn(b, y, planes, 3, dilation=dilation, scale=design.branch, names=("conv2", "bn2"))


def _bottleneck(b: Builder, x: Value, design: Design, planes: int, stride: int, dilation: int) -> Value:
    width = planes * design.width // 64 * design.groups
    y = b.relu(conv_bn(b, x, width, 1, names=("conv1", "bn1")))
    y = conv_bn(b, y, width, 3, stride=stride, dilation=dilation, groups=design.groups, names=("conv2", "bn2"))
    return conv_bn(b, b.relu(y), planes * 4, 1, scale=design.branch, names=("conv3", "bn3"))


def squeeze_excite(b: Builder, x: Value, reduction: int) -> Value:
    """Channels scaled by a sigmoid of a two-layer function of their means. Source: Hu et al. 2017, arXiv:1709.01507."""
    channels = x.shape[1]
    assert isinstance(channels, int)
    with b.scope("se_module"):
        y = b.relu(b.conv(b.global_avg_pool(x), channels // reduction, kernel=1, name="fc1"))
        return x * b.sigmoid(b.conv(y, channels, kernel=1, name="fc2"))


def _trunk(b: Builder, x: Value, design: Design) -> Value:
    x = b.relu(conv_bn(b, x, 64, 7, stride=2, names=("conv1", "bn1")))
    x = b.max_pool2d(x, kernel=3, stride=2, padding=1)
    block, expansion = (_bottleneck, 4) if design.bottleneck else (_basic, 1)
    dilation = 1
    for stage, depth in enumerate(design.depths):
        planes = 64 << stage
        for index in range(depth):
            with b.scope(f"layer{stage + 1}.{index}"):
                stride = 2 if index == 0 and stage > 0 and stage < design.dilated_from else 1
                y = block(b, x, design, planes, stride, dilation)
                if index == 0 and stage >= design.dilated_from:
                    dilation *= 2
                if design.reduction:
                    y = squeeze_excite(b, y, design.reduction)
                if stride > 1 or x.shape[1] != planes * expansion:
                    x = conv_bn(b, x, planes * expansion, 1, stride=stride, names=("downsample.0", "downsample.1"))
                x = b.relu(y + x)
    return x


def _classifier(
    name: str, design: Design, batch: Batch, size: ImageSize, seed: Seed, weights: Weights, classes: int
) -> Graph:
    b, x = image_network(name, batch, size, seed, weights)
    return b.finish({"logits": classify(b, _trunk(b, x, design), classes, "fc")})


def resnet18(
    batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None, classes: int = 1000
) -> Graph:
    """ResNet-18. Source: He et al. 2015, arXiv:1512.03385."""
    design = Design(depths=(2, 2, 2, 2), bottleneck=False)
    return _classifier("resnet18", design, batch, size, seed, weights, classes)


def resnet50(
    batch: Batch = "N",
    size: ImageSize = None,
    seed: Seed = 0,
    weights: Weights = None,
    classes: int = 1000,
    depths: Sequence[int] = (3, 4, 6, 3),
) -> Graph:
    """ResNet-50 with the stride in the 3x3 convolution, as torchvision has it; (3, 4, 23, 3) makes it ResNet-101."""
    return _classifier("resnet50", Design(depths=tuple(depths)), batch, size, seed, weights, classes)


def resnext50(
    batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None, classes: int = 1000
) -> Graph:
    """ResNeXt-50 32x4d. Source: Xie et al. 2016, arXiv:1611.05431."""
    return _classifier("resnext50", Design(groups=32, width=4), batch, size, seed, weights, classes)


def se_resnet50(
    batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None, classes: int = 1000
) -> Graph:
    """ResNet-50 with squeeze and excitation, reduction 16. Source: Hu et al. 2017, arXiv:1709.01507."""
    return _classifier("se_resnet50", Design(reduction=16), batch, size, seed, weights, classes)


def fcn(
    batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None, classes: int = 21
) -> Graph:
    """Fully convolutional network on a ResNet-50 of output stride 8, as torchvision has it, up to the upsampling.

    Upsampling is a transposed convolution of stride 8, bilinear at the start, as in the paper; so scores have 8 times
    the size of the features: the image's own, rounded up to a multiple of 8. Source: Long et al. 2014, arXiv:1411.4038.
    """
    b, x = image_network("fcn", batch, size, seed, weights, sample=96)
    with b.scope("backbone"):
        x = _trunk(b, x, Design(dilated_from=2))
    x = b.relu(conv_bn(b, x, 512, 3, names=("classifier.0", "classifier.1")))
    x = b.conv(x, classes, kernel=1, name="classifier.4")
    kernel = np.tile(bilinear(16), (classes, 1, 1, 1))
    x = b.conv_transpose2d(x, kernel, stride=8, padding=4, groups=classes, name="upsample")
    return b.finish({"scores": x})


def bilinear(kernel: int) -> npt.NDArray[np.float32]:
    """Weights [1, kernel, kernel] with which a transposed convolution of stride kernel / 2 interpolates bilinearly."""
    row = 1 - np.abs((np.arange(kernel) + 0.5) / (kernel / 2) - 1)
    return np.outer(row, row).astype(np.float32)[None]
