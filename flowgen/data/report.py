"""What a data set says about its files, as lines to read: counts, lengths, levels, copies, and the batches that will be made.

A row is a plain dict; which columns there are is in `flowgen.media.interfaces.Dataset`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowgen.data.order import InBuckets, InOneOrder
from flowgen.errors import UsageError
from flowgen.files import replacing

Row = Mapping[str, Any]
_BARS, _WIDTH, _NAMED = 12, 40, 5
FULL_SCALE = 1 - 2**-15


def left_out(rows: Sequence[Row]) -> float:
    """The share of the training files that is left out."""
    training = [row for row in rows if row["part"] != "validation"]
    return sum(row["status"] == "left out" for row in training) / len(training) if training else 0.0


def summary(rows: Sequence[Row], allowed: float) -> Iterator[str]:
    """Lines about all files together."""
    parts = Counter(str(row["part"] or "neither") for row in rows)
    statuses = Counter(str(row["status"]) for row in rows)
    of_parts, of_statuses = (", ".join(f"{n} {name}" for name, n in c.items()) for c in (parts, statuses))
    yield f"files: {len(rows)}, {of_parts}"
    yield f"{of_statuses}; left out of training {left_out(rows):.1%}, allowed {allowed:.1%}"
    for name, digits in (("seconds", 2), ("frames", 0)):
        if values := [float(row[name]) for row in rows if name in row]:
            low, middle, high = (f"{v:.{digits}f}" for v in (min(values), _median(values), max(values)))
            yield f"{name}: {low} to {high}, median {middle}, {sum(values):.{digits}f} in all"
    for name in ("rate", "channels", "size"):
        if counts := Counter(str(row[name]) for row in rows if name in row):
            yield f"{name}: {_counts(counts)}"
    if peaks := [row["peak"] for row in rows if "peak" in row]:
        low, middle, high = (f"{_decibels(peak):.1f}" for peak in (min(peaks), _median(peaks), max(peaks)))
        yield f"peak: {low} to {high} dB, median {middle} dB"
        clipped = [row["file"] for row in rows if row.get("peak", 0.0) >= FULL_SCALE]
        yield f"clipped: {_named(clipped, 'at full scale')}"


def reasons(rows: Sequence[Row]) -> Iterator[str]:
    """How many files are left out for what reason, each reason with its first files."""
    why: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["status"] == "left out":
            why[str(row["why"]).partition(":")[0].replace(str(row.get("path")), "the file")].append(str(row["file"]))
    for reason, files in sorted(why.items(), key=lambda pair: -len(pair[1])):
        yield f"left out, {reason}: {_named(files)}"


def copies(rows: Sequence[Row]) -> Iterator[str]:
    """Files that are listed twice, and files of the same content."""
    seen: set[str] = set()
    twice = dict.fromkeys(row["file"] for row in rows if row["file"] in seen or seen.add(row["file"]))  # type: ignore[func-returns-value]
    yield f"listed twice: {_named(list(twice))}"
    groups = [group for group in _same_content(rows) if len(group) > 1]
    named = ["  =  ".join(str(row["file"]) for row in group) for group in groups]
    yield f"copies: {_named(named, 'of the same content')}"
    if leaks := sum({"training", "validation"} <= {row["part"] for row in group} for group in groups):
        yield f"copies across training and validation: {leaks}; what is held out has been trained on"


def histogram(rows: Sequence[Row]) -> Iterator[str]:
    """How many files have which length, as bars."""
    name, unit = ("seconds", " s") if any("seconds" in row for row in rows) else ("frames", "")
    values = [float(row[name]) for row in rows if name in row]
    if not values:
        return
    low, high = min(values), max(values)
    step = (high - low) / _BARS or 1.0
    bins = Counter(min(int((value - low) / step), _BARS - 1) for value in values)
    tallest = max(bins.values())
    for i in range(_BARS if high > low else 1):
        bar = "#" * math.ceil(_WIDTH * bins[i] / tallest)
        yield f"{low + i * step:8.2f}{unit} {bar} {bins[i]}"


def batches(schedule: InOneOrder | InBuckets, steps: int) -> Iterator[str]:
    """The batches of an epoch, by bucket."""
    if isinstance(schedule, InOneOrder):
        clips = schedule.order.length
        yield f"batches: {clips} clips in one order, {schedule.batch} a batch; {steps * schedule.batch / clips:.1f} epochs"
        return
    rows: list[Row] = [
        {
            "bucket": bucket.name,
            "clips": len(bucket.clips),
            "a batch": bucket.batch,
            "which cost": f"{bucket.batch * bucket.cost:.1f}",
            "batches": bucket.batches,
            "shown again": bucket.again,
        }
        for bucket in schedule.buckets
    ]
    yield from table(rows)
    clips = sum(len(bucket.clips) for bucket in schedule.buckets)
    yield f"batches: {clips} clips in {schedule.per_epoch} batches an epoch; {steps / schedule.per_epoch:.1f} epochs"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Rows in aligned columns, under a heading; numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names] + [[str(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    right = [all(not isinstance(row.get(name, 0), str) for row in rows) for name in names]
    for line in cells:
        aligned = (
            text.rjust(width) if r else text.ljust(width) for text, width, r in zip(line, widths, right, strict=True)
        )
        yield "  ".join(aligned).rstrip()


def save(rows: Sequence[Row], path: Path) -> None:
    """Every row, as CSV or JSONL. UsageError: the name ends otherwise."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"{path}: rows are written as CSV or JSONL; give a name that ends in .csv or .jsonl")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".jsonl":
            file.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


def _same_content(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of different files by their bytes; only files of one length are read."""
    by_length: dict[int, dict[tuple[str, int], Row]] = defaultdict(dict)
    for row in rows:
        path = Path(str(row.get("path", "")))
        if path.is_file():
            by_length[row.get("bytes", path.stat().st_size)].setdefault((str(path), row.get("offset", 0)), row)
    by_content: dict[tuple[int, bytes], list[Row]] = defaultdict(list)
    for length, found in by_length.items():
        for (path_, offset), row in found.items() if len(found) > 1 else ():
            by_content[length, _digest(Path(path_), offset, length)].append(row)
    return list(by_content.values())


def _digest(path: Path, offset: int, length: int) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        file.seek(offset)
        while length > 0 and (block := file.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
    return digest.digest()


def _named(names: Sequence[str], what: str = "") -> str:
    shown = "; ".join(names[:_NAMED]) + (f"; and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"{len(names)}{f' {what}' if what else ''}: {shown}" if names else "none"


def _counts(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda pair: -pair[1])
    rest = sum(count for _, count in most[8:])
    return ", ".join(f"{name} ({count})" for name, count in most[:8]) + (f", other ({rest})" if rest else "")


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _decibels(peak: float) -> float:
    return 20 * math.log10(max(peak, 1e-6))
