"""Clips with picture and sound from video files. What there is and what is kept of it is as for the modality `video`.

Options are read from signatures, so this module does without postponed annotations.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from flowgen_video.recordings import VideoRecordings

from flowgen.core.ranges import Share
from flowgen.data.items import Item
from flowgen.data.shards import Source
from flowgen.data.sources import FolderSource, TableSource
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen_av.modality import AudioVideo
from flowgen_av.reading import sound_at, sound_offset


@dataclass(eq=False, repr=False)
class AVRecordings(VideoRecordings):
    """What `av-folder` and `av-manifest` have in common; their options are described at the first."""

    modality: AudioVideo  # type: ignore[assignment]
    no_picture: Share = field(default=0.0, kw_only=True)
    no_sound: Share = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.no_picture + self.no_sound > 1:
            raise UsageError("data: the shares no_picture and no_sound are more than all clips")
        super().__post_init__()

    def examine(self, path: Source) -> dict[str, Any]:
        found = super().examine(path)
        if found.get("sound"):
            try:
                found["offset"] = sound_offset(path)
            except FlowgenError as error:
                return {"problem": str(error)}
        return found

    def decode(self, item: Item, window: int, rng: torch.Generator | None) -> Clip:
        picture, first = self.decoded(item, window, rng)
        facts, parts = self.facts[item.path], {"picture": picture}
        if facts["sound"]:
            samples = round(len(picture) / self.modality.fps * self.modality.sample_rate)
            parts["sound"] = sound_at(item.path, self.modality.sound, first, samples, facts["offset"])
            drawn = 1.0 if rng is None else float(torch.rand((), generator=rng))
            if self.part == "training" and drawn < self.no_picture + self.no_sound:
                del parts["picture" if drawn < self.no_picture else "sound"]
        rates = {"picture": self.modality.fps, "sound": float(self.modality.sample_rate)}
        return Clip(parts, {name: rates[name] for name in parts}, self.values(item), f"{item.path} from {first:.2f} s")

    def uncropped(self, index: int) -> Clip | None:
        return None

    def sizes(self) -> dict[str, Any]:
        found = super().sizes()
        found.pop("sound tracks", None)
        have = sum(bool(self.facts[item.path]["sound"]) for item in self.items)
        return {**found, "sound tracks": f"{have} of {len(self.items)} recordings have one"}


@dataclass(eq=False, repr=False)
class AVFolder(FolderSource, AVRecordings):
    """Every video file below a folder, with its sound; one without a sound track is a clip that lacks the stream.

    Args:
        folder: where to look; pattern, columns, held_out, max_bad_share, stride, tolerance, crop, picture_rate, cache and
            buckets are those of `video-folder`.
        no_picture: share of training clips that are shown without their picture.
        no_sound: share that are shown without their sound.

    Raises UsageError where there is no such folder or nothing in it.
    """


@dataclass(eq=False, repr=False)
class AVManifest(TableSource, AVRecordings):
    """The video files that a CSV, TSV, JSONL or Parquet file lists, with their sound.

    Args:
        manifest: the table, one file or segment a row; folder, file, start, duration, allow_outside, columns and the others
            are those of `video-manifest`, no_picture and no_sound those of `av-folder`.

    Raises UsageError for a table that cannot be read, or a column that is not in it.
    """
