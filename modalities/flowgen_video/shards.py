"""Videos in tar shards, as the webdataset library writes them."""

from __future__ import annotations

from typing import Any

from flowgen.data.shards import read_shards, usual_conditions
from flowgen.errors import UsageError, unknown
from flowgen_video.modality import Video
from flowgen_video.reading import VIDEO_SUFFIXES
from flowgen_video.recordings import HeldOut, Kind, Recording, Recordings, Windows, split


class VideoShards(Recordings):
    """The videos in tar files, where files of one key (0001.mp4, 0001.json) are one sample.

    The fields of a .json file are columns; a .cls file is the column `label`, a .txt file the column `caption`. Nothing is
    unpacked: videos are read where they lie.

    Args:
        shards: the tar files, as in "train-{000..012}.tar" or "shards/*.tar".
        columns: which columns become conditions, as for a video-manifest; `label` and `caption` where every sample has them.
        extension: of the file to decode, where samples have several; zip is one of numbered pictures.
        held_out: the share of samples held out for validation, or a rule by column values, as for a video-manifest.
        stride, tolerance, cache, buckets, max_bad_share: as for a video-folder.
    """

    def __init__(
        self,
        modality: Video,
        shards: str,
        columns: dict[str, Kind] | None = None,
        extension: str | None = None,
        held_out: HeldOut = 0.1,
        stride: int = 0,
        tolerance: int = 1,
        cache: bool = False,
        buckets: tuple[str, ...] = (),
        max_bad_share: float = 0.5,
    ) -> None:
        samples = read_shards(shards)
        known = {name for sample in samples for name in sample.values}
        kinds: dict[str, Any] = usual_conditions(samples) if columns is None else dict(columns)
        for name in kinds:
            if name not in known:
                raise UsageError(f"data.columns: {unknown(f'column of {shards}', name, known)}")
        members = [sample.media(VIDEO_SUFFIXES, extension) for sample in samples]
        found = [Recording(m, f"{m.shard.name}/{m.name}", s.values) for m, s in zip(members, samples, strict=True)]
        kept, others = split(found, held_out, shards)
        super().__init__(
            modality,
            kept,
            others,
            kinds,
            Windows(modality.frames, stride, tolerance),
            cache,
            origin=shards,
            buckets=buckets,
            max_bad_share=max_bad_share,
        )
