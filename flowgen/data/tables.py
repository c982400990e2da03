"""Tables: CSV, TSV, JSONL and Parquet, read in one way for every modality.

The policy: UTF-8 with or without a byte order mark, UTF-16 with one. CSV is quoted as RFC 4180 says, with fields up to 16 MiB;
every row has as many fields as the heading. JSONL has one object a line, and lines end at newlines alone (U+2028 is a
character). An empty field and a NaN are both "no value", None. What does not fit is refused with its line.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowgen.data.remote import Remote
from flowgen.errors import FlowgenError, UsageError

FORMATS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
LONGEST_FIELD = 1 << 24
Row = dict[str, Any]


def read_table(path: Path | Remote) -> list[Row]:
    """The rows of a table, by column. UsageError: there is no such table; FlowgenError: it cannot be read, and where."""
    if not path.is_file():
        raise UsageError(f"data.manifest: there is no file {path}")
    match path.suffix.lower():
        case ".jsonl" | ".json":
            rows = _json(path)
        case ".csv":
            rows = _csv(path, ",")
        case ".tsv":
            rows = _csv(path, "\t")
        case ".parquet":
            rows = _parquet(path)
        case _:
            raise UsageError(f"data.manifest: cannot read {path.name}; expected a name in {', '.join(FORMATS)}")
    alike = _Alike()
    found = [{name: alike(cleaned(value)) for name, value in row.items()} for row in rows]
    if not found:
        raise UsageError(f"data.manifest: {path} has no rows")
    return found


class _Alike:
    """One string for all that are equal, so that a million rows with few labels hold few."""

    _MOST = 100_000

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if len(self._known) >= self._MOST:
            return self._known.get(value, value)
        return self._known.setdefault(value, value)


def read_text(path: Path | Remote) -> str:
    """A text file of a stranger. FlowgenError: it cannot be read, or is in no encoding that can be told."""
    try:
        return decode_text(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FlowgenError(f"{path}: cannot be read as UTF-8 text ({_reason(error)}); save it as UTF-8") from error


def decode_text(content: bytes) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one. UnicodeDecodeError: it is neither."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig")


def cleaned(value: Any) -> Any:
    """None for an empty field and for a NaN, which is how pandas writes one."""
    nothing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    return None if nothing else value


def _csv(path: Path | Remote, separator: str) -> Iterator[Row]:
    lines = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=separator, strict=True)
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        names = [name.strip() or f"column {i}" for i, name in enumerate(next(lines, []), 1)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise FlowgenError(
                f"{path}: the heading names {', '.join(twice)} twice; give each column a name of its own"
            )
        for fields in lines:
            if not fields:
                continue  # an empty line
            if len(fields) != len(names):
                raise FlowgenError(
                    f"{path}:{lines.line_num}: {len(fields)} fields, another number of fields than the heading has "
                    f"({len(names)}); put values that hold {separator!r} in double quotes"
                )
            yield dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise FlowgenError(f"{path}:{lines.line_num}: cannot be read as {path.suffix[1:].upper()} ({error})") from error
    finally:
        csv.field_size_limit(before)


def _json(path: Path | Remote) -> Iterator[Row]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip(" \t\r"):
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FlowgenError(f"{path}:{number}: not JSON ({_reason(error)}); expected one object a line") from error
        if not isinstance(row, dict):
            raise FlowgenError(f"{path}:{number}: expected an object with a key for each column, got {line[:40]!r}")
        yield row


def _parquet(path: Path | Remote) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise FlowgenError(
            f"{path}: reading Parquet needs pyarrow: pip install 'flowgen[parquet]', or use JSONL or CSV"
        ) from error
    try:
        with path.open("rb") as content, parquet.ParquetFile(content) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise FlowgenError(f"{path}: cannot be read as Parquet ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
