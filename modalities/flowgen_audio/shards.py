"""Recordings in tar shards, as the webdataset library writes them."""

from __future__ import annotations

from typing import Any

from flowgen.data.shards import read_shards, usual_conditions
from flowgen.errors import UsageError, unknown
from flowgen_audio.folder import SUFFIXES
from flowgen_audio.modality import Audio
from flowgen_audio.recordings import Checks, ConditionType, Recording, Recordings


class AudioShards(Recordings):
    """The recordings in tar files, where files of one key (0001.flac, 0001.json) are one sample.

    The fields of a .json file are columns; a .cls file is the column `label`, a .txt file the column `caption`. Nothing is
    unpacked: recordings are read where they lie.

    Args:
        shards: the tar files, as in "train-{000..012}.tar" or "shards/*.tar".
        conditions: columns that are conditions, by type (class, number or text); `label` as a class and `caption` as a text
            where left out and every sample has them.
        extension: of the file to decode, where samples have several sound files.
        held_out: values of columns whose recordings are for validation, as in {person: ["7", "8"]}.

    The other options are those of `audio-folder`.
    """

    def __init__(
        self,
        modality: Audio,
        shards: str,
        conditions: dict[str, ConditionType] | None = None,
        extension: str | None = None,
        held_out: dict[str, tuple[str, ...]] | None = None,
        validation_share: float = 0.1,
        max_bad_share: float = 0.02,
        silence_db: float = -60.0,
        min_duration_s: float = 0.05,
        loudness: float | None = None,
        pad: bool = False,
        duration_condition: bool = False,
        reference_by: str | None = None,
        buckets: int = 0,
    ) -> None:
        samples = read_shards(shards)
        columns = list(dict.fromkeys(name for sample in samples for name in sample.values))
        kinds: dict[str, Any] = usual_conditions(samples) if conditions is None else dict(conditions)
        for key, names in (
            ("conditions", kinds),
            ("held_out", held_out or {}),
            ("reference_by", [reference_by] if reference_by else []),
        ):
            for name in names:
                if name not in columns:
                    raise UsageError(f"data.{key}: {unknown(f'column of {shards}', name, columns)}")
        found = [(sample.media(SUFFIXES, extension), sample.values) for sample in samples]
        super().__init__(
            modality,
            [Recording(member, values) for member, values in found],
            kinds,
            held_out or {},
            validation_share,
            Checks(max_bad_share, silence_db, min_duration_s),
            loudness=loudness,
            pad=pad,
            duration_condition=duration_condition,
            reference_by=reference_by,
            buckets=buckets,
            where=str(found[0][0].shard.parent),
        )
