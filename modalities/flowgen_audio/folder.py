"""A folder of recordings: labels from the names of files or of folders.

Options are read from signatures, so this module does without postponed annotations.
"""

from dataclasses import dataclass

from flowgen.data.old_names import renamed
from flowgen.data.sources import FolderSource
from flowgen_audio import RENAMED
from flowgen_audio.recordings import AudioRecordings


@renamed(RENAMED)
@dataclass(eq=False, repr=False)
class AudioFolder(FolderSource, AudioRecordings):
    """Every sound file below `folder`.

    Files in sub-folders have one label, "label", the name of their folder; a text file beside a sound file is its "caption".

    Args:
        folder: relative to where the command runs.
        pattern: a regular expression with named groups that a file's path below `folder`, without its extension, must
            match whole; each group is a label, in place of the folder's.
        columns: the labels that are conditions, by type (class, number or text); all of them where left out.
        held_out: the share of recordings that is held out for validation, chosen by name, or values of columns, as in
            {take: ["0", "1"]}: those that have one of the values in every column. 0: none.
        max_bad_share: more unusable files than this share stop the run.
        silence_db: a file in which nothing is louder is silent, and left out (decibels below full scale).
        min_duration_s: what is shorter is left out.
        trim_db: leave out the beginning and the end of a recording in which nothing is louder than this (decibels below full
            scale, such as -50).
        loudness: bring every recording to this loudness (LUFS, such as -20).
        crop: which part of a longer recording is heard: random (held-out ones: the centre), start, centre, or onset (from
            shortly before the loudest rise).
        pad: fill clips up to modality.duration_s with silence; otherwise they have their true length.
        duration_condition: give the length in seconds as a condition, "duration".
        reference_by: a label, as in speaker: give each clip the condition "reference", another recording that has the same
            label, to learn to sound like a recording.
        buckets: batch clips with others of about their length, in so many groups of equally many clips (0: as they come).
            A batch of short clips has more of them, so that it costs what train.batch_size clips of full length cost.
    """
