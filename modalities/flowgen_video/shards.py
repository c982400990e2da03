"""Videos in tar shards, as the webdataset library writes them.

Options are read from signatures, so this module does without postponed annotations.
"""

from dataclasses import dataclass

from flowgen.data.sources import ShardSource
from flowgen_video.recordings import VideoRecordings


@dataclass(eq=False, repr=False)
class VideoShards(ShardSource, VideoRecordings):
    """The videos in tar files, where files of one key (0001.mp4, 0001.json) are one sample.

    The fields of a .json file are columns; a .cls file is the column `label`, a .txt file the column `caption`. Nothing is
    unpacked: videos are read where they lie.

    Args:
        shards: the tar files, as in "train-{000..012}.tar" or "shards/*.tar".
        columns: which columns become conditions, as for a video-manifest; by default `label` and `caption`.
        extension: of the file to decode, where samples have several; zip is one of numbered pictures.
        held_out: a share, or a rule by values of columns, as for a video-folder.
        max_bad_share, stride, tolerance, crop, picture_rate, cache, buckets: as for a video-folder.
    """
