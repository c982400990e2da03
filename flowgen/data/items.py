"""What a data set is made of, before anything is decoded: items with a key, values by column, and which are held out."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from flowgen.core.random import seed_of
from flowgen.core.ranges import Decay
from flowgen.data.facts import at_once, cached
from flowgen.data.shards import Source
from flowgen.errors import UsageError, unknown

Kind: TypeAlias = Literal["class", "number", "text", "recording"]
"""Of a column that is a condition. A recording is a sound file to sound like."""
HeldOut: TypeAlias = Decay | dict[str, list[str | int | float | bool]]
"""A share of the items, or values by column: held out are those that have one of the values in every column."""
LABEL, CAPTION = "label", "caption"
USUAL: dict[str, Kind] = {LABEL: "class", CAPTION: "text"}
"""Columns that are conditions where a config names none."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file, or a segment of one, and what is known about it."""

    key: str
    """Its identity: the name below the folder, table or shards it is found by. It stays when these move."""
    path: Source
    values: Mapping[str, Any] = field(default_factory=dict)
    """By column; None is no value."""
    start_s: float = 0.0
    duration_s: float | None = None
    """Seconds of a segment; None: to the end of the file."""
    problem: str = ""
    """Why it cannot be used, where that is known without looking into the file."""

    @property
    def name(self) -> str:
        """The key, by the word of 0.1."""
        return self.key

    def seconds_of(self, file_s: float) -> float:
        """How long it is, of a file of so many seconds."""
        return file_s - self.start_s if self.duration_s is None else self.duration_s


@dataclass(frozen=True)
class Found:
    """The items of a data set, where they were found, and what was left alone on the way."""

    items: Sequence[Item]
    origin: str
    columns: Sequence[str] = ()
    usual: Mapping[str, Kind] = field(default_factory=dict)
    """The columns that are conditions where the config names none."""
    notes: Sequence[str] = ()


def segment(name: str, start_s: float, duration_s: float | None) -> str:
    """The key of a segment of a file."""
    return name if duration_s is None else f"{name} [{start_s:g}-{start_s + duration_s:g} s]"


def typed(items: Sequence[Item], columns: Mapping[str, Kind], origin: str) -> None:
    """Check that the values of each column are of its kind. UsageError: one is not, or none has any."""
    for name, kind in columns.items():
        present = 0
        for item in items:
            value = item.values.get(name)
            if value is None:
                continue
            present += 1
            if kind == "number":
                number(value, name, item, origin)
            elif isinstance(value, (list, dict, bytes)):
                raise UsageError(
                    f"{origin}: expected a {kind} in {name!r}, found {str(value)[:40]!r} for {item.key}; give one value"
                )
        if not present:
            raise UsageError(f"{origin}: no item has a value for the condition {name!r}; leave it out of data.columns")


def number(value: Any, name: str, item: Item, origin: str) -> float:
    """A value as a finite number. UsageError: it is none."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise UsageError(f"{origin}: expected numbers in {name!r}, found {str(value)[:40]!r} for {item.key}")
    return found


def lacking(items: Sequence[Item], columns: Mapping[str, Kind]) -> dict[str, str]:
    """Which items have no value for a condition: they train without it."""
    out = {}
    for name in columns:
        without = [item.key for item in items if item.values.get(name) is None]
        if without:
            out[name] = f"{len(without)} of {len(items)} have none: {named(without)}"
    return out


def named(names: Sequence[str], shown: int = 5) -> str:
    """The first few names, and how many more."""
    return "; ".join(names[:shown]) + (f"; and {len(names) - shown} more" if len(names) > shown else "")


def most(values: Iterable[Any], shown: int = 8) -> str:
    """The most frequent values, and how often each is there."""
    return ", ".join(f"{value} ({count})" for value, count in Counter(values).most_common(shown))


def split(items: Sequence[Item], held_out: HeldOut, origin: str) -> tuple[list[Item], list[Item]]:
    """Training and validation.

    A share is chosen by a hash of the keys, so that it stays as items come and go and the folder moves; items of the same
    content go together; at least one is held out where a share is asked for and there are two contents or more.

    Raises UsageError where nothing is left for training.
    """
    if isinstance(held_out, Mapping):
        out = _by_values(items, held_out)
    else:
        out = _by_share(items, held_out)
    training = [item for item, o in zip(items, out, strict=True) if not o]
    if items and not training:
        raise UsageError(f"{origin}: nothing is left for training; hold out less (data.held_out)")
    return training, [item for item, o in zip(items, out, strict=True) if o]


def check_held_out(items: Sequence[Item], held_out: HeldOut, columns: Sequence[str], origin: str) -> None:
    """UsageError: the option names a column or a value that there is not, or is no share."""
    if isinstance(held_out, Mapping):
        if not held_out:
            raise UsageError("data.held_out: expected a share such as 0.1, or values by column, got {}")
        for name in held_out:
            if name not in columns:
                raise UsageError(f"data.held_out: {unknown(f'column of {origin}', name, columns)}")
            found = {str(item.values[name]) for item in items if item.values.get(name) is not None}
            if missing := sorted({str(value) for value in held_out[name]} - found):
                raise UsageError(f"data.held_out.{name}: {origin} has no item with {', '.join(missing)}")
        if not any(_by_values(items, held_out)):
            raise UsageError(f"{origin}: no item has all the values of data.held_out {dict(held_out)}")
    elif not 0 <= held_out < 1:
        raise UsageError(f"data.held_out: expected a share from 0 to below 1, got {held_out:g}")


def _by_values(items: Sequence[Item], held_out: Mapping[str, Sequence[Any]]) -> list[bool]:
    rule = {name: {str(value) for value in values} for name, values in held_out.items()}
    return [all(str(item.values.get(name)) in values for name, values in rule.items()) for item in items]


def _by_share(items: Sequence[Item], share: float) -> list[bool]:
    if share == 0:
        return [False] * len(items)
    groups = contents(items)
    first: dict[Any, str] = {}
    for item, group in zip(items, groups, strict=True):
        first[group] = min(first.get(group, item.key), item.key)
    places = {group: seed_of("held out", key) % 10_000 for group, key in first.items()}
    out = {group for group, place in places.items() if place < 10_000 * share}
    if len(first) > 1:  # a floor of one on either side
        ordered = sorted(places, key=lambda group: (places[group], first[group]))
        out = (out or {ordered[0]}) - ({ordered[-1]} if len(out) == len(first) else set())
    else:
        out = set()
    return [group in out for group in groups]


def contents(items: Sequence[Item]) -> list[Any]:
    """What tells the contents of items apart. Only files of one size are read, and what they hold is remembered."""
    sizes = dict(at_once(_size, {item.path for item in items}))
    shared = Counter(sizes.values())
    alike = [path for path, size in sizes.items() if size >= 0 and shared[size] > 1]
    digests = cached("content-1", alike, digest, what="compare files of one size")
    return [(digests.get(item.path) or str(item.path), item.start_s, item.duration_s) for item in items]


def _size(path: Source) -> int:
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def copies(items: Sequence[Item]) -> list[list[Item]]:
    """Groups of different items that have the same content."""
    groups: dict[Any, dict[str, Item]] = defaultdict(dict)
    for item, content in zip(items, contents(items), strict=True):
        groups[content].setdefault(item.key, item)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def digest(path: Source) -> str | None:
    """A hash of what a file holds; None where it cannot be read."""
    found = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    except OSError:
        return None
    return found.hexdigest()
