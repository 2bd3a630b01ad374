"""Reading the textual form: characters, tokens, and errors with line and column."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

from convc.errors import ModelError

INT = re.compile(r"[-+]?[0-9]{1,20}(?![0-9.eE])")
NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|inf\b|nan\b)")
_SPACE = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_NODE_NAME = re.compile(r"%([A-Za-z0-9_.$/:-]+)")
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)

T = TypeVar("T")


class Scanner:
    """A position in a text. `fail` raises ModelError that says where, what was found, and what was expected."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, expected: str, *, at: int | None = None, hint: str = "", found: str | None = None) -> NoReturn:
        at = self.at if at is None else at
        line, column = self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)
        if found is None:
            rest = self.text[at : at + 24].split("\n")[0]
            found = f"found {rest!r}" if at < len(self.text) else "found the end of the text"
        message = f"line {line}, column {column}: {found}" + (f", expected {expected}" if expected else "")
        raise ModelError(message, hint=hint or "see convc.ir.printer for the textual form")

    def skip(self) -> int:
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        return self.at

    def peek(self, token: str) -> bool:
        return self.text.startswith(token, self.skip())

    def accept(self, token: str) -> bool:
        found = self.text.startswith(token, self.skip())
        if found:
            self.at += len(token)
        return found

    def expect(self, token: str) -> None:
        if not self.accept(token):
            self.fail(repr(token))

    def take(self, pattern: re.Pattern[str], expected: str) -> str:
        match = pattern.match(self.text, self.skip())
        if match is None:
            self.fail(expected)
        self.at = match.end()
        return match.group()

    def string(self) -> str:
        start = self.skip()
        literal = self.take(_STRING, "a quoted string")
        try:
            return str(json.loads(literal))
        except json.JSONDecodeError:
            self.fail("a string with JSON's escapes", at=start)

    def name(self) -> str:
        match = _NODE_NAME.match(self.text, self.skip())
        if match is not None:
            self.at = match.end()
            return match.group(1)
        if self.text.startswith('%"', self.at):
            self.at += 1
            return self.string()
        self.fail("a node name such as %x")

    def word(self, expected: str) -> str:
        return self.take(_WORD, expected)

    def keyword(self, word: str) -> bool:
        match = _WORD.match(self.text, self.skip())
        if match is None or match.group() != word:
            return False
        self.at = match.end()
        return True

    def items(self, one: Callable[[], T]) -> list[T]:
        """`[a, b, ...]`."""
        found: list[T] = []
        self.expect("[")
        while (not found and not self.peek("]")) or (found and self.accept(",")):
            found.append(one())
        self.expect("]")
        return found

    def number(self) -> float:
        return float(self.take(NUMBER, "a number"))
