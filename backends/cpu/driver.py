"""The driver walks the steps of a Program on a team of threads. Compiled like any kernel; one serves every model."""

from __future__ import annotations

BARRIER_BYTES = 128
SPINS_BEFORE_YIELD = 4000

WALK = (
    "convc_walk",
    f"""\
def convc_walk(steps, count, state, thread, threads):
    # steps: [kernel address, argument address, 1 if the next step must wait]; state: arrivals, and 64 bytes on the turn
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
""",
)

WAIT = (
    "convc_wait",
    """\
def convc_wait(address, seen, spins):
    # spin until the ticket at `address` differs from `seen`, at most `spins` turns
    for i in range(spins):
        if atomic_load(address) != seen:
            return
        cpu_pause()
""",
)

POST = ("convc_post", "def convc_post(address):\n    # a new ticket\n    atomic_add(address, 1)\n")

DRIVERS = dict((WALK, WAIT, POST))
