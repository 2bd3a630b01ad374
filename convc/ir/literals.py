"""Reading types, sizes and the elements of constants from the textual form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convc.dims import Size, concrete, parse_size
from convc.errors import LimitError, ModelError
from convc.ir.graph import Node, constant
from convc.ir.scanner import INT, NUMBER, Scanner
from convc.limits import Limits
from convc.types import Array, DType, Tensor, TensorType, product

_TYPE = re.compile(r"(\w+)\[([^\[\]\n]*)\]", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{32}")
_ELEMENT = re.compile(r"nan\(0x[0-9a-f]{1,16}\)|[-+.\w]{1,400}", re.ASCII)
_SIZE_LENGTH = 2_000

_GENERATORS: dict[str, dict[str, float]] = {
    "normal": {"seed": 0, "mean": 0.0, "std": 1.0},
    "uniform": {"seed": 0, "low": 0.0, "high": 1.0},
    "arange": {"start": 0, "step": 1},
}


class Literals(Scanner):
    """A scanner that knows types and constants. `bytes` counts what the constants so far take."""

    def __init__(self, text: str, weights: Mapping[str, Array], check: bool, limits: Limits) -> None:
        super().__init__(text)
        self.weights = weights
        self.check = check
        self.limits = limits
        self.bytes = 0
        self.types: dict[str, TensorType] = {}
        self.sizes: dict[str, Size] = {}

    def annotation(self) -> tuple[DType, tuple[Size, ...]]:
        self.expect(":")
        type = self.type()
        return type.dtype, type.shape

    def type(self) -> TensorType:
        match = _TYPE.match(self.text, self.skip())
        if match is None:
            self.fail("a type such as f32[1, 3, 224, 224]")
        found = self.types.get(match.group())
        if found is None:
            dtype = self.dtype(match.group(1), self.at)
            found = self.types[match.group()] = TensorType(dtype, self.shape(match.group(2)))
        self.at = match.end()
        return found

    def dtype(self, text: str, at: int) -> DType:
        try:
            return DType(text)
        except ValueError:
            self.fail("an element type", at=at, hint=f"one of {', '.join(d.value for d in DType)}")

    def shape(self, text: str) -> tuple[Size, ...]:
        return tuple(self.size(part.strip()) for part in text.split(",")) if text.strip() else ()

    def size(self, text: str) -> Size:
        if text not in self.sizes:
            if len(text) > _SIZE_LENGTH:
                self.fail(f"a size of at most {_SIZE_LENGTH} characters")
            try:
                self.sizes[text] = parse_size(text)
            except ModelError as error:
                self.fail("", found=error.message, hint=error.hint)
        return self.sizes[text]

    def constant(self, name: str) -> Node:
        at = self.skip()
        if self.peek("sha256:"):
            digest = self.take(_DIGEST, "sha256: and 32 hexadecimal digits")
            self.expect(":")
            return constant(name, self.stored(name, digest, self.type(), at))
        if self.peek("["):
            texts = self.items(self.raw_element)
            type = self.declared(name, at)
            shape = type.concrete({})
            if len(texts) != product(shape):
                self.fail(f"{product(shape)} elements for {type}", at=at, found=f"found {len(texts)} elements")
            values = np.array([self.element(t, type.dtype, a) for t, a in texts], type.dtype.numpy)
            return constant(name, values.reshape(shape))
        word = self.word("a digest sha256:..., [elements], full(value), normal(...), uniform(...), or arange(...)")
        self.expect("(")
        if word == "full":
            text, text_at = self.raw_element()
            self.expect(")")
            type = self.declared(name, at)
            return constant(name, np.full(type.concrete({}), self.element(text, type.dtype, text_at), type.dtype.numpy))
        options = self.options(word, at)
        type = self.declared(name, at)
        try:
            return constant(name, _generate(word, options, type.concrete({})).astype(type.dtype.numpy))
        except (ValueError, OverflowError) as error:
            self.fail("", at=at, found=f"{word}: {error}", hint="use a seed >= 0 and finite numbers")

    def declared(self, name: str, at: int) -> TensorType:
        """The type after a colon, checked against limits before its elements are made."""
        self.expect(":")
        type = self.type()
        if not type.is_static or any(isinstance(d, int) and d < 0 for d in type.shape):
            self.fail("fixed sizes", at=at, found=f"constant %{name} has type {type}")
        self.limits.check_tensor(f"%{name}", type, {})
        self.bytes += type.dtype.bytes * concrete(type.elements, {})
        if self.bytes > self.limits.model_bytes:
            limit = f"limits.model_bytes={self.limits.model_bytes}"
            raise LimitError(
                f"constants up to %{name} take {self.bytes} bytes, more than {limit}", hint="raise that limit"
            )
        return type

    def raw_element(self) -> tuple[str, int]:
        return self.take(_ELEMENT, "an element"), self.at

    def element(self, text: str, dtype: DType, end: int) -> Any:
        at = end - len(text)
        if dtype is DType.BOOL:
            if text not in {"true", "false"}:
                self.fail("true or false", at=at)
            return text == "true"
        if not dtype.is_float:
            if not INT.fullmatch(text):
                self.fail("an integer", at=at)
            info = np.iinfo(dtype.numpy)
            if not info.min <= int(text) <= info.max:
                self.fail(f"a value of {dtype}", at=at)
            return int(text)
        if text.startswith("nan(0x"):
            bits = int(text[6:-1], 16)
            if bits >= 1 << (8 * dtype.bytes):
                self.fail(f"the bits of a {dtype}", at=at)
            return np.array([bits], f"u{dtype.bytes}").view(dtype.numpy)[0]
        if not NUMBER.fullmatch(text):
            self.fail("a number", at=at)
        with np.errstate(over="ignore"):
            return dtype.numpy.type(float(text))

    def stored(self, name: str, digest: str, type: TensorType, at: int) -> Tensor:
        array = self.weights.get(name, self.weights.get(digest))
        if array is None:
            return Tensor(None, type=type, digest=digest)
        tensor = Tensor(array) if self.check else Tensor(array, digest=digest)
        if tensor.type != type:
            self.fail(str(type), at=at, found=f"the weights for %{name} are {tensor.type}")
        if tensor.digest != digest:
            self.fail(
                digest, at=at, found=f"the weights for %{name} have {tensor.digest}", hint="use the saved weights"
            )
        return tensor

    def options(self, word: str, at: int) -> dict[str, float]:
        if word not in _GENERATORS:
            self.fail("a generator", at=at, hint=f"use full, {', '.join(_GENERATORS)}")
        options = dict(_GENERATORS[word])
        first = True
        while (first and not self.peek(")")) or (not first and self.accept(",")):
            first = False
            key_at = self.skip()
            key = self.word("an option")
            if key not in options:
                self.fail(f"an option of {word}", at=key_at, hint=f"it has: {', '.join(options)}")
            self.expect("=")
            options[key] = self.number()
        self.expect(")")
        return options


def _generate(word: str, options: Mapping[str, float], shape: Sequence[int]) -> Array:
    if word == "arange":
        count = int(np.prod(shape, dtype=np.int64))
        return (options["start"] + options["step"] * np.arange(count)).reshape(shape)
    random = np.random.default_rng(int(options["seed"]))
    if word == "normal":
        return random.normal(options["mean"], options["std"], shape)
    return random.uniform(options["low"], options["high"], shape)
