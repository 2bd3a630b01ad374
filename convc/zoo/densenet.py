"""DenseNet: each layer reads everything before it in its block."""

from __future__ import annotations

from convc.ir.graph import Graph
from convc.zoo.common import Batch, ImageSize, Seed, Weights, classify, conv_bn, image_network


def densenet121(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """DenseNet-121, growth 32. Source: Huang et al. 2016, arXiv:1608.06993."""
    b, x = image_network("densenet121", batch, size, seed, weights)
    with b.scope("features"):
        x = b.relu(conv_bn(b, x, 64, 7, stride=2, names=("conv0", "norm0")), name="relu0")
        x = b.max_pool2d(x, kernel=3, stride=2, padding=1, name="pool0")
        channels = 64
        for block, layers in enumerate((6, 12, 24, 16), start=1):
            features = [x]
            for layer in range(1, layers + 1):
                with b.scope(f"denseblock{block}.denselayer{layer}"):
                    y = b.concat(features) if layer > 1 else x
                    y = b.relu(b.batch_norm(y, name="norm1"), name="relu1")
                    y = b.relu(conv_bn(b, y, 128, 1, names=("conv1", "norm2")), name="relu2")
                    features.append(b.conv(y, 32, kernel=3, bias=False, name="conv2"))
            x, channels = b.concat(features, name=f"denseblock{block}.concat"), channels + 32 * layers
            if block < 4:
                with b.scope(f"transition{block}"):
                    channels //= 2
                    x = b.relu(b.batch_norm(x, name="norm"), name="relu")
                    x = b.conv(x, channels, kernel=1, bias=False, name="conv")
                    x = b.avg_pool2d(x, kernel=2, stride=2, name="pool")
        x = b.relu(b.batch_norm(x, name="norm5"))
    return b.finish({"logits": classify(b, x, 1000, "classifier")})
