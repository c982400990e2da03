"""The file types of a modality, its own and those that plugins add."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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
        return {**self.modality.formats, **{k: v for k, v in added.items() if k not in self.modality.formats}}

    @property
    def clips_per_file(self) -> int | None:
        return self.modality.clips_per_file

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write a file of the type that its extension says."""
        if path.suffix.lower() in self.modality.formats:
            self.modality.write(clips, path, metadata)
        else:
            writer = registry().get("writer", self.name + path.suffix.lower()).load()
            writer(self.modality, clips, path, metadata)

    def sheet(self, clips: Sequence[Clip], path: Path, captions: Sequence[str] = ()) -> None:
        self.modality.sheet(clips, path, captions)
