"""Each stream as a distribution of its own, by the features that its medium is measured with alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from flowgen_audio.embedding import embed as embed_sound
from flowgen_video.embedding import embed as embed_picture
from torch import Tensor

from flowgen.core.ranges import Count
from flowgen.errors import UsageError
from flowgen.evaluation.distribution import Distribution
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better, Dataset
from flowgen_av.modality import AudioVideo

_EMBEDDINGS = {"picture": "random-convolution", "sound": "spectra"}


class StreamDistribution(Distribution):
    __doc__ = f"""{Distribution.__doc__}
        stream: picture or sound; its name begins that of each figure. Clips that lack it are left out.
        embedding: as of video-distribution and audio-distribution (but "recogniser").
    """

    better: ClassVar[Mapping[str, Better]] = {
        f"{stream}_{name}": value for stream in _EMBEDDINGS for name, value in Distribution.better.items()
    }

    def __init__(
        self,
        modality: AudioVideo,
        dataset: Dataset,
        stream: Literal["picture", "sound"],
        embedding: str | None = None,
        dimensions: Count = 32,
        pool: Count = 512,
    ) -> None:
        super().__init__(self._embed, dataset, dimensions, pool)
        self.modality, self.stream, self.embedding = modality, stream, embedding or _EMBEDDINGS[stream]

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        having = self._having(clips)
        if clips and not having:
            raise UsageError(f"no clip has a {self.stream}; take stream-distribution of it out of eval.metrics")
        return super().features(having)

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        return {f"{self.stream}_{name}": value for name, value in super().figures(found, reference).items()}

    def _having(self, clips: Sequence[Clip]) -> list[Clip]:
        return [clip for clip in clips if self.modality.stream_of(clip, self.stream) is not None]

    def _embed(self, clips: Sequence[Clip]) -> Tensor:
        own = [part for clip in clips if (part := self.modality.stream_of(clip, self.stream)) is not None]
        if self.stream == "picture":
            return embed_picture(own, self.embedding)
        return embed_sound(self.modality.sound, own, self.embedding)
