"""The files that `flowgen sample` writes: never over what is there unless asked, and one by one as clips are made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowgen.cli.options import check_writable
from flowgen.errors import UsageError, unknown

if TYPE_CHECKING:
    from flowgen.media.clip import Clip
    from flowgen.plugins.media import Media

_SHEET = 64
_POINTS = 10_000_000


@dataclass
class Output:
    """Where clips go: one file, or numbered files and one sheet that shows the first of them.

    Args:
        path: the file, or the name that numbers are added to.
        n: how many clips there will be.
        numbered: number the file even of one clip.
    """

    media: Media
    path: Path
    n: int
    numbered: bool = False
    _shown: list[Clip] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.media.clips_per_file is None and self.n > _POINTS:
            raise UsageError(f"-n {self.n}: one file shows at most {_POINTS:,} clips of this medium together")
        if self.path.suffix.lower() not in self.media.formats:
            raise UsageError(f"{self.path}: {unknown('file type', self.path.suffix, self.media.formats)}")
        check_writable(self.path)

    @property
    def several(self) -> bool:
        return self.media.clips_per_file is not None and (self.n > 1 or self.numbered)

    def file(self, row: int) -> Path:
        """The file of a clip, or its folder of pictures."""
        return self.media.place(self._name(row))

    def _name(self, row: int) -> Path:
        digits = len(str(self.n - 1))
        return (
            self.path.with_name(f"{self.path.stem}-{row:0{digits}d}{self.path.suffix}") if self.several else self.path
        )

    @property
    def sheet(self) -> Path:
        return self.path.with_name(f"{self.path.stem}-sheet.png")

    def existing(self) -> list[Path]:
        """Files that are there and would be written over."""
        if not self.several:
            return [self.file(0)] if self.file(0).exists() else []
        stem, digits, suffix = re.escape(self.path.stem), len(str(self.n - 1)), re.escape(self.file(0).suffix)
        own = re.compile(rf"{stem}-(\d{{{digits}}}{suffix}|sheet\.png)")
        return sorted(p for p in self.path.parent.iterdir() if own.fullmatch(p.name))

    def refuse_existing(self) -> None:
        """UsageError: something is there."""
        if found := self.existing():
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise UsageError(f"{found[0]}{more} would be overwritten; choose another -o, or overwrite with --force")

    def write(
        self, rows: range, clips: Sequence[Clip], metadata: Mapping[str, Any], done: Collection[int] = ()
    ) -> list[Path]:
        """Write the clips of some rows, those that are `done` left out; where all clips share one file, `finish` writes it.
        Returns the files.
        """
        if self.media.clips_per_file is None:
            self._shown += clips
            return []
        self._shown += clips[: _SHEET - len(self._shown)] if len(self._shown) < _SHEET else []
        paths = []
        for row, clip in zip(rows, clips, strict=True):
            if row in done:
                continue
            named = {**metadata, "index": row, "conditions": dict(clip.conditions)}
            self.media.write([clip], self._name(row), named)
            paths.append(self.file(row))
        return paths

    def finish(self, metadata: Mapping[str, Any]) -> list[Path]:
        """Write what shows all clips together. Returns the files."""
        from flowgen.training.watch import caption

        if self.media.clips_per_file is None:
            self.media.write(self._shown, self.path, metadata)
            return [self.path]
        if not self.several or not self._shown:
            return []
        self.media.sheet(self._shown, self.sheet, [caption(c.conditions) for c in self._shown])
        return [self.sheet]


def default_path(folder: Path, name: str, suffix: str) -> Path:
    """A file of a run's samples that is not there yet."""
    path, turn = folder / f"{name}{suffix}", 1
    while path.exists() or list(folder.glob(f"{path.stem}-*{suffix}")):
        turn += 1
        path = folder / f"{name}-take{turn}{suffix}"
    return path


def resume(output: Output, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], force: bool) -> set[int]:
    """The rows of --prompts that are done. Notes beside the files what they are made of.

    Raises UsageError: files are there that were made of other rows or settings.
    """
    from flowgen.files import read_json, write_json

    text = json.dumps([list(map(dict, rows)), dict(settings)], sort_keys=True, default=str)
    key = {"key": hashlib.sha256(text.encode()).hexdigest()}
    note = output.path.with_name(f"{output.path.stem}-prompts.json")
    done = {row for row in range(output.n) if output.file(row).exists()}
    same = note.is_file() and read_json(note) == key
    if done and not same and not force:
        raise UsageError(
            f"{output.file(min(done))} is there and was made of other prompts or settings; choose another -o, or overwrite "
            f"with --force"
        )
    write_json(key, note)
    return done if same and not force else set()
