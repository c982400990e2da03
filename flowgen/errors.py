"""Errors a user can mend. Anything else that is raised is a fault of ours and keeps its traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class FlowgenError(Exception):
    """One clear sentence: what was found, where, what is expected and what to do. The command line exits with 1."""

    exit_code = 1


class UsageError(FlowgenError):
    """The request itself is wrong: an unknown key, name, option or value. The command line exits with 2."""

    exit_code = 2


class BadData(FlowgenError):
    """Too much of a data set cannot be used. `rows` say what was found, as `Dataset.report` does (flowgen/media/interfaces.py)."""

    def __init__(self, message: str, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.rows = rows


def unknown(what: str, given: str, valid: Iterable[str]) -> str:
    """Say that `given` is not among `valid`, with the closest name and the list of names."""
    names, given = sorted(valid), shorten(given)
    near = difflib.get_close_matches(given, names, 1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {given!r}{hint} (valid: {', '.join(names) or 'none'})"


def shorten(text: str, limit: int = 80) -> str:
    """The text, its middle left out where it is longer than `limit`: what a stranger wrote may have any length."""
    return text if len(text) <= limit else f"{text[: limit - 20]}...{text[-10:]} ({len(text):,} characters)"
