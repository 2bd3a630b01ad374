"""Files that come with convc: the digit classifier's weights, the digits it was trained on and those it was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convc.tensors import read_tensors

FOLDER = Path(__file__).parent


def load_digits_weights() -> dict[str, npt.NDArray[Any]]:
    """The trained arrays by constant name."""
    return read_tensors((FOLDER / "digits.safetensors").read_bytes(), "digits.safetensors")


def load_digits_test() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Images [M, 1, 8, 8] with values 0 to 1, and their labels [M]: every fifth of scikit-learn's digits."""
    with np.load(FOLDER / "digits_test.npz", allow_pickle=False) as held_out:
        return held_out["images"][:, None].astype(np.float32) / 16, held_out["labels"].astype(np.int64)


def load_digits_train() -> npt.NDArray[np.float32]:
    """Images [M, 1, 8, 8] with values 0 to 1: the others of scikit-learn's digits, which the weights were fitted to."""
    with np.load(FOLDER / "digits_train.npz", allow_pickle=False) as fitted:
        images: npt.NDArray[np.float32] = fitted["images"][:, None].astype(np.float32) / 16
    return images
