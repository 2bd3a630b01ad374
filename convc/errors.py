"""Every exception that convc raises on purpose, and the one warning."""

from __future__ import annotations


class Error(Exception):
    """Base of all convc exceptions: what is wrong, and, after `Hint:`, the way out."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}. Hint: {hint}" if hint else message)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


class ModelError(Error):
    """The description of a network is wrong or not supported."""


class InputError(Error, ValueError):
    """A call does not fit the model: array names, shapes, dtypes, or options."""


class LimitError(Error):
    """The model asks for more than `convc.Limits` allows."""


class TargetError(Error):
    """This machine lacks what the target needs, or the target lacks an operator."""


class StoreWarning(UserWarning):
    """The kernel store cannot be used; compilation goes on without it."""


def _rebuild(kind: type[Error], message: str, hint: str) -> Error:
    return kind(message, hint=hint)
