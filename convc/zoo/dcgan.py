"""DCGAN's generator: images from noise, by transposed convolutions."""

from __future__ import annotations

from convc.errors import InputError
from convc.frontends.builder import Builder
from convc.ir.graph import Graph
from convc.zoo.common import Batch, ImageSize, Seed, Weights


def dcgan(batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, weights: Weights = None) -> Graph:
    """Generator from z [N, 100, 1, 1] to images [N, 3, 64, 64]. Source: Radford et al. 2015, arXiv:1511.06434."""
    if size not in {None, 64, (64, 64)}:
        raise InputError(f"dcgan: size={size!r}", hint="its images are 64 by 64; leave size out")
    b = Builder("dcgan", seed=seed, weights=weights, sample=16)
    x = b.input("z", (batch, 100, 1, 1))
    for index, channels in enumerate((512, 256, 128, 64)):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        x = b.conv_transpose(
            x, channels, kernel=4, stride=stride, padding=padding, bias=False, name=f"main.{3 * index}"
        )
        x = b.relu(b.batch_norm(x, name=f"main.{3 * index + 1}"))
    x = b.conv_transpose(x, 3, kernel=4, stride=2, padding=1, bias=False, name="main.12")
    return b.finish({"image": b.tanh(x)})
