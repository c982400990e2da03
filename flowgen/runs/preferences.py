"""Pairs of clips of which one was preferred, as a blind vote writes them down."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flowgen.config import ComponentConfig, Config, build
from flowgen.core.ranges import Decay
from flowgen.data.items import Item, digest, named, split
from flowgen.data.order import full_size
from flowgen.data.remote import absolute, below
from flowgen.data.tables import Row, read_table
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset, Modality
from flowgen.runs.run import Run

_OWN = ("preferred", "rejected", "tie", "preferred_by", "rejected_by", "seed")
_YES = ("yes", "true", "1")


@dataclass(frozen=True)
class _Pair:
    item: Item
    preferred: Path
    rejected: Path


@dataclass(frozen=True)
class Preferences:
    """Pairs of clips of which one was preferred, for a loss of pairs such as flow-dpo: any medium that a modality reads.

    `flowgen ui` writes such a table. Its columns are `preferred` and `rejected`, a file each, relative to the table;
    `tie`, where "yes" leaves a row out; and one for each condition that both clips were made under. Others are not read.

    Args:
        table: CSV, TSV, JSONL or Parquet.
        run: the folder of the run that is trained further. Its conditions are those of the pairs, and metrics compare with
            its data.
        held_out: the share of pairs to validate with.
        allow_outside: let the table name files outside of its folder.
    """

    modality: Modality
    table: str
    run: str
    held_out: Decay = 0.1
    allow_outside: bool = False
    part: str = field(default="training", init=False)

    def __post_init__(self) -> None:
        if build("modality", self.asked.modality) != self.modality:
            raise UsageError(
                f"data.run: {self.run} makes clips of another format than this config; give it the modality section of the run"
            )
        _ = self.parts  # what is wrong is said now

    @cached_property
    def asked(self) -> Config:
        """The config of the run."""
        return Run(Path(self.run)).config()

    @cached_property
    def conditions(self) -> dict[str, dict[str, Any]]:
        return {name: {"type": c.type, **c.options} for name, c in (self.asked.conditions or {}).items()}

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the table, ties included. UsageError: there is no such table, or a row names no two clips."""
        path = Path(self.table).expanduser()
        if not path.is_file():
            raise UsageError(f"data.table: there is no file {path}; flowgen ui writes one, by votes on pairs")
        rows = read_table(path)
        for end in ("preferred", "rejected"):
            without = [str(number) for number, row in enumerate(rows, 1) if row.get(end) is None]
            if without:
                raise UsageError(
                    f"data.table: {path} names no clip in the column {end!r} of row {named(without)}; give each row both clips"
                )
        return rows

    @cached_property
    def pairs(self) -> dict[str, _Pair]:
        """The pairs of which one clip was preferred, by key. UsageError: there is none, or one that cannot be used."""
        found: dict[str, _Pair] = {}
        folder = str(Path(self.table).expanduser().parent)
        known = {name: c for name, c in self.conditions.items() if c["type"] in ("class", "number")}
        checked = {name: build("conditioner", ComponentConfig(**c)) for name, c in known.items()}
        for number, row in enumerate(self.rows, 1):
            if str(row.get("tie")).lower() in _YES:
                continue
            where = f"{self.table}: row {number}"
            places = [self._file(folder, str(row[end]), where) for end in ("preferred", "rejected")]
            values = {name: row.get(name) for name in self.conditions}
            for name, conditioner in checked.items():
                if values[name] is not None:
                    try:
                        conditioner.encode(values[name])
                    except UsageError as error:
                        raise UsageError(f"data.table: {where}: condition {name!r}: {error}") from None
            key = f"row {number}: {row['preferred']} over {row['rejected']}"
            found[key] = _Pair(Item(key, places[0], values), *places)
        if not found:
            raise UsageError(
                f"data.table: {self.table} has {len(self.rows)} ties and no preference; vote on more pairs"
            )
        return found

    def _file(self, folder: str, name: str, where: str) -> Path:
        path = below(folder, name, self.allow_outside, where)
        if not isinstance(path, Path) or not path.is_file():
            raise UsageError(f"data.table: {where} names {path}, which is not there; put the clips beside the table")
        return path

    @cached_property
    def parts(self) -> dict[str, list[Item]]:
        """Training and held-out pairs, those with the same preferred clip in one of them."""
        both = split([pair.item for pair in self.pairs.values()], self.held_out, self.table)
        return dict(zip(("training", "validation"), both, strict=True))

    @property
    def items(self) -> list[Item]:
        return self.parts[self.part]

    def __len__(self) -> int:
        return len(self.items)

    def clip(self, index: int, seed: int) -> Clip:
        """The preferred clip of pair `index`, with the rejected one; nothing about it is random."""
        item = self.items[index]
        pair = self.pairs[item.key]
        preferred, rejected = (self.modality.read(path) for path in (pair.preferred, pair.rejected))
        return replace(preferred, conditions=item.values, source=item.key, rejected=rejected)

    def validation(self) -> Preferences:
        """The held-out pairs; none where `held_out` is 0."""
        other = replace(self)
        object.__setattr__(other, "part", "validation")
        return other

    def full_size(self) -> Dataset:
        """The clips that the run was trained on: what metrics compare with."""
        return full_size(build("dataset", self.asked.data, modality=self.modality))

    def describe(self) -> dict[str, Any]:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        unread = [name for name in columns if name not in _OWN and name not in self.conditions]
        said: dict[str, Any] = {
            "pairs": len(self),
            "held out": len(self.parts["validation"]),
            "ties left out": len(self.rows) - len(self.pairs),
            "table": self.table,
        }
        for name in self.conditions:
            if without := sum(item.values[name] is None for item in self.items):
                said[f"without {name}"] = without
        return said | ({"columns not read": ", ".join(unread)} if unread else {})

    def key(self, index: int) -> str:
        """The row of the table, and its clips."""
        return self.items[index].key

    def labels(self, index: int) -> dict[str, Any]:
        """The conditions of pair `index`."""
        return dict(self.items[index].values)

    def fingerprints(self) -> dict[str, str]:
        """What training rests on, by pair: the content of both clips and their conditions, as a hash."""
        out: dict[str, str] = {}
        for item in (*self.parts["training"], *self.parts["validation"]):
            pair = self.pairs[item.key]
            content = (digest(pair.preferred), digest(pair.rejected), sorted(item.values.items()))
            out[item.key] = hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()
        return out

    @property
    def places(self) -> dict[str, str]:
        return {"table": absolute(self.table), "run": absolute(self.run)}


def rejected_clips(clips: Sequence[Clip]) -> list[Clip]:
    """The clips that these were preferred to. UsageError: one says none."""
    found = [clip.rejected for clip in clips if clip.rejected is not None]
    if len(found) < len(clips):
        lone = next(clip for clip in clips if clip.rejected is None)
        raise UsageError(
            f"the loss compares pairs, and {lone.source or 'a clip'} comes with no rejected clip; train on "
            "data: {type: preferences, table: ..., run: ...}"
        )
    return found
