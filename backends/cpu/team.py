"""A team of threads that run one job together: the caller and `size - 1` workers, who spin briefly and then sleep.

One team of each size a process. A caller who finds the team busy runs its job alone: results do not depend on the
number of threads, so several callers always make progress.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence

import numpy as np

from convc.backends.aligned import aligned_bytes
from convc.backends.cpu.driver import BARRIER_BYTES, JOB_WORDS
from convc.backends.locks import ForkLock
from convc.backends.program import Ints

SPINS = 1500
"""Turns that a worker waits for the next job before it sleeps: about 50 microseconds."""


class Driver:
    """The compiled driver functions, as ctypes calls that release the interpreter lock."""

    def __init__(self, walk: int, serve: int, post: int) -> None:
        word = ctypes.c_int64
        self.walk = ctypes.CFUNCTYPE(None, word, word, word, word, word)(walk)
        self.serve = ctypes.CFUNCTYPE(None, word, word, word, word, word, word)(serve)
        self.post = ctypes.CFUNCTYPE(None, word)(post)


class _Worker(threading.Thread):
    def __init__(self, team: Team, index: int) -> None:
        super().__init__(name=f"convc-{index}", daemon=True)
        self.team = team
        self.index = index
        self.sleeping = False
        self.wake = threading.Semaphore(0)

    def run(self) -> None:
        # jobs that follow each other closely are served without the interpreter: taking its lock took 50 us a job
        team, serve, last = self.team, self.team.driver.serve, np.zeros(1, np.int64)
        job = team.job
        while True:
            serve(job.ctypes.data, last.ctypes.data, SPINS, team.barrier, self.index, team.size)
            self.sleeping = True  # set before the second look: whoever posts sees one or the other
            if job[0] == last[0]:
                self.wake.acquire()
            self.sleeping = False


class Team:
    """The caller's thread and `size - 1` daemon threads."""

    def __init__(self, size: int, driver: Driver) -> None:
        self.size = size
        self.driver = driver
        self.busy = threading.Lock()
        self._state = aligned_bytes(BARRIER_BYTES + 64)
        self._state[:] = 0
        self.barrier = self._state.ctypes.data
        self.job: Ints = self._state[BARRIER_BYTES:].view(np.int64)[:JOB_WORDS]
        self.workers = [_Worker(self, index) for index in range(1, size)]
        for worker in self.workers:
            worker.start()

    def run(self, steps: int, count: int) -> None:
        """Run `count` steps at address `steps` and return when all threads are through."""
        walk = self.driver.walk
        if not self.workers or not count or not self.busy.acquire(blocking=False):
            walk(steps, count, 0, 0, 1)
            return
        try:
            self.job[1:] = steps, count
            self.driver.post(self.job.ctypes.data)
            asleep = [worker for worker in self.workers if worker.sleeping]
            if asleep:
                keep_off_this_processor(asleep)
                for worker in asleep:
                    worker.wake.release()
            walk(steps, count, self.barrier, 0, self.size)
        finally:
            self.busy.release()


def keep_off_this_processor(workers: Sequence[threading.Thread]) -> None:
    """Let sleeping workers wake up on any processor but the caller's.

    Linux likes to wake a thread where its waker runs. Where processors share no cache that it knows of, as in many
    virtual machines, the two then share that processor for as long as neither sleeps: 5.4 ms instead of 2.1, measured.
    Nobody is pinned: workers may go wherever else the caller may.
    """
    if _getcpu is None:
        return
    try:
        here, allowed = int(_getcpu()), os.sched_getaffinity(0)
        others = allowed - {here}
        if others:
            for worker in workers:
                if worker.native_id is not None:
                    os.sched_setaffinity(worker.native_id, others)
    except OSError:  # a thread that has ended, or a set of processors that has just changed: the team works anyhow
        return


def _find_getcpu() -> Callable[[], int] | None:
    if not hasattr(os, "sched_setaffinity"):
        return None
    found: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)
    return found


_getcpu = _find_getcpu()
_teams: dict[int, Team] = {}
_lock = ForkLock()


def team(size: int, driver: Driver) -> Team:
    """The process's team of that size."""
    with _lock:
        if size not in _teams:
            _teams[size] = Team(size, driver)
        return _teams[size]


def _after_fork() -> None:
    """Threads do not survive a fork: the child starts its own."""
    _teams.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
