"""Sound as a distribution, against real recordings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from flowgen.core.ranges import Count, Integer
from flowgen.evaluation.distribution import Distribution
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset
from flowgen_audio.embedding import embed
from flowgen_audio.modality import Audio
from flowgen_audio.recogniser import Recogniser, recogniser


class AudioDistribution(Distribution):
    __doc__ = f"""{Distribution.__doc__}
        embedding: "spectra" (levels of mel bands at three resolutions, no weights from elsewhere); "recogniser" (the features
            of a recogniser of this data set's classes, trained here for `epochs`); the folder of a transformers model (CLAP,
            Whisper, HuBERT and the like); or one's own as package.module:attribute.
        epochs, seed: of the recogniser.
    """

    def __init__(
        self,
        modality: Audio,
        dataset: Dataset,
        embedding: str = "spectra",
        dimensions: Count = 32,
        pool: Count = 512,
        epochs: Count = 15,
        seed: Integer = 0,
    ) -> None:
        super().__init__(self._embed, dataset, dimensions, pool)
        self.modality, self.embedding, self.epochs, self.seed = modality, embedding, epochs, seed

    def _embed(self, clips: Sequence[Clip]) -> Tensor:
        if self.embedding == "recogniser":
            return self._recogniser.read(clips)[1]
        return embed(self.modality, clips, self.embedding)

    @cached_property
    def _recogniser(self) -> Recogniser:
        return recogniser(self.modality, self.dataset, self.epochs, self.seed)
