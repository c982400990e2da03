"""A folder that the `datasets` library of Hugging Face wrote with `save_to_disk` (extra: datasets).

Options are read from signatures, so this module does without postponed annotations.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from flowgen.data.cells import Cell, opened
from flowgen.data.items import USUAL, Found, Item, named
from flowgen.data.tables import cleaned
from flowgen.errors import UsageError, unknown


@dataclass(eq=False, repr=False)
class HubSource:
    """The rows of a folder of the `datasets` library: files in a column of type Audio, Image or Video, the others being labels."""

    folder: str
    split: str | None = None
    column: str | None = field(default=None, kw_only=True)
    locations: ClassVar[tuple[str, ...]] = ("folder",)
    feature: ClassVar[str]
    """The type of the column of files, as the library calls it."""

    def find(self) -> Found:
        folder = self._part()
        data = opened(folder)
        media = [name for name, feature in data.features.items() if type(feature).__name__ == self.feature]
        name = self.column or (media[0] if len(media) == 1 else "")
        if name not in media:
            raise UsageError(
                f"data.column: expected the one column of type {self.feature} of {folder}, "
                + (unknown("column", name, media) if name else f"which has {', '.join(media) or 'none'}; name it")
            )
        values, left = _values(data, name)
        files = data.data.column(name)
        items = _items(
            folder, name, files, [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        )
        notes = [f"columns of lists and files: {named(left)}"] if left else []
        return Found(items, str(folder), list(values), {n: kind for n, kind in USUAL.items() if n in values}, notes)

    def _part(self) -> Path:
        """The folder of the rows: of a split where there are several."""
        root = Path(self.folder).expanduser()
        if (root / "dataset_dict.json").is_file():
            splits = sorted(path.name for path in root.iterdir() if (path / "state.json").is_file())
            chosen = self.split or ("train" if "train" in splits else "")
            if chosen not in splits:
                raise UsageError(f"data.split: {unknown(f'split of {root}', chosen, splits)}")
            return root / chosen
        if not (root / "state.json").is_file():
            raise UsageError(
                f"data.folder: {root} was not written by save_to_disk of the datasets library; give one that was"
            )
        if self.split is not None:
            raise UsageError(f"data.split: {root} is one data set without splits; leave it out")
        return root


def _values(data: Any, media: str) -> tuple[dict[str, list[Any]], list[str]]:
    """The columns of plain values, with the names of classes; and those of other kinds."""
    plain = {
        name: feature
        for name, feature in data.features.items()
        if type(feature).__name__ == "ClassLabel" or (type(feature).__name__ == "Value" and feature.dtype != "binary")
    }
    left = [name for name in data.features if name not in plain and name != media]
    found = {}
    for name, feature in plain.items():
        values = data.data.column(name).to_pylist()
        if type(feature).__name__ == "ClassLabel":
            values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
        found[name] = [cleaned(value) for value in values]
    return found or {"row": list(range(len(data)))}, left


def _items(folder: Path, column: str, files: Any, rows: list[dict[str, Any]]) -> list[Item]:
    """An item for each row; its key is the name of its file where every row has one of its own."""
    from pyarrow import compute

    names = compute.struct_field(files, "path").to_pylist()
    sizes = compute.binary_length(compute.struct_field(files, "bytes")).to_pylist()
    own = None not in names and len(set(names)) == len(names)
    items = []
    for row, (name, size, values) in enumerate(zip(names, sizes, rows, strict=True)):
        key = name if own else f"{row:08d}{PurePosixPath(name or '').suffix}"
        if size:
            items.append(Item(key, Cell(folder, column, row, os.path.basename(name or key), size), values))
        elif name is not None and size is None:  # it was saved by name
            items.append(Item(key, Path(name), values))
        else:
            items.append(Item(key, folder, values, problem=f"no file: row {row} of {folder} holds none"))
    return items
