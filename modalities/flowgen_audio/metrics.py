"""Measures of generated sound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flowgen.core.ranges import Count, Positive
from flowgen.errors import UsageError
from flowgen.evaluation.features import FromFeatures, agreement, shares
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder
from flowgen.media.interfaces import Better, Dataset
from flowgen_audio.griffin_lim import spectral_convergence
from flowgen_audio.modality import Audio
from flowgen_audio.notes import Notes, note_frequency, note_name
from flowgen_audio.pitch import fundamental


@dataclass(frozen=True)
class NoteAccuracy(FromFeatures):
    """Is the note that was asked for the note that sounds?

    pitch: share of clips whose measured fundamental lies within `tolerance_cents` (50 is a quarter tone) of the pitch in
    their conditions; pitch_error_cents: median distance of those that are pitched at all. timbre: share in which a
    classifier of harmonics and envelope, trained here on `examples` real notes, hears the asked timbre.
    """

    modality: Audio
    dataset: Dataset
    tolerance_cents: Positive = 50.0
    examples: Count = 400

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, Notes):
            raise UsageError("metric 'note-accuracy' measures notes: expected data.type: notes")
        if self.tolerance_cents <= 0 or self.examples < 50:
            raise UsageError("metric 'note-accuracy': expected tolerance_cents > 0 and examples >= 50")

    judged = ("pitch", "timbre")
    better: ClassVar[Mapping[str, Better]] = {"pitch": "higher", "timbre": "higher", "pitch_error_cents": "lower"}

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Distance in cents from the asked pitch (not-a-number: none was asked), and whether the asked timbre is heard."""
        cents = [abs(pitch_error(c)) if c.conditions.get("pitch") is not None else math.nan for c in clips]
        asked = [clip.conditions.get("timbre") for clip in clips]
        heard = self._timbres(clips) if any(timbre is not None for timbre in asked) else asked
        return {"cents": torch.tensor(cents, dtype=torch.float64), "timbre": agreement(heard, asked)}

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        """Figures over the clips that were asked for a pitch, and over those that were asked for a timbre."""
        out: dict[str, float] = {}
        cents = found["cents"][~found["cents"].isnan()]
        if len(cents):
            out["pitch"] = float((cents <= self.tolerance_cents).double().mean())
            measured = cents[cents.isfinite()]
            out["pitch_error_cents"] = float(measured.quantile(0.5)) if len(measured) else math.inf
        return out | shares({"timbre": found["timbre"]})

    def readings(self, clips: Sequence[Clip]) -> list[dict[str, str]]:
        """The nearest note, its timbre, and the fundamental of each clip."""
        found = [fundamental(c.data, self.modality.sample_rate) for c in clips]  # type: ignore[arg-type]
        return [
            {
                "pitch": note_name(round(69 + 12 * math.log2(f / 440))) if math.isfinite(f) else "none",
                "timbre": timbre,
                "fundamental": f"{f:.1f} Hz" if math.isfinite(f) else "none",
            }
            for f, timbre in zip(found, self._timbres(clips), strict=True)
        ]

    def _timbres(self, clips: Sequence[Clip]) -> list[str]:
        return list(self._classifier.predict(self._features(clips)))

    @cached_property
    def _classifier(self) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        real = [self.dataset.clip(i, 0) for i in range(self.examples)]
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        return classifier.fit(self._features(real), [clip.conditions["timbre"] for clip in real])

    def _features(self, clips: Sequence[Clip]) -> np.ndarray:
        return torch.stack([note_features(c.data, self.modality.sample_rate) for c in clips]).numpy()  # type: ignore[arg-type]


@dataclass(frozen=True)
class SpectralConvergence(FromFeatures):
    """What the encoder itself loses: || |S| - |R| || / || |S| ||, of the spectra S of clips and R of the same encoded and
    decoded, averaged over clips. 0 is exact. The column of the real clips is the one to look at; no generator behind this
    encoder sounds better than that. Windows of about `window_s` seconds, a quarter apart.
    """

    modality: Audio
    encoder: Encoder
    window_s: Positive = 0.032

    def __post_init__(self) -> None:
        if not 0.001 <= self.window_s <= 1:
            raise UsageError(f"metric 'spectral-convergence': expected window_s from 0.001 to 1, got {self.window_s:g}")

    better: ClassVar[Mapping[str, Better]] = {"spectral_convergence": "real"}

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """The loss of each clip; not-a-number for silence."""
        n = 1 << round(math.log2(self.window_s * self.modality.sample_rate))
        window, errors = torch.hann_window(n), []
        for start in range(0, len(clips), 16):
            part = clips[start : start + 16]
            with torch.no_grad():
                decoded = self.encoder.decode(self.encoder.encode(part))
            for clip, again in zip(part, decoded, strict=True):
                size = min(clip.data.shape[-1], again.data.shape[-1])  # type: ignore[union-attr]
                real, made = (c.data[..., :size].float().cpu() for c in (clip, again))  # type: ignore[index]
                errors.append(spectral_convergence(made, real, window, n // 4) if real.any() else math.nan)
        return {"loss": torch.tensor(errors, dtype=torch.float64)}

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        loss = found["loss"][~found["loss"].isnan()]
        return {"spectral_convergence": float(loss.mean())} if len(loss) else {}


def pitch_error(clip: Clip) -> float:
    """Distance in cents of the measured fundamental from the asked pitch; infinite where nothing is pitched."""
    assert isinstance(clip.rate, (int, float))
    found = fundamental(clip.data, int(clip.rate))  # type: ignore[arg-type]
    return 1200 * math.log2(found / note_frequency(str(clip.conditions["pitch"]))) if math.isfinite(found) else math.inf


def note_features(samples: Tensor, rate: int) -> Tensor:
    """Timbre in 20 numbers: 8 harmonics early and late relative to the strongest (dB), level in quarters (dB).

    Harmonics of the measured fundamental, so that the features say nothing about pitch or loudness.
    """
    mono = samples.float().mean(0)
    frequency = fundamental(samples, rate)
    frequency = frequency if math.isfinite(frequency) else 440.0
    quarters = mono[: len(mono) // 4 * 4].reshape(4, -1)
    level = 10 * quarters.square().mean(1).clamp(min=1e-9).log10()
    harmonics = []
    for part in (quarters[0], quarters[1]):
        spectrum = torch.fft.rfft(part * torch.hann_window(len(part)), 4 * len(part)).abs()
        bins = torch.arange(1, 9) * frequency / rate * 4 * len(part)
        peaks = [
            spectrum[max(int(b) - 8, 0) : int(b) + 9].max() if b < len(spectrum) else torch.zeros(()) for b in bins
        ]
        decibels = 20 * torch.stack(peaks).clamp(min=1e-7).log10()
        harmonics.append((decibels - decibels.max()).clamp(min=-60))
    return torch.cat([*harmonics, (level - level.max()).clamp(min=-60)])
