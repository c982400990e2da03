"""Whether something is unpickled: Python says so by an audit event, whoever asks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

_SEEN: dict[str, list[str]] = {}
_watched: list[str] = []
_installed = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class" and _watched:
        _SEEN.setdefault(_watched[-1], []).append(".".join(map(str, arguments)))


@contextlib.contextmanager
def watching(who: str) -> Iterator[None]:
    """Note the classes that are unpickled inside, under the name of who does it."""
    global _installed
    if not _installed:  # an audit hook stays for the life of the process; outside of this block it does nothing
        sys.addaudithook(_hook)
        _installed = True
    _watched.append(who)
    try:
        yield
    finally:
        _watched.pop()


def unpickled() -> dict[str, list[str]]:
    """What was unpickled under watch since the last call, by who did it."""
    seen = {who: sorted(set(classes)) for who, classes in _SEEN.items()}
    _SEEN.clear()
    return seen
