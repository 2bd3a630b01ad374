"""Launches of the tensor kernels, whose arguments name buffers by role, with the pointers of a plan in their places."""

from __future__ import annotations

from convc.backends.cuda import spec
from convc.backends.cuda.plan import Launch, Pointer

Roles = dict[str, Pointer]


def bind(kernel: str, launch: spec.Launch, roles: Roles) -> Launch:
    """The launch with pointers for its roles."""
    arguments = tuple(roles[word] if isinstance(word, str) else word for word in launch.args)
    return Launch(kernel, launch.grid, arguments, launch.threads, launch.shared)
