"""A list of video files with what is known about them, as a data set."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen_video.modality import Video
from flowgen_video.recordings import HeldOut, Kind, Recording, Recordings, Windows, split


class VideoManifest(Recordings):
    """The files that a manifest lists: JSONL or CSV (with a head line), or Parquet where pyarrow is installed.

    Args:
        manifest: the list, one file a row.
        folder: what file names are relative to; by default the folder that the manifest lies in.
        file: the column that names the file.
        columns: which columns become conditions: {label: class, caption: text, age: number}. By default those named
            `label` and `caption`, where there are such.
        held_out: the share of files held out for validation, chosen by name, or a rule by column values: {person: [7, 8]}
            holds out the rows in which every named column has one of its values.
        stride, tolerance, cache, buckets, max_bad_share: as for a video-folder.

    Raises UsageError for a manifest that cannot be read, or a column that is not in it.
    """

    def __init__(
        self,
        modality: Video,
        manifest: str,
        folder: str | None = None,
        file: str = "file",
        columns: dict[str, Kind] | None = None,
        held_out: HeldOut = 0.1,
        stride: int = 0,
        tolerance: int = 1,
        cache: bool = False,
        buckets: tuple[str, ...] = (),
        max_bad_share: float = 0.5,
    ) -> None:
        path = Path(manifest).expanduser()
        rows = read_rows(path)
        known = {name for row in rows for name in row}
        if columns is None:
            usual: dict[str, Kind] = {"label": "class", "caption": "text"}
            columns = {name: kind for name, kind in usual.items() if name in known}
        for name in (file, *columns):
            if name not in known:
                raise UsageError(f"{path}: {unknown('column', name, known)}")
        root = Path(folder).expanduser() if folder else path.parent
        found = []
        for number, row in enumerate(rows, 1):
            if not row.get(file):
                raise UsageError(f"{path}: row {number} has no {file!r}")
            found.append(Recording(root / str(row[file]), str(row[file]), row))
        kept, others = split(found, held_out, str(path))
        super().__init__(
            modality,
            kept,
            others,
            columns,
            Windows(modality.frames, stride, tolerance),
            cache,
            origin=str(path),
            buckets=buckets,
            max_bad_share=max_bad_share,
        )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL, CSV or Parquet file. UsageError: no such file, or not that."""
    try:
        match path.suffix.lower():
            case ".jsonl" | ".json":
                rows = list(_json_rows(path))
            case ".csv" | ".tsv":
                with path.open(encoding="utf-8", newline="") as lines:
                    rows = list(csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
            case ".parquet":
                rows = _parquet_rows(path)
            case suffix:
                raise UsageError(
                    f"{path}: a manifest is a .jsonl, .csv, .tsv or .parquet file, not {suffix or 'without extension'!r}"
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path}: the manifest cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
    if not rows:
        raise UsageError(f"{path}: the manifest has no rows")
    return rows


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UsageError(
                    f"{path}, line {number}: not JSON ({error.msg}); one object a line is expected"
                ) from None
            if not isinstance(row, dict):
                raise UsageError(f"{path}, line {number}: expected an object with a key for each column")
            rows.append(row)
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise FlowgenError(
            f"{path}: reading Parquet needs pyarrow; pip install 'flowgen[parquet]', or use JSONL or CSV"
        ) from None
    try:
        return parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise UsageError(f"{path}: the manifest cannot be read ({error})") from error
