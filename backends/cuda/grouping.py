"""Small groups of a convolution computed together: a tile has room for 32 outputs, a group of 4 would leave 28 idle.

f groups of c channels and o outputs become one of f c and f o, whose weights are zero wherever a channel and an output
are of different groups. The products that count are the same, and as many as a tile does anyway.
"""

from __future__ import annotations

import numpy as np

from convc.types import Array

MOST = 32
"""Channels and outputs of a merged group: the smallest tile's outputs, and a step of K in float32."""


def merged(weights: Array, groups: int) -> tuple[Array, int]:
    """Weights [O, C/groups, R, S] and the number of groups, with as many groups in one as there is room for."""
    outputs, channels = weights.shape[0] // groups, weights.shape[1]
    together = max(
        f for f in range(1, groups + 1) if groups % f == 0 and (f == 1 or f * max(outputs, channels) <= MOST)
    )
    if together == 1:
        return weights, groups
    kernel = weights.shape[2:]
    by_group = weights.reshape(groups // together, together, outputs, channels, *kernel)
    whole = np.zeros((groups // together, together, outputs, together, channels, *kernel), weights.dtype)
    for f in range(together):
        whole[:, f, :, f] = by_group[:, f]
    return whole.reshape(weights.shape[0], together * channels, *kernel), groups // together
