"""The end of a process whose work is done and saved."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

import psutil

from flowgen.training.internals import run_exit_functions

PATIENCE_S = 30.0
"""For exit functions of libraries, which have been seen to wait for ever for threads and processes that are gone."""


def leave(patience_s: float = PATIENCE_S) -> None:
    """End this process with status 0, its exit functions done and its children ended.

    The interpreter's own end meets threads of torch that are still at work, and has been seen to abort a run that was done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    late = threading.Timer(patience_s, _end)
    late.daemon = True
    late.start()
    run_exit_functions()
    _end()


def _end() -> None:
    for child in psutil.Process().children(recursive=True):  # which destructors would have ended
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(0)
