"""A manifest of recordings: a table with a file on each line, and any columns as conditions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen_audio.modality import Audio
from flowgen_audio.recordings import Checks, ConditionType, Recording, Recordings
from flowgen_audio.reference import Excerpt

FORMATS = (".jsonl", ".csv", ".tsv", ".parquet")


class AudioManifest(Recordings):
    """The recordings that a JSONL, CSV, TSV or Parquet file lists, paths relative to it.

    Args:
        manifest: the table.
        conditions: columns that are conditions, by type: class, number, text, or recording (a column that names
            another sound file, relative to the table, to sound like).
        file: the column that names the file.
        start: the column with the second in which a segment begins, if the table lists segments.
        duration: the column with the length of a segment in seconds.
        held_out: values of columns whose recordings are for validation, as in {person: ["7", "8"]}.

    The other options are those of `audio-folder`.
    """

    def __init__(
        self,
        modality: Audio,
        manifest: str,
        conditions: dict[str, ConditionType] | None = None,
        file: str = "file",
        start: str | None = None,
        duration: str | None = None,
        held_out: dict[str, tuple[str, ...]] | None = None,
        validation_share: float = 0.1,
        max_bad_share: float = 0.02,
        silence_db: float = -60.0,
        min_duration_s: float = 0.05,
        loudness: float | None = None,
        pad: bool = False,
        duration_condition: bool = False,
        reference_by: str | None = None,
        buckets: int = 0,
    ) -> None:
        path = Path(manifest)
        rows = read_table(path)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        asked: dict[str, Iterable[str | None]] = {
            "file": [file],
            "start": [start],
            "duration": [duration],
            "conditions": conditions or (),
            "held_out": held_out or (),
            "reference_by": [reference_by],
        }
        for key, names in asked.items():
            for name in names:
                if name is not None and name not in columns:
                    raise UsageError(f"data.{key}: {unknown(f'column of {manifest}', name, columns)}")
        super().__init__(
            modality,
            [
                _recording(path, i + 1, _with_references(path, i + 1, row, conditions or {}), file, start, duration)
                for i, row in enumerate(rows)
            ],
            conditions or {},
            held_out or {},
            validation_share,
            Checks(max_bad_share, silence_db, min_duration_s),
            loudness=loudness,
            pad=pad,
            duration_condition=duration_condition,
            reference_by=reference_by,
            buckets=buckets,
            where=manifest,
        )


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table; empty fields are None. Raises FlowgenError for a file that is missing or no such table."""
    if not path.is_file():
        raise UsageError(f"data.manifest: there is no file {path}")
    match path.suffix.lower():
        case ".jsonl":
            rows = [_json_row(path, i + 1, line) for i, line in enumerate(_lines(path)) if line.strip()]
        case ".csv" | ".tsv":
            separator = "," if path.suffix.lower() == ".csv" else "\t"
            rows = [dict(row) for row in csv.DictReader(_lines(path), delimiter=separator, restkey="")]
            for i, row in enumerate(rows):
                if "" in row or None in row.values():
                    raise FlowgenError(f"{path}: row {i + 1} has another number of fields than the heading")
        case ".parquet":
            rows = _parquet(path)
        case _:
            raise UsageError(f"data.manifest: cannot read {path.name}; expected a name in {', '.join(FORMATS)}")
    if not rows:
        raise UsageError(f"data.manifest: {path} lists nothing")
    return [{name: None if value == "" else value for name, value in row.items()} for row in rows]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FlowgenError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise FlowgenError(f"{path}:{number}: this line is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise FlowgenError(f"{path}:{number}: expected an object with a field for each column, got {line[:40]!r}")
    return row


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise FlowgenError(f"{path}: reading Parquet needs pyarrow; install it with: pip install pyarrow") from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise FlowgenError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


def _recording(
    manifest: Path, number: int, row: Mapping[str, Any], file: str, start: str | None, duration: str | None
) -> Recording:
    if row.get(file) is None:
        raise FlowgenError(f"{manifest}: row {number} names no file in the column {file!r}")

    def seconds(column: str | None) -> float | None:
        value = row.get(column) if column is not None else None
        if value is None:
            return None
        try:
            number_ = float(value)
        except (TypeError, ValueError):
            number_ = -1.0
        if not 0 <= number_ < float("inf"):
            raise FlowgenError(f"{manifest}: row {number}: expected seconds in {column!r}, found {value!r}")
        return number_

    return Recording(manifest.parent / str(row[file]), row, seconds(start) or 0.0, seconds(duration))


def _with_references(
    manifest: Path, number: int, row: Mapping[str, Any], conditions: Mapping[str, ConditionType]
) -> dict[str, Any]:
    """A row whose references are where they lie. FlowgenError: there is no such file."""
    found = {
        name: Excerpt(manifest.parent / str(row[name]))
        for name, kind in conditions.items()
        if kind == "recording" and row.get(name) is not None
    }
    for name, excerpt in found.items():
        if not excerpt.path.is_file():
            raise FlowgenError(f"{manifest}: row {number}: there is no file {excerpt.path}, the {name!r} of this row")
    return {**row, **found}
