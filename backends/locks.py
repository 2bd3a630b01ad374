"""Locks that a forked child finds open: whoever held one in the parent does not run in the child."""

from __future__ import annotations

import os
import threading
import weakref


class ForkLock:
    """A lock for `with`. What it guards must stay sound where its holder is cut off at any point by a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _made.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def reopen(self) -> None:
        self._lock = threading.Lock()


_made: weakref.WeakSet[ForkLock] = weakref.WeakSet()


def _after_fork() -> None:
    for lock in list(_made):
        lock.reopen()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
