"""A folder of video files as a data set.

Options are read from signatures, so this module does without postponed annotations.
"""

from dataclasses import dataclass
from pathlib import Path

from flowgen.data.items import Item
from flowgen.data.sources import FolderSource
from flowgen_video.modality import Video
from flowgen_video.recordings import VideoRecordings


@dataclass(eq=False, repr=False)
class VideoFolder(FolderSource, VideoRecordings):
    """Every video file below a folder, and every folder of numbered pictures that holds no videos.

    The name of the sub-folder that a file lies in is the condition `label`; a text file of the same name beside it is the
    condition `caption`.

    Args:
        folder: where to look.
        pattern: a regular expression with named groups that a file's path below `folder`, without its extension, must
            match whole; each group is a label, in place of the folder's.
        columns: the labels that are conditions, by type (class, number or text); all of them where left out.
        held_out: the share of files that is held out for validation, chosen by name, or a rule by values of columns:
            {person: [7, 8]} holds out those in which every named column has one of its values. 0: none.
        max_bad_share: more unusable files than this share stop the run.
        stride: 0 for one clip a file and epoch; n for one every n frames.
        tolerance: frames that a file may be short of a clip.
        crop: which frames of a longer file are seen where stride is 0: random (held-out ones: the centre), start or centre.
        picture_rate: frames a second of folders of numbered pictures; by default that in their clip.json ({"fps": 25}), or
            else the modality's.
        cache: keep decoded frames in memory, which is faster where they fit.
        buckets: sizes such as "8x64x64" (frames, height, width), to one of which each training clip is brought: the one where
            it loses least. Validation, previews and evaluation use the modality's own.

    Raises UsageError where there is no such folder or nothing in it.
    """


def _recordings(root: Path) -> list[Item]:
    """What there is in a folder, before any file is looked into."""
    return list(VideoFolder(Video(), str(root), held_out=0).found.items)
