"""A list of video files with what is known about them, as a data set.

Options are read from signatures, so this module does without postponed annotations.
"""

from dataclasses import dataclass

from flowgen.data.sources import TableSource
from flowgen.data.tables import read_table as read_rows
from flowgen_video.recordings import VideoRecordings

__all__ = ["VideoManifest", "read_rows"]


@dataclass(eq=False, repr=False)
class VideoManifest(TableSource, VideoRecordings):
    """The files that a CSV, TSV, JSONL or Parquet file lists.

    Args:
        manifest: the table, one file or segment a row.
        folder: what file names are relative to; by default the folder that the table lies in.
        file: the column that names the file.
        start: the column with the second in which a segment begins, if the table lists segments.
        duration: the column with the length of a segment in seconds.
        allow_outside: let the table name files outside of its folder.
        columns: which columns become conditions: {label: class, caption: text, age: number}. By default those named
            `label` and `caption`, where there are such.
        held_out: a share, or a rule by values of columns, as for a video-folder.
        max_bad_share, stride, tolerance, crop, picture_rate, cache, buckets: as for a video-folder.

    Raises UsageError for a table that cannot be read, or a column that is not in it.
    """
