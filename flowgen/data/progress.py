"""How far a long look at files is, and how long it still takes: one line that is written over, or one every ten seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_SILENT_S, _LINE_S, _TERMINAL_S = 3.0, 10.0, 0.5


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items, as they come; on the first rank alone, stderr says how many of `total` there were after three seconds and on."""
    began = time.monotonic()
    terminal, first = sys.stderr.isatty(), os.environ.get("RANK", "0") == "0"
    due, said = began + _SILENT_S, False
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if first and now >= due and (done < total or said):
            left = (now - began) / done * (total - done)
            line = f"{what}: {done:,} of {total:,}, {clock(left)} left"
            print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
            due, said = now + (_TERMINAL_S if terminal else _LINE_S), True
    if said and terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """As in 0:42 or 1:02:03."""
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}" if minutes >= 60 else f"{minutes}:{left:02d}"
