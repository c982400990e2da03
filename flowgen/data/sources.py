"""Where items come from: a folder, a table, or tar shards. A data set is one of these and the medium it decodes.

Options are read from signatures, so this module does without postponed annotations.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from flowgen.data.items import CAPTION, LABEL, USUAL, Found, Item, Kind, named, segment
from flowgen.data.remote import Remote, below, listed, place
from flowgen.data.shards import Member, Sample, Source, read_shards
from flowgen.data.tables import read_table, read_text
from flowgen.errors import FlowgenError, UsageError, shorten, unknown

_CACHES = frozenset(("__pycache__", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"))
_LONGEST_NAME = 255
_NEAR = 4096
_PLAIN = frozenset((".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".parquet"))


@dataclass(frozen=True)
class Medium:
    """What the files of a modality look like from outside."""

    name: str
    suffixes: frozenset[str]
    pictures: frozenset[str] = frozenset()
    """Folders of files that end so are one item each."""


@dataclass(eq=False, repr=False)
class FolderSource:
    """Every file of the medium below `folder`, which may be a URL. Links are followed; hidden and cache folders are left alone
    and named."""

    folder: str
    pattern: str | None = None
    medium: ClassVar[Medium]
    locations: ClassVar[tuple[str, ...]] = ("folder",)

    def find(self) -> Found:
        root = place(self.folder)
        if isinstance(root, Path) and not root.is_dir():
            raise UsageError(f"data.folder: {self.folder} is not a folder; give the folder that holds the files")
        there = dict(listed(root)) if isinstance(root, Remote) else {}
        names, notes = scan(root, self.medium) if isinstance(root, Path) else scan_listed(there, self.medium)
        if not names:
            known = ", ".join(sorted(self.medium.suffixes))
            raise UsageError(f"data.folder: no {self.medium.name} in {self.folder} (looked for {known})")
        labels = _by_folder(names, self.folder) if self.pattern is None else _by_pattern(names, self.pattern)
        columns = list(dict.fromkeys(column for values in labels.values() for column in values))
        items = [_with_caption(root, name, labels[name], there) for name in names]
        usual: dict[str, Kind] = dict.fromkeys(columns, "class")
        if any(CAPTION in item.values for item in items):
            columns.append(CAPTION)
            usual[CAPTION] = "text"
        return Found(items, str(root), columns, usual, notes)


@dataclass(eq=False, repr=False)
class TableSource:
    """The files that a table lists, relative to it or to `folder`."""

    manifest: str
    folder: str | None = None
    file: str = "file"
    start: str | None = None
    duration: str | None = None
    allow_outside: bool = field(default=False, kw_only=True)
    locations: ClassVar[tuple[str, ...]] = ("manifest", "folder")

    def find(self) -> Found:
        path = place(self.manifest)
        rows = read_table(path)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        for key in ("file", "start", "duration"):
            name = getattr(self, key)
            if name is not None and name not in columns:
                raise UsageError(f"data.{key}: {unknown(f'column of {self.manifest}', name, columns)}")
        root = str(place(self.folder) if self.folder else path.parent)
        near: dict[str, Source] = {}
        items = [self._item(root, f"{path}: row {number}", row, near) for number, row in enumerate(rows, 1)]
        usual: dict[str, Kind] = {name: kind for name, kind in USUAL.items() if name in columns}
        return Found(items, str(path), columns, usual)

    def _item(self, root: str, where: str, row: dict[str, Any], near: dict[str, Source]) -> Item:
        """`near`: files of the rows before, of which segments share one place."""
        name = row.get(self.file)
        if name is None:
            return Item(where, Path(root), row, problem=f"no file: {where} names no file in the column {self.file!r}")
        try:
            start_s, duration_s = (_seconds(row, column, where) for column in (self.start, self.duration))
        except FlowgenError as error:
            return Item(where, Path(root), row, problem=f"no time: {error}")
        if "\0" in str(name) or any(len(os.fsencode(part)) > _LONGEST_NAME for part in str(name).split("/")):
            return Item(
                where, Path(root), row, problem=f"no file: {shorten(str(name))!r} is no name that a file can have"
            )
        path = near.get(str(name))
        if path is None:
            if len(near) >= _NEAR:
                near.clear()
            path = near[str(name)] = below(root, str(name), self.allow_outside, where)
        return Item(segment(str(name), start_s or 0.0, duration_s), path, row, start_s or 0.0, duration_s)


@dataclass(eq=False, repr=False)
class ShardSource:
    """Samples in tar files, where files of one key (0001.flac, 0001.json) are one sample. Nothing is unpacked."""

    shards: str
    extension: str | None = field(default=None, kw_only=True)
    medium: ClassVar[Medium]
    locations: ClassVar[tuple[str, ...]] = ("shards",)

    def find(self) -> Found:
        samples = read_shards(self.shards)
        columns = list(dict.fromkeys(name for sample in samples for name in sample.values))
        shards = {next(iter(sample.members.values())).shard for sample in samples}
        root = os.path.commonpath([os.path.abspath(shard.absolute().parent) for shard in shards])
        items = [self._item(root, sample) for sample in samples]
        usual: dict[str, Kind] = {name: kind for name, kind in USUAL.items() if name in columns}
        return Found(items, self.shards, columns, usual)

    def _item(self, root: str, sample: Sample) -> Item:
        some = next(iter(sample.members.values()))
        try:
            member: Source = sample.media(self.medium.suffixes, self.extension)
        except UsageError:
            raise
        except FlowgenError as error:
            return Item(f"{some.shard.name}/{sample.key}", some, sample.values, problem=f"no medium: {error}")
        assert isinstance(member, Member)
        key = f"{os.path.relpath(member.shard.absolute(), root)}/{member.name}"
        return Item(key, member, sample.values, problem=sample.problem)


def scan(root: Path, medium: Medium) -> tuple[list[str], list[str]]:
    """Names below a folder, in their order, of the files of a medium and the folders of pictures; and what was left alone."""
    hidden: list[str] = []
    return _sorted_out(_walk(root, "", hidden, set()), medium, hidden)


def scan_listed(names: Iterable[str], medium: Medium) -> tuple[list[str], list[str]]:
    """The same of the names of files elsewhere, where a folder of pictures is none of one item."""
    hidden: list[str] = []
    folders: dict[str, list[str]] = {}
    for name in names:
        parts = name.split("/")
        if any(part.startswith(".") or part in _CACHES for part in parts):
            hidden.append(name)
        else:
            folders.setdefault("".join(f"{part}/" for part in parts[:-1]), []).append(parts[-1])
    return _sorted_out(folders.items(), replace(medium, pictures=frozenset()), hidden)


def _sorted_out(
    folders: Iterable[tuple[str, list[str]]], medium: Medium, hidden: list[str]
) -> tuple[list[str], list[str]]:
    found: list[str] = []
    others: list[str] = []
    pictured: dict[str, list[str]] = {}
    for folder, files in folders:
        inside = [name for name in files if Path(name).suffix.lower() in medium.suffixes]
        found += [f"{folder}{name}" for name in inside]
        pictures = [name for name in files if Path(name).suffix.lower() in medium.pictures]
        if pictures:
            pictured[folder] = pictures
        others += [f"{folder}{n}" for n in files if n not in inside and n not in pictures]
    for folder, pictures in pictured.items():
        holds_more = any(name.startswith(folder) for name in found) or any(
            other != folder and other.startswith(folder) for other in pictured
        )
        if holds_more or not folder:  # thumbnails beside clips, or the data set itself
            others += [f"{folder}{name}" for name in pictures]
    sequences = [f[:-1] for f in pictured if f"{f}{pictured[f][0]}" not in set(others)]
    strangers = [n for n in others if Path(n).suffix.lower() not in _PLAIN]
    notes = []
    if hidden:
        notes.append(f"hidden or of a cache: {len(hidden)}: {named(hidden)}")
    if strangers:
        kinds = ", ".join(f"{s or 'none'} ({n})" for s, n in Counter(Path(n).suffix for n in strangers).most_common(5))
        notes.append(f"no {medium.name}: {len(strangers)} by extension {kinds}: {named(strangers)}")
    return sorted(found + sequences, key=lambda name: name.split("/")), notes


def _walk(root: Path, below_: str, hidden: list[str], above: set[tuple[int, int]]) -> Iterator[tuple[str, list[str]]]:
    """(name of a folder with a slash, its files). Links are followed, and not in a circle."""
    stat = root.stat()
    if (stat.st_dev, stat.st_ino) in above:
        return
    files, folders = [], []
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise FlowgenError(
            f"{root}: cannot be read ({error.strerror}); give the permission, or move it away"
        ) from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _CACHES:
            hidden.append(f"{below_}{entry.name}")
        elif entry.is_dir():
            folders.append(entry)
        elif entry.is_file() or entry.is_symlink():
            files.append(entry.name)
    yield below_, files
    for entry in folders:
        yield from _walk(Path(entry.path), f"{below_}{entry.name}/", hidden, above | {(stat.st_dev, stat.st_ino)})


def _by_folder(names: Sequence[str], folder: str) -> dict[str, dict[str, Any]]:
    """The label of a file in a sub-folder is the name of that."""
    top = [name for name in names if "/" not in name]
    if len(top) == len(names):
        return {name: {} for name in names}
    if top:
        raise UsageError(
            f"data.folder: {folder} has files beside its sub-folders, such as {top[0]}; sort them into folders, or give "
            f"data.pattern"
        )
    return {name: {LABEL: name.rpartition("/")[0]} for name in names}


def _by_pattern(names: Sequence[str], pattern: str) -> dict[str, dict[str, Any]]:
    """Named groups of the path without its extension are labels."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"data.pattern: {pattern!r} is no regular expression ({error})") from None
    matches = {name: expression.fullmatch(str(Path(name).with_suffix(""))) for name in names}
    strangers = [name for name, match in matches.items() if match is None]
    if strangers:
        raise UsageError(
            f"data.pattern: {len(strangers)} of {len(names)} files do not match {pattern!r}, the first being "
            f"{strangers[0]}; change the pattern or move them away"
        )
    return {name: match.groupdict() for name, match in matches.items() if match}


def _with_caption(root: Path | Remote, name: str, values: dict[str, Any], there: Mapping[str, Remote]) -> Item:
    """A file, with the text that lies beside it; `there`: what a listing says of those elsewhere."""
    path: Source = there.get(name) or root / name
    folder, _, base = name.rpartition("/")
    stem = base if isinstance(path, Path) and path.is_dir() else PurePosixPath(base).stem
    beside = f"{folder}/{stem}.txt" if folder else f"{stem}.txt"
    text = there.get(beside) if there else root / beside
    if text is None or not text.is_file():
        return Item(name, path, values)
    try:
        return Item(name, path, {**values, CAPTION: " ".join(read_text(text).split()) or None})
    except FlowgenError as error:
        return Item(name, path, values, problem=f"caption: {error}")


def _seconds(row: dict[str, Any], column: str | None, where: str) -> float | None:
    value = row.get(column) if column is not None else None
    if value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = -1.0
    if not 0 <= found < float("inf"):
        raise FlowgenError(f"{where}: expected seconds in {column!r}, found {str(value)[:40]!r}")
    return found
