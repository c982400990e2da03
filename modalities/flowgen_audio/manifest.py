"""A manifest of recordings: a table with a file on each line, and any columns as conditions.

Options are read from signatures, so this module does without postponed annotations.
"""

from dataclasses import dataclass, replace
from typing import Any

from flowgen.data.items import Found, Item
from flowgen.data.old_names import renamed
from flowgen.data.remote import below, place
from flowgen.data.sources import TableSource
from flowgen.data.tables import read_table
from flowgen_audio import RENAMED
from flowgen_audio.recordings import AudioRecordings
from flowgen_audio.reference import Excerpt

__all__ = ["AudioManifest", "read_table"]


@renamed(RENAMED)
@dataclass(eq=False, repr=False)
class AudioManifest(TableSource, AudioRecordings):
    """The recordings that a CSV, TSV, JSONL or Parquet file lists.

    Args:
        manifest: the table.
        folder: what file names are relative to; by default the folder that the table lies in.
        file: the column that names the file.
        start: the column with the second in which a segment begins, if the table lists segments.
        duration: the column with the length of a segment in seconds.
        allow_outside: let the table name files outside of its folder.
        columns: columns that are conditions, by type: class, number, text, or recording (a column that names another
            sound file, to sound like). By default `label` and `caption`, where there are such.
        held_out: a share, or values of columns, as in {person: ["7", "8"]}.

    The other options are those of `audio-folder`.
    """

    def find(self) -> Found:
        found = super().find()
        names = [name for name, kind in (self.columns or {}).items() if kind == "recording"]
        root = str(place(self.folder) if self.folder else place(self.manifest).parent)
        return (
            replace(found, items=[self._with_references(root, item, names) for item in found.items]) if names else found
        )

    def _with_references(self, root: str, item: Item, names: list[str]) -> Item:
        """An item whose references are where they lie; without one that is not there it cannot be used."""
        values: dict[str, Any] = dict(item.values)
        for name in names:
            if values.get(name) is None:
                continue
            path = below(root, str(values[name]), self.allow_outside, f"{self.manifest}: {item.key}")
            if not path.is_file():
                return replace(item, problem=item.problem or f"no reference: there is no file {path}, its {name!r}")
            values[name] = Excerpt(path)
        return replace(item, values=values)
