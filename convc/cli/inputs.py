"""Arrays for a model's inputs: from .npy, .npz and image files, or random ones."""

from __future__ import annotations

import argparse
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convc.cli.models import numbers, parse_shapes
from convc.cli.output import note
from convc.errors import Error, InputError
from convc.measure.inputs import random_array
from convc.types import Array

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Options that say what is put in."""
    parser.add_argument(
        "--input", "--load-inputs", action="append", default=[], metavar="X=FILE",
        help=".npy, .npz or image file, or the word random; X= may be left out where the model has one input; "
        "several images for one input make a batch (default: random)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of random inputs (default: 0)")
    parser.add_argument("--mean", type=numbers, default=(0.0,), help="subtracted from images after scaling to 0..1")
    parser.add_argument("--std", type=numbers, default=(1.0,), help="divides images, after --mean")


def gather(
    model: Any, args: argparse.Namespace, *, quiet: bool = False, option: str = "--input"
) -> dict[str, Array]:
    """An array for each input of the model. Raises InputError that names the input and the file.

    Inputs that nothing is given for are random, with `--input`; with another option they are refused.
    """
    known = {value.name: value for value in model.inputs}
    given: dict[str, list[str]] = {}
    for text in args.input:
        name, file = _split(text, list(known), option)
        if name is None:
            given.update({key: [file] for key in _npz(file)})
        else:
            given.setdefault(name, []).append(file)
    for name in given:
        if name not in known:
            raise InputError(f"the model has no input {name}", hint=f"its inputs are {', '.join(known)}")
    shapes = parse_shapes(args.input_shape)
    nominal = model.graph.nominal
    result: dict[str, Array] = {}
    for name, value in known.items():
        wanted = shapes.get(name, value.shape)
        shape = tuple(_nominal(size, nominal) for size in wanted)
        if name not in given and option != "--input":
            raise InputError(f"{option} gives nothing for input {name}", hint=f"add {option} {name}=FILE")
        if name not in given and not quiet:
            note(f"input {name}: random, seed {args.seed}")
        files = given.get(name, ["random"])
        arrays = [_read(name, file, shape, value.dtype, args) for file in files]
        result[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return result


def _split(text: str, known: list[str], option: str) -> tuple[str | None, str]:
    """Input's name and file; no name for an .npz that holds several inputs by name."""
    name, equals, file = text.partition("=")
    if equals and (name in known or not Path(text).exists()):
        return name, file
    if Path(text).suffix == ".npz":
        return None, text
    if len(known) != 1:
        raise InputError(f"{option} {text} does not say which input it is for", hint=f"write {known[0]}=FILE")
    return known[0], text


def _nominal(size: object, nominal: Mapping[str, int]) -> int:
    from convc.dims import concrete, parse_size

    return concrete(parse_size(str(size)), {**nominal})


def _read(name: str, file: str, shape: tuple[int, ...], dtype: np.dtype[Any], args: argparse.Namespace) -> Array:
    suffix = Path(file).suffix.lower()
    if file == "random":
        return random_array(shape, dtype, args.seed)
    if suffix == ".npz":
        arrays = _npz(file)
        if name not in arrays and len(arrays) > 1:
            raise InputError(f"{file} holds no array {name}", hint=f"it holds {', '.join(arrays)}")
        return arrays.get(name, next(iter(arrays.values())))
    if suffix == ".npy":
        array: Array = _load(file)
        return array
    if suffix in IMAGE_SUFFIXES:
        try:
            return read_image(file, shape, dtype, args.mean, args.std)
        except Error as error:
            raise type(error)(f"input {name}: {error.message}", hint=error.hint) from error
    raise InputError(
        f"input {name}: {file} is of no known kind",
        hint=f"use .npy, .npz, {', '.join(sorted(IMAGE_SUFFIXES))} or random",
    )


def _missing(file: str) -> InputError:
    return InputError(f"{file} does not exist", hint=f"check the path (current folder: {Path.cwd()})")


def _load(file: str) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise _missing(file) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {file}: {error}", hint="write it with numpy.save, without objects") from error


def _npz(file: str) -> dict[str, Array]:
    """The arrays of an .npz file by name."""
    archive = _load(file)
    if not hasattr(archive, "files") or not archive.files:
        raise InputError(f"{file} is no .npz file with arrays in it", hint="write it with numpy.savez")
    try:
        return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {file}: {error}", hint="write it with numpy.savez, without objects") from error


def read_image(
    file: str, shape: Sequence[int], dtype: np.dtype[Any], mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> Array:
    """A picture as [1, C, H, W]: its middle in the shape of H x W, resized, scaled to 0..1, less `mean`, over `std`.

    One channel reads it in grey, three in RGB, four in RGBA. Integer inputs get 0..255 as they are.
    Raises InputError where the file is no picture, or the input is not [N, C, H, W] with 1, 3 or 4 channels.
    """
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if len(shape) != 4 or shape[1] not in modes or min(shape[2:]) < 1:
        found = "x".join(map(str, shape))
        raise InputError(f"{file} is an image, the input is {found}", hint="prepare an array, save it as .npy")
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise InputError(f"reading {file} needs Pillow", hint="pip install 'convc[image]'") from error
    height, width = shape[2:]
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened).convert(modes[shape[1]])
    except FileNotFoundError as error:
        raise _missing(file) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {file}: {error}", hint="give a picture in one of the common formats") from error
    scale = max(height / picture.height, width / picture.width)
    wide, high = min(width / scale, picture.width), min(height / scale, picture.height)
    left, top = (picture.width - wide) / 2, (picture.height - high) / 2
    box = (left, top, left + wide, top + high)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(picture, np.uint8).reshape(height, width, shape[1]).transpose(2, 0, 1)[None]
    if not np.issubdtype(dtype, np.floating):
        return np.ascontiguousarray(pixels.astype(dtype))
    for what, values in (("--mean", mean), ("--std", std)):
        if len(values) not in {1, shape[1]} or not all(map(math.isfinite, values)):
            raise InputError(f"{what} has {len(values)} figures", hint=f"give 1 or {shape[1]}, joined by commas")
    if 0.0 in std:
        raise InputError("--std holds 0", hint="give what the network was trained with")
    centred = (pixels / 255.0 - np.reshape(mean, (1, -1, 1, 1))) / np.reshape(std, (1, -1, 1, 1))
    return np.ascontiguousarray(centred.astype(dtype))
