"""Samples in tar files, as the webdataset library writes them: files of one key belong together (0001.wav, 0001.json).

A tar file is indexed once and the index kept in the user's cache folder until the file changes. After that any member is
read where it lies, so that which clips make a batch stays a function of (seed, step), as it is for files in a folder.
"""

from __future__ import annotations

import glob
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any, BinaryIO, TypeAlias

from flowgen.data.cells import Cell
from flowgen.data.facts import cached
from flowgen.data.remote import Remote, is_url, matching
from flowgen.data.tables import cleaned, decode_text
from flowgen.errors import FlowgenError, UsageError, shorten

_VERSION = 2
LABEL, CAPTION = "label", "caption"
_MAX_VALUES = 10_000_000
"""Bytes of a json, cls or txt member."""


@dataclass(frozen=True, order=True)
class Member:
    """A file inside a tar file: what those who read a `Path` ask of it."""

    shard: Path | Remote
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    def absolute(self) -> PurePath:
        """A name that no other member has; there is no file of it."""
        return self.shard.absolute() / self.name

    def is_file(self) -> bool:
        return self.shard.is_file()

    def is_dir(self) -> bool:
        return False

    def stat(self) -> Any:
        """Its size, and the times at which the tar file was changed."""
        shard = self.shard.stat()
        return SimpleNamespace(st_size=self.size, st_mtime_ns=shard.st_mtime_ns, st_ctime_ns=shard.st_ctime_ns)

    def open(self, mode: str = "rb") -> BinaryIO:
        return io.BufferedReader(_Part(self), 1 << 16)


Source: TypeAlias = Path | Remote | Cell | Member


@contextmanager
def readable(source: Source) -> Iterator[Any]:
    """What a decoder takes: the name of a file (absolute, so that a colon in it makes no protocol), or an open member.

    FlowgenError: it is a pipe or a device, which may never end.
    """
    if isinstance(source, Path):
        if os.path.exists(source) and not (os.path.isfile(source) or os.path.isdir(source)):
            raise FlowgenError(f"{source}: is no regular file")
        yield os.path.abspath(source)
    else:
        with source.open() as file:
            yield file


def located(source: Source) -> dict[str, Any]:
    """Where it lies, as columns of a report."""
    if not isinstance(source, Member):
        return {"path": str(source)}
    return {"path": str(source.shard), "offset": source.offset, "bytes": source.size}


@dataclass(frozen=True)
class Sample:
    """The members of one key by extension, and what its json, cls and txt say by column."""

    key: str
    members: Mapping[str, Member]
    values: Mapping[str, Any]
    problem: str = ""
    """What is wrong with its json, cls or txt."""

    def media(self, suffixes: Sequence[str] | frozenset[str], extension: str | None) -> Member:
        """The member to decode. FlowgenError: there is none, or one of several without a word which."""
        wanted = (
            [extension.lstrip(".")] if extension else [e for e in self.members if f".{e.split('.')[-1]}" in suffixes]
        )
        found = [self.members[e] for e in wanted if e in self.members]
        if len(found) == 1:
            return found[0]
        where = next(iter(self.members.values())).shard
        if found:
            raise UsageError(
                f"{where}: sample {self.key!r} has {' and '.join(wanted)}; say which with data.extension={wanted[0]}"
            )
        raise FlowgenError(
            f"{where}: sample {self.key!r} has {', '.join(self.members) or 'nothing'}, none of which is "
            f"{extension or 'a medium of this data set'}; mend the shard, or give data.extension"
        )


def read_shards(pattern: str) -> list[Sample]:
    """The samples of all tar files that a pattern names, in their order. FlowgenError: one cannot be indexed."""
    shards = find_shards(pattern)
    indexed = cached(f"shards-{_VERSION}", shards, _index, what="index shards")
    return [
        Sample(key, {ext: Member(shard, *place) for ext, place in members.items()}, values, problem)
        for shard in shards
        for key, members, values, problem in indexed[shard]
    ]


def find_shards(pattern: str) -> list[Path | Remote]:
    """The files of "train-{000..012}.tar", "{a,b}/*.tar", "s3://bucket/*.tar" and the like. UsageError: one of them is not there."""
    found: list[Path | Remote] = []
    for name in _expand(os.path.expanduser(pattern)):
        matches: Sequence[Path | Remote]
        if is_url(name):
            matches = matching(name)
        else:
            matches = [
                Path(path)
                for path in (sorted(glob.glob(name)) if glob.has_magic(name) else [name])
                if os.path.isfile(path)
            ]
        if not matches:
            raise UsageError(
                f"data.shards: there is no file {name}; give tar files as in 'train-{{000..012}}.tar' or '*.tar'"
            )
        found += matches
    return list(dict.fromkeys(found))


def _expand(pattern: str) -> list[str]:
    """Braces: {000..012} counts, with as many digits; {a,b} lists."""
    parts = re.split(r"(\{[^{}]*\})", pattern)
    choices: list[list[str]] = []
    for part in parts:
        if span := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part):
            first, last = span.groups()
            choices.append([str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)])
        elif part.startswith("{") and part.endswith("}"):
            choices.append(part[1:-1].split(","))
        else:
            choices.append([part])
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _index(shard: Path | Remote) -> list[tuple[str, dict[str, tuple[str, int, int]], dict[str, Any], str]]:
    """(key, members by extension as (name, offset, size), values, what is wrong with these) of each sample."""
    groups: dict[str, dict[str, tuple[str, int, int]]] = {}
    try:
        with shard.open("rb") as whole, tarfile.open(fileobj=whole, mode="r:") as archive:
            for entry in archive:
                if entry.size < 0 or entry.issparse():  # with the first, tarfile would go round in a circle
                    raise FlowgenError(f"{shard}: {shorten(entry.name)} is damaged or sparse; pack the samples again")
                folder, _, name = entry.name.rpartition("/")
                base, dot, extension = name.partition(".")
                if not entry.isreg() or not base or not dot:
                    continue
                members = groups.setdefault(f"{folder}/{base}".lstrip("/"), {})
                if extension.lower() in members:
                    raise FlowgenError(f"{shard}: holds {entry.name} twice; a key stands for one sample")
                members[extension.lower()] = (entry.name, entry.offset_data, entry.size)
            _check_end(shard, whole, archive.offset)
    except (tarfile.TarError, OSError, ValueError, LookupError, OverflowError) as error:
        raise FlowgenError(
            f"{shard}: cannot be read as a plain tar file ({error}); compressed ones are to be unpacked"
        ) from error
    ends = [offset + size for members in groups.values() for _, offset, size in members.values()]
    if max(ends, default=0) > shard.stat().st_size:
        raise FlowgenError(f"{shard}: is cut off: its last members are not whole")
    if not groups:
        raise FlowgenError(f"{shard}: holds no samples; expected files with names such as 0001.wav and 0001.json")
    with shard.open("rb") as file:
        return [(key, members, *_values(shard, file, members)) for key, members in groups.items()]


def _check_end(shard: Path | Remote, file: BinaryIO, offset: int) -> None:
    """FlowgenError: where the members end there is no mark of the end, or something after it, so that members are missing.

    Python's reader takes a damaged header for the end.
    """
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise FlowgenError(f"{shard}: is cut off: the mark at its end is missing; copy or pack it again")
    while block:
        if rest := block.lstrip(b"\0"):
            at = offset + len(block) - len(rest)
            raise FlowgenError(
                f"{shard}: is damaged at byte {at:,}, where neither a member stands nor the end; copy or pack it again"
            )
        offset += len(block)
        block = file.read(1 << 20)


def _values(
    shard: Path | Remote, file: BinaryIO, members: Mapping[str, tuple[str, int, int]]
) -> tuple[dict[str, Any], str]:
    """What json, cls and txt members say (the fields of the first, and the columns label and caption), or what is wrong."""
    values: dict[str, Any] = {}
    for extension in ("json", "cls", "txt"):
        if extension not in members:
            continue
        name, offset, size = members[extension]
        if size > _MAX_VALUES:
            return (
                values,
                f"{shard}/{name}: is larger than {_MAX_VALUES / 1e6:g} MB, which no {extension} of a sample is",
            )
        file.seek(offset)
        try:
            text = decode_text(file.read(size))
            found = json.loads(text) if extension == "json" else " ".join(text.split())
        except (ValueError, RecursionError) as error:
            return values, f"{shard}/{name}: cannot be read as {extension} ({error})"
        if extension != "json":
            values[LABEL if extension == "cls" else CAPTION] = found
        elif isinstance(found, dict):
            values |= found
        else:
            return values, f"{shard}/{name}: expected an object with a field for each column, got {text[:40]!r}"
    return {name: cleaned(value) for name, value in values.items()}, ""


class _Part(io.RawIOBase):
    """The bytes of a member, as a file of their own."""

    def __init__(self, member: Member) -> None:
        self._file: Any = member.shard.open("rb", buffering=0)
        self._start, self._size, self._at = member.offset, member.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(self._size - self._at, 0))
        self._file.seek(self._start + self._at)
        read = self._file.readinto(memoryview(buffer)[:wanted]) or 0
        self._at += read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()
