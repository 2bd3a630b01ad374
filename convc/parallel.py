"""Work on many arrays by as many threads as the process may use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from convc.processors import default_threads

T = TypeVar("T")
R = TypeVar("R")


_here = threading.local()


def each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`work` of each item, in order; of whatever raised, the first by order. Work that calls this again does it alone.

    Worth it where work spends its time in NumPy, which lets go of the interpreter's lock, and takes a millisecond.
    """
    tasks = list(items)
    inside = getattr(_here, "inside", False)
    count = 1 if inside or len(tasks) < 2 else min(default_threads(), len(tasks))
    if count < 2:
        return [work(item) for item in tasks]
    results: list[Any] = [None] * len(tasks)
    raised: dict[int, BaseException] = {}
    turns = iter(range(len(tasks)))  # one of C: next() gives each number to one thread

    def share() -> None:
        _here.inside = True
        try:
            for turn in turns:
                if any(earlier < turn for earlier in raised):
                    break
                try:
                    results[turn] = work(tasks[turn])
                except BaseException as error:  # raised again below
                    raised[turn] = error
        finally:
            _here.inside = False

    helpers = [threading.Thread(target=share, daemon=True) for _ in range(count - 1)]
    for helper in helpers:
        helper.start()
    try:
        share()
    finally:
        for _ in turns:  # where this thread was interrupted, what has not begun is left
            pass
        for helper in helpers:
            helper.join()
    if raised:
        raise raised[min(raised)]
    return results
