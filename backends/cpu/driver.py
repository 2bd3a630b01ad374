"""The driver walks the steps of a Program on a team of threads. Compiled like any kernel; one serves every model."""

from __future__ import annotations

import textwrap

BARRIER_BYTES = 128
SPINS_BEFORE_YIELD = 4000

JOB_WORDS = 3
"""A team's job: its number, which changes when a new one is there, the address of its steps and their count."""


def _walk(indent: str) -> str:
    lines = f"""\
for s in range(count):
    at = steps + s * 24
    call_kernel(load_i64(at, 0), load_i64(at, 1), thread, threads)
    if threads > 1 and load_i64(at, 2) == 1:
        turn = atomic_load(state + 64)
        if atomic_add(state, 1) == threads - 1:
            atomic_store(state, 0)
            atomic_add(state + 64, 1)
        else:
            spins = 0
            while atomic_load(state + 64) == turn:
                cpu_pause()
                spins += 1
                if spins > {SPINS_BEFORE_YIELD}:
                    yield_thread()
"""
    return textwrap.indent(lines, indent)


WALK = (
    "convc_walk",
    "def convc_walk(steps, count, state, thread, threads):\n"
    "    # steps: [kernel, arguments, 1 if the next step must wait]; state: arrivals, and after 64 bytes the turn\n"
    + _walk("    "),
)

SERVE = (
    "convc_serve",
    f"""\
def convc_serve(job, last, most, state, thread, threads):
    # walk every new job; return when none has come for `most` turns, with the number of the last one at `last`
    seen = load_i64(last, 0)
    idle = 0
    while idle < most:
        number = atomic_load(job)
        if number == seen:
            cpu_pause()
            idle += 1
        else:
            seen = number
            steps = load_i64(job, 1)
            count = load_i64(job, 2)
{_walk("            ")}\
            idle = 0
    store_i64(last, 0, seen)
""",
)

POST = (
    "convc_post",
    "def convc_post(job):\n    # the words that follow the number are a new job\n    atomic_add(job, 1)\n",
)

DRIVERS = dict((WALK, SERVE, POST))
