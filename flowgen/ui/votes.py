"""A blind vote between two runs or settings: pairs, the table of preferences, and its result."""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flowgen.errors import FlowgenError
from flowgen.evaluation.intervals import wilson
from flowgen.ui import form

Verdict = Literal["left", "right", "tie"]
_OWN = ("preferred", "rejected", "tie", "preferred_by", "rejected_by", "seed")


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a run with settings, as `form.request` takes them."""

    run: str
    filled: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What the table calls it: the run, and what is not its own."""
        said = {k: v for k, v in sorted(self.filled.items()) if v not in (None, "", form.OWN)}
        if said.get("guidance", form.OFF) == form.OFF:
            said.pop("scale", None)
        return " ".join([self.run, *(f"{name}={value}" for name, value in said.items())])


@dataclass(frozen=True, eq=False)
class Pair:
    """Two clips of one request. left, right: with the label of their side, in the order that is shown."""

    left: tuple[str, Path]
    right: tuple[str, Path]
    conditions: Mapping[str, Any]
    seed: int


def drawn_conditions(run: Mapping[str, Any], texts: Sequence[str], chance: random.Random) -> dict[str, Any]:
    """Conditions for a pair: a class or a number at random, one of the texts; files are left out."""
    drawn: dict[str, Any] = {}
    for field in form.fields(run):
        if field.kind == "choice":
            drawn[field.name] = chance.choice(field.choices)
        elif field.kind == "number":
            drawn[field.name] = round(chance.uniform(field.low, field.high), 3)
        elif field.kind == "text" and texts:
            drawn[field.name] = chance.choice(list(texts))
    return drawn


@dataclass(frozen=True)
class Ballot:
    """The folder of a vote: `preferences.csv` and the clips that it names, which a training with flow-dpo reads."""

    folder: Path

    @property
    def table(self) -> Path:
        return self.folder / "preferences.csv"

    def record(self, pair: Pair, verdict: Verdict) -> None:
        """Add a row; the clips are copied beside the table, and their paths are relative to it."""
        winner, loser = (pair.right, pair.left) if verdict == "right" else (pair.left, pair.right)
        clips = self.folder / "clips"
        clips.mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        places = []
        for end, (_, path) in (("a", winner), ("b", loser)):
            places.append(Path("clips") / f"{len(rows):05}-{end}{path.suffix}")
            shutil.copy(path, self.folder / places[-1])
        own = (*map(str, places), "yes" if verdict == "tie" else "no", winner[0], loser[0], str(pair.seed))
        rows.append({**dict(zip(_OWN, own, strict=True)), **{k: str(v) for k, v in pair.conditions.items()}})
        names = list(dict.fromkeys(name for row in rows for name in row))
        unfinished = self.table.with_suffix(".new")
        with open(unfinished, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(rows)
        unfinished.replace(self.table)

    def rows(self) -> list[dict[str, str]]:
        """What was voted. FlowgenError: the table is not one of a vote."""
        if not self.table.is_file():
            return []
        with open(self.table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows and (missing := set(_OWN) - rows[0].keys()):
            raise FlowgenError(f"{self.table} has no column {min(missing)}; move it away to begin another vote")
        return rows

    def result(self, first: str, second: str) -> str:
        """The share of votes that the first of two labels won over the second, with its interval."""
        pair = {first, second}
        rows = [row for row in self.rows() if {row["preferred_by"], row["rejected_by"]} == pair]
        decided = [row for row in rows if row["tie"] == "no"]
        ties = len(rows) - len(decided)
        if not decided:
            return f"no vote between these two yet, {ties} ties" if ties else "no vote between these two yet"
        won = sum(row["preferred_by"] == first for row in decided)
        low, high = wilson(won / len(decided), len(decided))
        return (
            f"{first} won {won} of {len(decided)} votes over {second}: {won / len(decided):.0%} "
            f"(95 % interval {low:.0%} to {high:.0%}), {ties} ties"
        )
