"""Files in the rows of a folder that the `datasets` library of Hugging Face wrote (extra: datasets)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, BinaryIO

from flowgen.errors import FlowgenError


@dataclass(frozen=True, order=True)
class Cell:
    """A file in a row of an Arrow table: what those who read a `Path` ask of it."""

    folder: Path
    column: str
    row: int
    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def absolute(self) -> Path:
        """A name that no other cell has; there is no file of it."""
        return self.folder.absolute() / f"{self.row}-{self.name}"

    def is_file(self) -> bool:
        return self.folder.is_dir()

    def is_dir(self) -> bool:
        return False

    def stat(self) -> Any:
        """Its size, and the time at which the folder was written."""
        state = (self.folder / "state.json").stat()
        return SimpleNamespace(st_size=self.size, st_mtime_ns=state.st_mtime_ns, st_ctime_ns=state.st_ctime_ns)

    def open(self, mode: str = "rb", buffering: int = -1) -> BinaryIO:
        return io.BytesIO(opened(self.folder).data.column(self.column)[self.row].as_py()["bytes"])


def opened(folder: Path) -> Any:
    """The rows of a folder. FlowgenError: it cannot be read."""
    state = folder / "state.json"
    return _loaded(str(folder.absolute()), state.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _loaded(folder: str, time: int) -> Any:
    try:
        import datasets
    except ImportError:
        raise FlowgenError(
            f"{folder}: reading it needs the datasets library: pip install 'flowgen[datasets]'"
        ) from None
    try:
        data = datasets.load_from_disk(folder)
        return data.flatten_indices(keep_in_memory=True) if data._indices is not None else data
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise FlowgenError(f"{folder}: cannot be read by the datasets library ({reason}); write it again") from error
