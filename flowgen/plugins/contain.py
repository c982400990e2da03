"""Code of plugins that runs inside flowgen: what it does to the process is undone and named, and it cannot end it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

from flowgen.errors import shorten

SLOW_S = 3.0
"""Importing a module that names its components by import strings takes milliseconds."""
_strays: list[threading.Thread] = []


class Quit(RuntimeError):
    """A plugin called sys.exit."""


@contextlib.contextmanager
def contained(who: str, doing: str, slow_s: float | None = None) -> Iterator[None]:
    """A block in which code of a plugin runs.

    What it prints goes into a warning instead of the output of the command; signal handlers and the working folder are
    put back; threads that would keep the process from ending are named, and left behind when it ends (see `leave`).

    Args:
        who: the plugin, as in "plugin 'tone'".
        doing: as in "while it was imported".
        slow_s: after this long it is said that the block still runs, and once it is done how long it took.

    Raises Quit where the code calls sys.exit, and whatever else it raises.
    """
    folder, handlers, threads = os.getcwd(), _handlers(), set(threading.enumerate())
    printed, began = io.StringIO(), time.monotonic()
    waiting = _said_after(slow_s, f"flowgen: {who} is still busy {doing}; leave it out with --no-plugin or wait")
    try:
        with contextlib.redirect_stdout(printed):
            yield
    except SystemExit as error:
        raise Quit(f"it called sys.exit({error.code!r})") from error
    finally:
        if waiting is not None:
            waiting.cancel()
        found = []
        if text := printed.getvalue().strip():
            found.append(f"printed {shorten(' '.join(text.split()), 200)!r}")
        if changed := _put_back(handlers):
            found.append(f"set a handler for {', '.join(changed)}, which was put back")
        if os.getcwd() != folder:
            os.chdir(folder)
            found.append("changed the working folder, which was put back")
        new = [t for t in threading.enumerate() if t not in threads and not t.daemon and t is not waiting]
        if new:
            _strays.extend(new)
            found.append(f"started a thread that does not end with flowgen ({', '.join(t.name for t in new)})")
        took = time.monotonic() - began
        if slow_s is not None and took > slow_s:
            found.append(f"took {took:.1f} s; heavy code belongs behind an import string")
        if found:
            warnings.warn(f"{who} {' and '.join(found)} {doing}", stacklevel=4)


def leave(code: int) -> None:
    """End the process here, without its exit functions, where threads of plugins would keep it."""
    if any(thread.is_alive() for thread in _strays):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _handlers() -> dict[int, Any]:
    """Signal handlers; nothing beside the main thread, where none can be set."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _put_back(before: dict[int, Any]) -> list[str]:
    changed = [number for number, handler in before.items() if signal.getsignal(number) is not handler]
    for number in changed:
        if before[number] is not None:  # None: set by no code of Python
            signal.signal(number, before[number])
    return [signal.Signals(number).name for number in changed]


def _said_after(seconds: float | None, text: str) -> threading.Timer | None:
    if seconds is None:
        return None
    timer = threading.Timer(seconds, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    return timer
