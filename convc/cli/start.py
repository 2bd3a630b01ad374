"""Where `convc` starts: an interruption ends the process without a stack trace also while modules are imported.

Nothing else is imported here, so that this is in place as early as can be.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def start() -> int:
    """Run the command line and return its exit code."""
    # In a shell's background jobs interruptions are ignored, and stay so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from convc.cli.main import main

    return main()


def listen() -> None:
    """From here on an interruption is an exception again: there may be files to tidy up."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"convc: interrupted\n")
    os._exit(130)
