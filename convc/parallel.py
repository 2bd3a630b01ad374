"""Work on many arrays by as many threads as the process may use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from convc.processors import default_threads

T = TypeVar("T")
R = TypeVar("R")


_here = threading.local()


def each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`work` of each item, in order; of whatever raised, the first by order. Work that calls this again does it alone.

    Worth it where work spends its time in NumPy, which lets go of the interpreter's lock, and takes a millisecond.
    """
    tasks = list(items)
    count = 1 if getattr(_here, "inside", False) else min(default_threads(), len(tasks))
    if count < 2:
        return [work(item) for item in tasks]
    pool = ThreadPoolExecutor(count, initializer=lambda: setattr(_here, "inside", True))
    try:
        return list(pool.map(work, tasks))
    finally:
        pool.shutdown(cancel_futures=True)
