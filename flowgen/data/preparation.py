"""Tables made from recordings: cut into segments, measured and chosen, captioned. Training reads what is written.

Each look at a file is kept in the user's cache folder, so that work that is stopped goes on where it was.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import torch

from flowgen.data import report
from flowgen.data.facts import cached
from flowgen.data.items import CAPTION, Item, copies, named
from flowgen.data.recordings import Recordings
from flowgen.data.remote import Remote, is_url
from flowgen.data.shards import Source
from flowgen.data.sources import FolderSource, TableSource
from flowgen.errors import FlowgenError, UsageError

FILE, START, DURATION, COPY_OF = "file", "start", "duration", "copy_of"
_ALIKE = 0.99
"""Correlation of the outlines of two recordings from which on one counts as a copy of the other."""
_RULE = re.compile(r"\s*([\w ]+?)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Part:
    """A recording, or a segment of one, as what `cached` remembers things about."""

    path: Source
    start_s: float
    duration_s: float | None

    def __str__(self) -> str:
        return str(self.absolute())

    def absolute(self) -> PurePath:
        return self.path.absolute() / f"{self.start_s:g}-{self.duration_s or 0:g}"

    def stat(self) -> Any:
        return self.path.stat()

    def is_dir(self) -> bool:
        return self.path.is_dir()


class Preparation:
    """The usable recordings of a data set, and what becomes of them on the way to a table."""

    def __init__(self, dataset: Any, kind: str) -> None:
        """UsageError: the data set is no folder or table of files, which alone a table can name."""
        if not isinstance(dataset, Recordings) or not isinstance(dataset, (FolderSource, TableSource)):
            raise UsageError(
                "a table is made of a folder or a table of recordings (audio-folder, video-manifest, ...); unpack shards first"
            )
        self.dataset, self.modality = dataset, dataset.modality
        self.items = sorted((i for part in dataset.survey for i in part), key=lambda item: item.key)
        self.left_out = [(item.key, use.why) for item, use in dataset.left_out]
        places = dataset.places
        self.root = places["folder"] if "folder" in places else os.path.dirname(places["manifest"])
        self.kind = kind
        self.segmented = self.outside = False
        """Whether rows have a start and a duration, and whether files lie outside of the root."""
        self._own = {FILE}
        if isinstance(dataset, TableSource):
            self._own |= {dataset.file, dataset.start or "", dataset.duration or ""}

    def split(self, options: Mapping[str, float], shortest_s: float, longest_s: float) -> list[dict[str, Any]]:
        """A row for each segment: between scenes or silences, in equal parts where it is longer than `longest_s`; what is
        shorter than `shortest_s` is left out."""
        short = 0
        rows = []
        found = self._look(f"segments-1-{sorted(options.items())}", "split", self._segments(options))
        for item, segments in found:
            for start, length in _inside(segments, item):
                parts = max(1, math.ceil(length / longest_s - 1e-9))
                if length / parts < shortest_s:
                    short += 1
                    continue
                rows += [
                    self.row(replace(item, start_s=start + i * length / parts, duration_s=length / parts))
                    for i in range(parts)
                ]
        if short:
            self.left_out.append((f"{short} segments", f"shorter than {shortest_s:g} s"))
        return rows

    def measure(self) -> list[dict[str, Any]]:
        """A row for each recording with a column for each measure of the medium, and `copy_of`: the first one of its kind."""

        def look(part: Part) -> Any:
            measures, outline = self.modality.measure(part.path, part.start_s, part.duration_s)
            return {"measures": measures, "outline": [round(value, 4) for value in outline]}

        found = self._look("measures-1", "measure", look)
        first = _first_alike([(item.key, facts["outline"]) for item, facts in found])
        for group in copies([item for item, _ in found]):
            first |= {item.key: group[0].key for item in group[1:]}
        return [{**self.row(item), **facts["measures"], COPY_OF: first.get(item.key, "")} for item, facts in found]

    def caption(self, captioner: Callable[[Any], str], identity: str, column: str, count: int) -> list[dict[str, Any]]:
        """A row for each recording with a caption by `captioner`, which is given what the medium shows of a recording."""

        def look(part: Part) -> str:
            return captioner(self.modality.shown(part.path, part.start_s, part.duration_s, count))

        found = self._look(f"captions-1-{identity}-{count}", "caption", look, threads=1)
        return [{**self.row(item), column: text} for item, text in found]

    def row(self, item: Item) -> dict[str, Any]:
        """What a table says of an item: where it is, and its values."""
        elsewhere = isinstance(item.path, Remote)
        whole = str(item.path if elsewhere else item.path.absolute())
        name = os.path.relpath(whole, self.root)
        outside = name.startswith("..")
        self.outside |= outside
        row: dict[str, Any] = {FILE: whole if outside else name}
        if item.duration_s is not None:
            self.segmented = True
            row |= {START: round(item.start_s, 4), DURATION: round(item.duration_s, 4)}
        return row | {name: value for name, value in item.values.items() if name not in self._own and name not in row}

    def overrides(self, table: Path, captions: str | None) -> list[str]:
        """What a config is to say to train on a table that was written here."""
        manifest = self.kind if self.kind.endswith("-manifest") else f"{self.kind.rpartition('-')[0]}-manifest"
        root = self.root if is_url(self.root) else os.path.relpath(self.root)
        found = [f"data.type={manifest}", f"data.manifest={table}", f"data.folder={root}"]
        if self.segmented:
            found += [f"data.start={START}", f"data.duration={DURATION}"]
        if captions is not None and captions != CAPTION:
            kinds = {**self.dataset.kinds, captions: "text"}
            found += [f"data.columns.{name}={kind}" for name, kind in kinds.items()]
        return found + (["data.allow_outside=true"] if self.outside else [])

    def _segments(self, options: Mapping[str, float]) -> Callable[[Part], Any]:
        return lambda part: self.modality.segments(part.path, **options)

    def _look(
        self, kind: str, what: str, look: Callable[[Part], Any], threads: int | None = None
    ) -> list[tuple[Item, Any]]:
        """Each item with what is seen of it, in their order; those that cannot be read are left out, and named."""

        def tried(part: Part) -> Any:
            try:
                return {"seen": look(part)}
            except FlowgenError as error:
                return {"problem": str(error)}

        modality = f"{type(self.modality).__name__} {self.modality}"
        parts = [Part(item.path, item.start_s, item.duration_s) for item in self.items]
        found = cached(f"{kind}-{modality}", parts, tried, threads, what)
        seen = [(item, found[part]) for item, part in zip(self.items, parts, strict=True)]
        self.left_out += [(item.key, facts["problem"]) for item, facts in seen if "problem" in facts]
        return [(item, facts["seen"]) for item, facts in seen if "seen" in facts]


def kept(rows: Sequence[dict[str, Any]], rules: Sequence[str], no_copies: bool) -> list[dict[str, Any]]:
    """The rows that meet all rules, such as "motion >= 0.5"; what each leaves out is said. UsageError: no such column."""
    left = list(rows)
    for rule in rules:
        found = _RULE.fullmatch(rule)
        columns = sorted({name for row in rows for name, value in row.items() if isinstance(value, (int, float))})
        if found is None or found[1] not in columns:
            raise UsageError(
                f"--keep: expected a column, <, <=, > or >=, and a number, as in '{columns[0]} >= 0.5', got {rule!r} "
                f"(columns: {', '.join(columns)})"
            )
        name, sign, limit = found[1], found[2], float(found[3])
        left = _meeting(left, rule, lambda row, n=name, s=sign, x=limit: _holds(row.get(n), s, x))  # type: ignore[misc]
    return _meeting(left, "no copy of another", lambda row: not row[COPY_OF]) if no_copies else left


def write(rows: Sequence[Mapping[str, Any]], path: Path, left_out: Sequence[tuple[str, str]]) -> None:
    """Write the table, and say what is not in it. FlowgenError: there is nothing to write."""
    if left_out:
        print(f"left out: {named([f'{key} ({why})' for key, why in left_out], 20)}", file=sys.stderr)
    if not rows:
        raise FlowgenError("no recording is left for the table; look at what was left out, and ask for less")
    names = list(dict.fromkeys(name for row in rows for name in row))
    report.save([{name: row.get(name) for name in names} for row in rows], path)


def _meeting(rows: list[dict[str, Any]], rule: str, holds: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    out = [str(row[FILE]) for row in rows if not holds(row)]
    print(
        f"{rule}: {len(rows) - len(out)} of {len(rows)} kept{'; left out: ' + named(out) if out else ''}",
        file=sys.stderr,
    )
    return [row for row in rows if holds(row)]


def _holds(value: Any, sign: str, limit: float) -> bool:
    if not isinstance(value, (int, float)):
        return False
    return {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit}[sign]


def _inside(segments: Sequence[Sequence[float]], item: Item) -> Iterator[tuple[float, float]]:
    """Start and length of the parts of segments (from, to) that lie in an item."""
    end = math.inf if item.duration_s is None else item.start_s + item.duration_s
    for start, stop in segments:
        low, high = max(start, item.start_s), min(stop, end)
        if high > low:
            yield low, high - low


def _first_alike(outlines: Sequence[tuple[str, Sequence[float]]]) -> dict[str, str]:
    """By key, the first item whose outline is almost the same, for those that are not the first."""
    if not outlines:
        return {}
    keys = [key for key, _ in outlines]
    x = torch.tensor([list(outline) for _, outline in outlines])
    x = x - x.mean(1, keepdim=True)
    x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-6)
    first: dict[str, str] = {}
    for start in range(0, len(keys), 1024):
        alike = (x[start : start + 1024] @ x.T) > _ALIKE
        for i, row in enumerate(alike, start):
            j = int(row.int().argmax()) if bool(row.any()) else i  # argmax: the first of them
            if j < i:
                first[keys[i]] = first.get(keys[j], keys[j])
    return first
