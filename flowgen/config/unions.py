"""What is wrong with a value that may be one of several things, said for the one that it comes nearest to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

_Marked: TypeAlias = tuple[tuple[tuple[Any, bool], ...], Any]
"""An error, and each part of its place with whether that is a key or index, or else names the member of a union."""


def chosen(errors: Sequence[Any], values: Any) -> list[Any]:
    """The errors that pydantic found in `values`, of each union those of one member: the fewest, and the deepest.

    Their places are without the names of union members, which no one has written.
    """
    marked: list[_Marked] = []
    for error in errors:
        marks, at = [], values
        for i, part in enumerate(error["loc"]):
            there = part in at if isinstance(at, Mapping) else isinstance(at, Sequence) and isinstance(part, int)
            missing = error["type"] == "missing" and i == len(error["loc"]) - 1
            marks.append((part, not there and not missing))
            at = at[part] if there and not missing else at
        loc = tuple(part for part, of_union in marks if not of_union)
        marked.append((tuple(marks), {**error, "loc": loc}))
    return _nearest(marked, 0)


def _nearest(marked: list[_Marked], at: int) -> list[Any]:
    found = [error for marks, error in marked if len(marks) == at]
    groups: dict[tuple[Any, bool], list[_Marked]] = {}
    for marks, error in marked:
        if len(marks) > at:
            groups.setdefault(marks[at], []).append((marks, error))
    members: list[list[Any]] = []
    for (_, of_union), group in groups.items():
        if of_union:
            members.append(_nearest(group, at + 1))
        else:
            found += _nearest(group, at + 1)
    if members:
        nearest: list[Any] = min(members, key=_distance)
        found += nearest
    return found


def _distance(errors: list[Any]) -> tuple[int, int]:
    return len(errors), -max(len(error["loc"]) for error in errors)
