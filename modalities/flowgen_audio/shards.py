"""Recordings in tar shards, as the webdataset library writes them.

Options are read from signatures, so this module does without postponed annotations.
"""

from dataclasses import dataclass

from flowgen.data.old_names import renamed
from flowgen.data.sources import ShardSource
from flowgen_audio import RENAMED
from flowgen_audio.recordings import AudioRecordings


@renamed(RENAMED)
@dataclass(eq=False, repr=False)
class AudioShards(ShardSource, AudioRecordings):
    """The recordings in tar files, where files of one key (0001.flac, 0001.json) are one sample.

    The fields of a .json file are columns; a .cls file is the column `label`, a .txt file the column `caption`. Nothing is
    unpacked: recordings are read where they lie.

    Args:
        shards: the tar files, as in "train-{000..012}.tar" or "shards/*.tar".
        columns: columns that are conditions, by type (class, number or text); by default `label` and `caption`, where there
            are such.
        extension: of the file to decode, where samples have several sound files.
        held_out: a share, or values of columns, as in {person: ["7", "8"]}.

    The other options are those of `audio-folder`.
    """
