"""Xception: residual blocks of depthwise separable convolutions."""

from __future__ import annotations

from convc.frontends.builder import Builder, Value
from convc.ir.graph import Graph
from convc.zoo.common import Batch, ImageSize, Seed, Weights, classify, conv_bn, image_network


def _separable(b: Builder, x: Value, channels: int, name: str) -> Value:
    """A 3x3 convolution of each channel, then a 1x1 across channels, then BatchNormalization."""
    inputs = x.shape[1]
    assert isinstance(inputs, int)
    with b.scope(name):
        y = b.conv(x, inputs, kernel=3, groups=inputs, bias=False, name="depthwise")
        return conv_bn(b, y, channels, 1, epsilon=1e-3, names=("pointwise", "bn"))


def xception(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """Xception, nominal size 299, layers as Keras has them. Source: Chollet 2016, arXiv:1610.02357.

    Pooling of stride 2 is padded by one pixel all round; TensorFlow's SAME pads even sizes after the image only.
    """
    b, x = image_network("xception", batch, size, seed, weights, nominal=299)

    def down(x: Value, index: int, first: int, second: int, relu_first: bool = True) -> Value:
        with b.scope(f"block{index}"):
            short = conv_bn(b, x, second, 1, stride=2, epsilon=1e-3, names=("shortcut", "shortcut_bn"))
            y = _separable(b, b.relu(x) if relu_first else x, first, "sepconv1")
            y = _separable(b, b.relu(y), second, "sepconv2")
            return b.max_pool2d(y, kernel=3, stride=2, padding=1, name="pool") + short

    with b.scope("block1"):
        x = b.relu(conv_bn(b, x, 32, 3, stride=2, padding=0, epsilon=1e-3, names=("conv1", "conv1_bn")))
        x = b.relu(conv_bn(b, x, 64, 3, padding=0, epsilon=1e-3, names=("conv2", "conv2_bn")))
    x = down(x, 2, 128, 128, relu_first=False)
    x = down(x, 3, 256, 256)
    x = down(x, 4, 728, 728)
    for index in range(5, 13):
        with b.scope(f"block{index}"):
            y = x
            for layer in (1, 2, 3):
                y = _separable(b, b.relu(y), 728, f"sepconv{layer}")
            x = y + x
    x = down(x, 13, 728, 1024)
    with b.scope("block14"):
        x = b.relu(_separable(b, x, 1536, "sepconv1"))
        x = b.relu(_separable(b, x, 2048, "sepconv2"))
    return b.finish({"logits": classify(b, x, 1000, "predictions")})
