"""What is asked for of each clip of `flowgen sample`: conditions from options, or from the rows of a file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from flowgen.errors import UsageError

if TYPE_CHECKING:
    from flowgen.runs.generator import Generator


class Lazily(Sequence[Mapping[str, Any]]):
    """`n` mappings, each made when it is asked for: as little memory for a million clips as for one."""

    def __init__(self, n: int, row: Callable[[int], Mapping[str, Any]]) -> None:
        self.n, self.row = n, row

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, i: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, i: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        if isinstance(i, slice):
            return [self.row(k) for k in range(*i.indices(self.n))]
        if not -self.n <= i < self.n:
            raise IndexError(i)
        return self.row(i % self.n)


def pairs(assignments: tuple[str, ...]) -> dict[str, list[str]]:
    """NAME=VALUE as values by name. UsageError: one that cannot be read."""
    found: dict[str, list[str]] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"cannot read the condition {assignment!r}; expected NAME=VALUE")
        found.setdefault(name, []).append(value)
    return found


def single(assignments: tuple[str, ...], option: str) -> dict[str, str]:
    """NAME=VALUE where each name has one value. UsageError: a name comes twice, so that one value would not be used."""
    found = pairs(assignments)
    for name, values in found.items():
        if len(values) > 1:
            raise UsageError(f"{option} {name}: takes one value here, got {', '.join(values)}; leave out all but one")
    return {name: values[0] for name, values in found.items()}


def asked_by_options(
    generator: Generator, options: Mapping[str, Any], count: int | None, default: int
) -> Sequence[Mapping[str, Any]]:
    """The conditions of -c and --prompt: values in turn, or with --grid every combination of them.

    Args:
        count: how many clips; by default `default`, or as many as there are values, whichever is more.
    """
    asked = pairs(options["cond"])
    if options["prompt"] is not None:
        asked.setdefault(text_condition(generator, "--prompt"), []).append(options["prompt"])
    if options["grid"]:
        asked = {name: _split(generator, name, values) for name, values in asked.items()}
    for name, values in asked.items():
        check(generator, [{name: value} for value in values])
    sizes = {name: len(values) for name, values in asked.items()}
    needed, what = max(sizes.values(), default=1), "values of a condition"
    strides = dict.fromkeys(asked, 1)
    if options["grid"]:
        needed, what = math.prod(sizes.values()), "combinations of --grid"
        if needed == 1:
            raise UsageError("--grid takes every combination of several values; give some: -c digit=1,2 -c speed=3,4")
        for i, name in enumerate(sizes):
            strides[name] = math.prod(list(sizes.values())[i + 1 :])
    if count is not None and count < needed:
        raise UsageError(f"-n {count} is less than the {needed} {what}; ask for more clips, or leave values out")

    def row(i: int) -> Mapping[str, Any]:
        return {name: values[i // strides[name] % sizes[name]] for name, values in asked.items()}

    return Lazily(count or max(default, needed), row)


def asked_by_file(generator: Generator, path: Path, cond: tuple[str, ...]) -> Sequence[Mapping[str, Any]]:
    """The conditions of each row of a text (a prompt a line), CSV (a condition a column) or JSONL file; those of -c for all.

    Raises UsageError naming the file and the line.
    """
    common, read = single(cond, "-c"), _rows(generator, path)
    if not read:
        raise UsageError(f"{path} has no row to sample")
    for name in common:
        if all(name in row for _, row in read):
            raise UsageError(f"-c {name}: every row of {path} has its own {name}; leave it out")
    rows = [(line, {**common, **row}) for line, row in read]
    for line, row in rows:
        try:
            check(generator, [row])
        except UsageError as error:
            raise UsageError(f"{path}:{line}: {error}") from None
    return [row for _, row in rows]


def check(generator: Generator, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an unknown condition or value before the sampling, not after it."""
    from flowgen.media.conditions import encode_conditions

    encode_conditions(generator.conditioners, list(rows))


def text_condition(generator: Generator, option: str) -> str:
    """The one text condition of a run. UsageError: it has none, or several."""
    from flowgen.media.conditions import text_conditions

    texts = text_conditions(generator.conditioners)
    if len(texts) != 1:
        have = ", ".join(generator.conditioners) or "none"
        raise UsageError(f"{option} needs a run with one text condition; this one has: {have}; use --cond NAME=VALUE")
    return texts[0]


def _split(generator: Generator, name: str, values: Sequence[str]) -> list[str]:
    """Values of a condition, those with commas taken apart where the whole is none of its values."""
    found = []
    for value in values:
        try:
            check(generator, [{name: value}])
            found.append(value)
        except UsageError:
            found += value.split(",")
    return found


def _rows(generator: Generator, path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows with the number of their line."""
    kind = path.suffix.lower()
    if kind not in (".txt", ".csv", ".jsonl"):
        raise UsageError(f"{path}: --prompts takes a .txt, .csv or .jsonl file, got {kind or 'no extension'}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8") from None
    if kind == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        found = []
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"{path}:{reader.line_num}: has more or fewer cells than the header")
            found.append((reader.line_num, {name: value for name, value in row.items() if value != ""}))
        return found
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if kind == ".txt":
        name = text_condition(generator, "--prompts FILE.txt")
        return [(i, {name: line}) for i, line in lines]
    return [(i, _object(path, i, line)) for i, line in lines]


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UsageError(f'{path}:{number}: expected a JSON object of conditions, as in {{"digit": 3}}')
    return row
