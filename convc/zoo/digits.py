"""The demonstration's classifier of handwritten digits: small, trained, and with one of everything."""

from __future__ import annotations

from convc.frontends.builder import Builder
from convc.ir.graph import Graph
from convc.zoo.common import Batch, ImageSize, Seed, Weights, classify, conv_bn, shuffle


def digits_architecture(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """The network with seeded weights, or with given ones. Input [N, 1, 8, 8], values 0 to 1.

    The 5x5 convolution holds most of the weights and two thirds of the multiply-adds.
    """
    height, width = (size, size) if isinstance(size, int) else size or (8, 8)
    b = Builder("digits", seed=seed, weights=weights, sample=8)
    x = b.input("image", (batch, 1, height, width))
    x = b.relu(conv_bn(b, x, 16, 3, names=("stem.conv", "stem.bn")))
    x = b.relu6(conv_bn(b, x, 32, 5, names=("wide.conv", "wide.bn")))
    with b.scope("shuffled"):
        y = b.relu(conv_bn(b, x, 32, 3, groups=4, names=("conv1", "bn1")))
        y = conv_bn(b, shuffle(b, y, 4), 32, 1, groups=4, names=("conv2", "bn2"))
        x = b.relu(y + x)
    with b.scope("separable"):
        x = b.relu6(conv_bn(b, x, 32, 3, stride=2, groups=32, names=("dw", "dw_bn")))
        x = b.relu(conv_bn(b, x, 64, 1, names=("pw", "pw_bn")))
    return b.finish({"logits": classify(b, x, 10, "fc")})


def digits(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """The trained network, as `examples/train_digits.py` left it; `seed` changes nothing."""
    from convc.data import load_digits_weights

    return digits_architecture(batch, size, seed, load_digits_weights() if weights is None else weights)
