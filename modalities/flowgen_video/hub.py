"""Videos in a folder of the `datasets` library.

Options are read from signatures, so this module does without postponed annotations.
"""

from dataclasses import dataclass
from typing import ClassVar

from flowgen.data.hub import HubSource
from flowgen_video.recordings import VideoRecordings


@dataclass(eq=False, repr=False)
class VideoHub(HubSource, VideoRecordings):
    """The videos in a folder that the `datasets` library of Hugging Face wrote with `save_to_disk` (extra: datasets).

    Args:
        folder: of one data set or of one with splits.
        split: which of its splits; train where there is one by that name.
        column: of type Video, where there are several.
        columns: columns that are conditions, by type (class, number or text); by default `label` and `caption`, where there
            are such.
        held_out: a share, or values of columns, as in {person: ["7", "8"]}.
        max_bad_share, stride, tolerance, crop, picture_rate, cache, buckets: as for a video-folder.
    """

    feature: ClassVar[str] = "Video"
