"""A config as it is written: YAML with `extends`, overrides, and where every value came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowgen.config.notation import Invalid, Key, dumps, parse
from flowgen.errors import UsageError, shorten
from flowgen.files import read_small

MAX_BYTES = 1_000_000
"""Of a config file."""
COMMAND_LINE = "command line"
"""The source of what an override sets."""
_MAX_EXTENDS = 20


@dataclass
class Document:
    """Nested plain values, and for each key path the place that set it ("file:line" or "command line")."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[Key, str] = field(default_factory=dict)

    def source(self, key: Key) -> str:
        """Where `key`, or the nearest section above it that was written somewhere, was set; "default" if nowhere."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.sources:
                return self.sources[key[:end]]
        return "default"


def read(path: Path, find: Callable[[str], Path | None] = lambda name: None) -> Document:
    """Read a YAML file and those it extends: by their paths beside it, or by names that `find` knows."""
    return _read(path, find, ())


def _read(path: Path, find: Callable[[str], Path | None], below: tuple[Path, ...]) -> Document:
    if path.resolve() in below:
        raise UsageError(f"{path}: 'extends' runs in a circle")
    if len(below) > _MAX_EXTENDS:
        raise UsageError(f"{path}: more than {_MAX_EXTENDS} files extend one another")
    text = read_small(path, MAX_BYTES)
    try:
        values, lines = parse(text)
    except Invalid as error:
        raise UsageError(f"{path}:{error.line}: {error}") from None
    if not isinstance(values, dict | None):
        raise UsageError(f"{path}: expected a mapping of keys to values at the top")
    here = Document(values or {}, {key: f"{path}:{line}" for key, line in lines.items()})
    parent = here.values.pop("extends", None)
    if parent is None:
        return here
    where = here.sources[("extends",)]
    if not isinstance(parent, str):
        raise UsageError(f"{where}: 'extends' takes one YAML file, or the name of a recipe")
    beside = path.parent / parent
    other = beside if os.path.isfile(beside) else find(parent)
    if other is None:
        raise UsageError(
            f"{where}: cannot read the config {shorten(str(beside), 400)}: there is no such file, and no such recipe"
        )
    base = _read(other, find, (*below, path.resolve()))
    _merge(base, here.values, here.sources, ())
    return base


def override(document: Document, assignments: Sequence[str]) -> None:
    """Apply `a.b.c=value`: sections and their types first, then what is in them, in the order given; values are read as YAML.

    Raises UsageError for what cannot be read, and for a value that another assignment leaves no place for.
    """
    parsed = [_parsed(assignment) for assignment in assignments]
    for key, value in sorted(parsed, key=_place):
        put(document, key, value, COMMAND_LINE)
    for index, (assignment, (key, value)) in enumerate(zip(assignments, parsed, strict=True)):
        if any(other == key and not _adds(other, new) for other, new in parsed[index + 1 :]):
            continue  # of one key the last stands
        lost = next((path for path, leaf in _leaves(value, key) if not _stands(document, path, leaf)), None)
        if lost is not None:
            raise UsageError(
                f"{shorten(assignment)}: another override takes the place of {'.'.join(lost)}; leave out one of them"
            )


def _place(assignment: tuple[tuple[str, ...], Any]) -> tuple[int, bool]:
    """The depth of the section that an override replaces, and whether it only adds to it."""
    key, value = assignment
    return len(key) - (key[-1] == "type"), _adds(key, value)


def _adds(key: tuple[str, ...], value: Any) -> bool:
    """Whether an override merges into its section; one that names a type, or streams, replaces it."""
    return isinstance(value, Mapping) and "type" not in value and key != ("shift",) and not _given_by_stream(key, value)


def _leaves(value: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield from _leaves(child, (*key, str(name)))
    else:
        yield key, value


def _stands(document: Document, key: Key, value: Any) -> bool:
    """Whether a value of the command line has a place: itself, a later one of its own key, or as the type of a section."""
    if document.sources.get(key) != COMMAND_LINE:
        return False
    now: Any = document.values
    for part in key:
        now = now[part]
    return not isinstance(now, Mapping) or now.get("type") == value


def _parsed(assignment: str) -> tuple[tuple[str, ...], Any]:
    name, equals, text = assignment.partition("=")
    key = tuple(name.split("."))
    if not equals or not all(key) or len(key) > 50:
        raise UsageError(
            f"cannot read the override {shorten(assignment)!r}; expected key=value, as in train.steps=1000"
        )
    try:
        value, _ = parse(text)
    except Invalid as error:
        raise UsageError(f"cannot read the value of {shorten(assignment)!r}: {error}") from None
    return key, value


def put(document: Document, key: Sequence[str], value: Any, source: str) -> None:
    """Set one key, and note where it came from."""
    for part in reversed(key):
        value = {part: value}
    sources: dict[Key, str] = {}
    _note(value, (), source, sources)
    _merge(document, value, sources, ())


def merge(base: Document, new: Document) -> None:
    """Lay a document over another."""
    _merge(base, new.values, new.sources, ())


def _note(value: Any, key: Key, source: str, sources: dict[Key, str]) -> None:
    if key:
        sources[key] = source
    if isinstance(value, Mapping):
        for name, child in value.items():
            _note(child, (*key, str(name)), source, sources)


def _merge(base: Document, new: Any, sources: Mapping[Key, str], key: Key) -> None:
    """Merge `new` into the section `key` of `base`. A section whose `type` changes is replaced: its options are another's."""
    target: Any = base.values
    for part in key:
        target = target[part]
    for name, value in new.items():
        child = (*key, name)
        old = target.get(name)
        replaces = _replaces(child, value, old)
        if isinstance(value, Mapping) and isinstance(old, str) and "type" not in value and not replaces:
            old = target[name] = {"type": old}
        same = (
            not replaces
            and isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and value.get("type", old.get("type")) == old.get("type")
        )
        if same:
            if child in sources:
                base.sources.setdefault(child, sources[child])
            _merge(base, value, sources, child)
        else:
            for stale in _paths(old, child):
                base.sources.pop(stale, None)
            target[name] = value
            base.sources.update({path: sources[path] for path in _paths(value, child) if path in sources})


def _paths(value: Any, key: Key) -> Iterator[Key]:
    """The path of a value, and of all within it."""
    yield key
    if isinstance(value, Mapping | list):
        for name, child in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _paths(child, (*key, name))


_BY_STREAM: tuple[Key, ...] = (("path",), ("times",), ("shift",), ("loss", "predicts"), ("loss", "noise_levels"))
"""What may be one for all streams, or one for each."""
_TOKEN_SHIFT = {"base", "power"}


def _replaces(key: Key, new: Any, old: Any) -> bool:
    """Whether one of `new` and `old` is given by stream and the other for all: they have no keys in common to merge."""
    if key not in _BY_STREAM or not isinstance(new, Mapping):
        return False
    if key == ("shift",):
        return isinstance(old, Mapping) and _given_by_stream(key, new) != _given_by_stream(key, old)
    return _given_by_stream(key, new) and not _given_by_stream(key, old)


def _given_by_stream(key: Key, section: Any) -> bool:
    """Whether a section is by stream: names, or sections. (An import string is an option of a component.)"""
    if key not in _BY_STREAM or not isinstance(section, Mapping) or "type" in section:
        return False
    if key == ("shift",):
        return not section.keys() <= _TOKEN_SHIFT
    return all(":" not in part if isinstance(part, str) else isinstance(part, Mapping) for part in section.values())


def write(values: Mapping[str, Any], path: Path) -> None:
    """Write plain values as YAML."""
    path.write_text(dumps(values), encoding="utf-8")
