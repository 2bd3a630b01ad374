"""Passes over graphs: the table of all, and the pipelines made of them."""

from __future__ import annotations

from convc.passes.absorb_permutation import ABSORB_PERMUTATION
from convc.passes.base import Numerics, Pass, PassRecord, PassResult, Reject, Rewrite
from convc.passes.bottleneck import BOTTLENECK
from convc.passes.commute_pooling import COMMUTE_POOLING
from convc.passes.eliminate_common import ELIMINATE_COMMON
from convc.passes.eliminate_dead import ELIMINATE_DEAD
from convc.passes.eliminate_identity import ELIMINATE_IDENTITY
from convc.passes.fold_constants import FOLD_CONSTANTS
from convc.passes.fold_padding import FOLD_PADDING
from convc.passes.fold_permutation import FOLD_PERMUTATION
from convc.passes.fold_pool_padding import FOLD_POOL_PADDING
from convc.passes.fuse_batchnorm import FUSE_BATCHNORM
from convc.passes.fuse_epilogue import FUSE_EPILOGUE
from convc.passes.fuse_prologue import FUSE_PROLOGUE
from convc.passes.lower_batchnorm import LOWER_BATCHNORM
from convc.passes.lower_channel_shuffle import LOWER_CHANNEL_SHUFFLE
from convc.passes.manager import run_passes
from convc.passes.merge_branches import MERGE_BRANCHES
from convc.passes.merge_consecutive import MERGE_CONSECUTIVE
from convc.passes.merge_siblings import MERGE_SIBLINGS
from convc.passes.recognise_activations import RECOGNISE_ACTIVATIONS
from convc.passes.recognise_gate import RECOGNISE_GATE
from convc.passes.recognise_linear import RECOGNISE_LINEAR
from convc.passes.recognise_norms import RECOGNISE_NORMS
from convc.passes.recognise_pooling import RECOGNISE_POOLING
from convc.passes.recognise_shuffle import RECOGNISE_SHUFFLE
from convc.passes.separate_depthwise import SEPARATE_DEPTHWISE
from convc.passes.separate_kernels import SEPARATE_KERNELS
from convc.passes.spend_budget import SPEND_BUDGET
from convc.passes.stack_conv5x5 import STACK_CONV5X5
from convc.passes.widen_float16 import WIDEN_FLOAT16

PASSES: dict[str, Pass] = {
    one.name: one
    for one in (
        WIDEN_FLOAT16,
        ELIMINATE_DEAD,
        FOLD_CONSTANTS,
        ELIMINATE_IDENTITY,
        ELIMINATE_COMMON,
        RECOGNISE_GATE,
        RECOGNISE_ACTIVATIONS,
        RECOGNISE_NORMS,
        RECOGNISE_POOLING,
        RECOGNISE_LINEAR,
        RECOGNISE_SHUFFLE,
        LOWER_CHANNEL_SHUFFLE,
        FOLD_PERMUTATION,
        ABSORB_PERMUTATION,
        FOLD_PADDING,
        FOLD_POOL_PADDING,
        FUSE_BATCHNORM,
        MERGE_BRANCHES,
        MERGE_CONSECUTIVE,
        SEPARATE_DEPTHWISE,
        STACK_CONV5X5,
        BOTTLENECK,
        SEPARATE_KERNELS,
        SPEND_BUDGET,
        COMMUTE_POOLING,
        FUSE_PROLOGUE,
        LOWER_BATCHNORM,
        FUSE_EPILOGUE,
        MERGE_SIBLINGS,
    )
}
"""Every pass, by name."""

PIPELINES: dict[str, tuple[str, ...]] = {
    "default": (
        "eliminate_dead",
        "fold_constants",
        "eliminate_identity",
        "eliminate_common",
        "recognise_gate",
        "recognise_activations",
        "recognise_norms",
        "recognise_pooling",
        "recognise_linear",
        "recognise_shuffle",
        "lower_channel_shuffle",
        "fold_permutation",
        "fold_padding",
        "fuse_batchnorm",
        # A pad may only now stand before a convolution.
        "fold_padding",
        "fold_pool_padding",
        "merge_branches",
        "merge_consecutive",
        "separate_depthwise",
        "stack_conv5x5",
        "bottleneck",
        "separate_kernels",
        # Ahead of the prologue, which would stand between.
        "commute_pooling",
        "fuse_prologue",
        "lower_batchnorm",
        "fuse_epilogue",
        # Epilogues would stay behind the slices.
        "merge_siblings",
        "fold_permutation",
        "absorb_permutation",
        # Fusing leaves new constants, and operators that have become equal.
        "fold_constants",
        "eliminate_identity",
        "eliminate_common",
        "eliminate_dead",
    ),
    # The least that makes a graph runnable: weights made by arithmetic on constants are constants. Nothing is fused.
    "none": ("fold_constants", "eliminate_dead"),
}
"""Pipelines by name: names of passes, in order."""

__all__ = [
    "PASSES", "PIPELINES", "Numerics", "Pass", "PassRecord", "PassResult", "Reject", "Rewrite", "run_passes",
]  # fmt: skip
