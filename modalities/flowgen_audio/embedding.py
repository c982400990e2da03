"""What clips sound like, as vectors: for distances between distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from flowgen.errors import FlowgenError
from flowgen.media.clip import Clip
from flowgen.media.embedding import find_embedding, load_model
from flowgen_audio.encoders import mel_filters
from flowgen_audio.modality import Audio

BUILT_IN = ("spectra", "recogniser")
ClipEmbedding: TypeAlias = Callable[[Tensor, int], Tensor]
"""Samples [C, T] and their rate to features [D]."""

_WINDOWS_S, _BANDS, _FLOOR_DB = (0.008, 0.032, 0.128), 24, -80.0


def embed(modality: Audio, clips: Sequence[Clip], name: str) -> Tensor:
    """Features [N, D], float32, of "spectra", of a transformers model in a folder, or of an embedding of one's own as
    "package.module:attribute": called without arguments, it gives a ClipEmbedding.

    Raises UsageError for a name that is none of these, FlowgenError where there is no clip or the model cannot be loaded.
    """
    if not clips:
        raise FlowgenError("there are no clips to measure")
    if name == "spectra":
        one: ClipEmbedding = spectra
    else:
        found = find_embedding(name, BUILT_IN)
        one = _Pretrained(found) if isinstance(found, Path) else found
    with torch.inference_mode():
        return torch.stack([one(clip.data.float().cpu(), modality.sample_rate) for clip in clips]).float().clone()  # type: ignore[union-attr]


def spectra(samples: Tensor, rate: int) -> Tensor:
    """Log-mel bands at three resolutions (windows of 8, 32 and 128 ms): of each band the mean in time, the deviation, and the
    mean change from frame to frame, in decibels.

    Short windows see attacks and how sharp they are, long ones what lies between harmonics: a distribution that is right at
    one resolution alone is told from the real one.
    """
    mono = samples.mean(0)
    out = []
    for seconds in _WINDOWS_S:
        window = max(16, 1 << round(math.log2(seconds * rate)))
        padded = F.pad(mono, (0, max(0, 2 * window - len(mono))))
        power = torch.stft(padded, window, window // 2, window=torch.hann_window(window), return_complex=True).abs()
        bands = mel_filters(window // 2 + 1, _BANDS, rate, 50.0) @ power / window
        level = 20 * bands.clamp(min=10 ** (_FLOOR_DB / 20)).log10()
        out += [level.mean(1), level.std(1), level.diff(dim=1).abs().mean(1)]
    return torch.cat(out)


class _Pretrained:
    """CLAP's audio tower, Whisper's encoder, or any model of waveforms (wav2vec 2.0, HuBERT, AST): its last states, averaged."""

    def __init__(self, folder: Path) -> None:
        self.model, self.extractor = load_model(folder, "audio")

    def __call__(self, samples: Tensor, rate: int) -> Tensor:
        import torchaudio

        wanted = int(self.extractor.sampling_rate)
        wave = torchaudio.functional.resample(samples.mean(0), rate, wanted)
        inputs: dict[str, Any] = dict(self.extractor(wave.numpy(), sampling_rate=wanted, return_tensors="pt"))
        kind = str(self.model.config.model_type)
        if kind == "clap":
            out = self.model.get_audio_features(**inputs)
            return out[0] if isinstance(out, Tensor) else out.pooler_output[0]
        if kind == "whisper":
            return self.model.encoder(inputs["input_features"]).last_hidden_state[0].mean(0)
        return self.model(**inputs).last_hidden_state[0].mean(0)
