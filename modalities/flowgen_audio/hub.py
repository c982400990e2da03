"""Recordings in a folder of the `datasets` library.

Options are read from signatures, so this module does without postponed annotations.
"""

from dataclasses import dataclass
from typing import ClassVar

from flowgen.data.hub import HubSource
from flowgen_audio.recordings import AudioRecordings


@dataclass(eq=False, repr=False)
class AudioHub(HubSource, AudioRecordings):
    """The recordings in a folder that the `datasets` library of Hugging Face wrote with `save_to_disk` (extra: datasets).

    Args:
        folder: of one data set or of one with splits.
        split: which of its splits; train where there is one by that name.
        column: of type Audio, where there are several.
        columns: columns that are conditions, by type (class, number or text); by default `label` and `caption`, where there
            are such.
        held_out: a share, or values of columns, as in {person: ["7", "8"]}.

    The other options are those of `audio-folder`.
    """

    feature: ClassVar[str] = "Audio"
