"""The file types of a modality, its own and those that plugins add."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flowgen.media.interfaces import WritesSequences
from flowgen.plugins.registry import registry

if TYPE_CHECKING:
    from flowgen.media.clip import Clip
    from flowgen.media.interfaces import Modality


class Writer(Protocol):
    """A function that writes another file type of a modality."""

    def __call__(self, modality: Modality, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write clips (one, where the modality has one a file) with the metadata embedded."""


@dataclass(frozen=True)
class Media:
    """A modality by its name in the config, writing its own file types and those of the components of kind `writer`."""

    name: str
    modality: Modality

    @property
    def formats(self) -> dict[str, str]:
        """Media type by extension; the modality's own first."""
        added = {}
        for name in registry().names("writer"):
            modality, _, extension = name.partition(".")
            if modality == self.name:
                added[f".{extension}"] = mimetypes.guess_type(f"x.{extension}")[0] or "application/octet-stream"
        own = self.modality.formats
        return {**own, **{k: v for k, v in {**self._sequences, **added}.items() if k not in own}}

    @property
    def _sequences(self) -> Mapping[str, str]:
        return self.modality.sequences if isinstance(self.modality, WritesSequences) else {}

    def place(self, path: Path) -> Path:
        """What `write` makes of a name: that file, or a folder of pictures without the extension."""
        suffix = path.suffix.lower()
        own = suffix in self.modality.formats or self.name + suffix in registry().names("writer")
        return path.with_suffix("") if suffix in self._sequences and not own else path

    @property
    def clips_per_file(self) -> int | None:
        return self.modality.clips_per_file

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write what the extension says: a file, or a folder (see `place`)."""
        if path.suffix.lower() in self.modality.formats:
            self.modality.write(clips, path, metadata)
        elif (place := self.place(path)) != path:
            assert isinstance(self.modality, WritesSequences)
            (clip,) = clips
            self.modality.write_sequence(clip, place, path.suffix.lower(), metadata)
        else:
            writer = registry().get("writer", self.name + path.suffix.lower()).load()
            writer(self.modality, clips, path, metadata)

    def sheet(self, clips: Sequence[Clip], path: Path, captions: Sequence[str] = ()) -> None:
        self.modality.sheet(clips, path, captions)
