"""Networks to compile, measure and test with: published architectures, seeded weights.

    graph = convc.zoo.build("resnet50")              # N, H and W symbolic, nominal 1 x 224 x 224
    graph = convc.zoo.build("resnet50", batch=8, size=160, seed=1)

Constants are named as in torchvision's state dictionaries where torchvision has the network, so `weights=` takes its
files as they are (all but Xception, MobileNet v1, ShuffleNet v1, EffNet and the digits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convc.errors import InputError
from convc.ir.graph import Graph
from convc.zoo.classic import alexnet, squeezenet, squeezenet1_0, vgg16, vgg16_bn
from convc.zoo.common import Batch, ImageSize, Seed
from convc.zoo.dcgan import dcgan
from convc.zoo.densenet import densenet121
from convc.zoo.digits import digits
from convc.zoo.inception import googlenet, inception_v3
from convc.zoo.mobile import effnet, mobilenet_v1, mobilenet_v2, shufflenet_v1, shufflenet_v2
from convc.zoo.resnet import fcn, resnet18, resnet50, resnext50, se_resnet50
from convc.zoo.xception import xception

ZOO: dict[str, Callable[..., Graph]] = {
    "alexnet": alexnet,
    "dcgan": dcgan,
    "densenet121": densenet121,
    "digits": digits,
    "effnet": effnet,
    "fcn": fcn,
    "googlenet": googlenet,
    "inception_v3": inception_v3,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnext50": resnext50,
    "se_resnet50": se_resnet50,
    "shufflenet_v1": shufflenet_v1,
    "shufflenet_v2": shufflenet_v2,
    "squeezenet": squeezenet,
    "squeezenet1_0": squeezenet1_0,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "xception": xception,
}


def build(name: str, *, batch: Batch = "N", size: ImageSize = None, seed: Seed = 0, **options: Any) -> Graph:
    """The network `name` of the table.

    `batch` is a number or the name of a symbol. Without `size`, height and width are symbols H and W wherever the
    network takes images of any size. With `seed=None` constants have types and no data, which is enough to count.
    `options` are the network's own. Raises InputError for an unknown name.
    """
    if name not in ZOO:
        raise InputError(f"the zoo has no network {name!r}", hint=f"it has {', '.join(ZOO)}")
    return ZOO[name](batch=batch, size=size, seed=seed, **options)


__all__ = ["ZOO", "build"]
