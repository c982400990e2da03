"""The audio modality: clips are float32 [channels, samples] in [-1, 1] at one sample rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgen.core.ranges import Count, Positive
from flowgen.data.shards import Source
from flowgen.errors import UsageError
from flowgen.files import replacing
from flowgen.media.clip import Clip
from flowgen_audio.conversion import mixed, resampled
from flowgen_audio.media import GROWING, MEDIA_TYPES, read_samples, write_growing, write_samples
from flowgen_audio.survey import scale_of


@dataclass(frozen=True)
class Audio:
    """Sound at `sample_rate` samples a second in 1 or 2 channels; `duration_s` is the length of a fixed-length clip."""

    sample_rate: Count = 16000
    channels: Count = 1
    duration_s: Positive = 1.0

    formats = MEDIA_TYPES
    growing = GROWING
    clips_per_file = 1
    shows_pictures = False

    def __post_init__(self) -> None:
        if self.sample_rate < 1000:
            raise UsageError(f"modality.sample_rate: expected at least 1000 samples a second, got {self.sample_rate}")
        if self.channels not in (1, 2):
            raise UsageError(f"modality.channels: expected 1 (mono) or 2 (stereo), got {self.channels}")
        if self.duration_s <= 0:
            raise UsageError(f"modality.duration_s: expected a positive number of seconds, got {self.duration_s:g}")

    @property
    def samples(self) -> int:
        """Samples of a clip of `duration_s`."""
        return round(self.duration_s * self.sample_rate)

    def read(self, path: Source, start_s: float = 0.0, duration_s: float | None = None) -> Clip:
        """A file, or `duration_s` seconds of it from `start_s`, in this rate and these channels.

        Raises FlowgenError: the file is missing, empty, no sound, or shorter than `start_s`.
        """
        clip = self.read_raw(path, start_s, duration_s)
        data = clip.data
        assert isinstance(data, Tensor)
        return replace(clip, data=self.limit(data * scale_of(float(data.abs().max()))))

    def read_raw(self, path: Source, start_s: float = 0.0, duration_s: float | None = None) -> Clip:
        """The same at the level of the file, which may lie beyond full scale: for those who change it."""
        samples, rate = read_samples(Path(path) if isinstance(path, str) else path, start_s, duration_s)
        return Clip(self.convert(samples, rate), self.sample_rate, source=str(path))

    def convert(self, samples: Tensor, rate: int) -> Tensor:
        """Samples [channels, n] of any rate and number of channels in this format; levels stay as they are."""
        samples = mixed(samples, self.channels)
        return resampled(samples, rate, self.sample_rate).contiguous()

    @staticmethod
    def limit(samples: Tensor) -> Tensor:
        """Samples within full scale: what lies beyond turns all of them down, and nothing is cut off."""
        return samples / samples.abs().max().clamp(min=1.0) if samples.numel() else samples

    def seconds(self, clip: Clip) -> float:
        """How long a clip is."""
        return clip.data.shape[-1] / self.sample_rate  # type: ignore[union-attr]

    def cut(self, clip: Clip, start_s: float, end_s: float) -> Clip:
        """The part of a clip between two times."""
        start, end = (round(s * self.sample_rate) for s in (start_s, end_s))
        return replace(clip, data=clip.data[..., start:end])  # type: ignore[index]

    def join(self, clips: Sequence[Clip]) -> Clip:
        """Clips one after the other."""
        return replace(clips[0], data=torch.cat([clip.data for clip in clips], -1))  # type: ignore[misc]

    def normalise(self, clip: Clip) -> Clip:
        """The clip scaled to a peak of -1 dB of full scale; silence stays silence."""
        data = clip.data
        assert isinstance(data, Tensor)
        peak = float(data.abs().max()) if data.numel() else 0.0
        return replace(clip, data=data * (10 ** (-1 / 20) / peak)) if peak > 0 else clip

    def level(self, clip: Clip) -> float:
        """Root mean square in dB of full scale; minus infinity for silence."""
        power = float(clip.data.square().mean()) if clip.data.numel() else 0.0  # type: ignore[union-attr]
        return 10 * math.log10(power) if power > 0 else -math.inf

    def at_full_scale(self, clip: Clip) -> float:
        """The share of its samples that are at full scale."""
        return float((clip.data.abs() >= 1 - 2**-15).float().mean()) if clip.data.numel() else 0.0  # type: ignore[union-attr]

    def compare_continuations(self, made: Sequence[Clip], truth: Sequence[Clip], given_s: float) -> dict[str, float]:
        """given_exact: share of clips whose given samples are returned bit for bit. seam: the step of the wave where the made
        part begins, in units of the largest within 10 ms around it, median over clips (1 is no seam; clicks are above 2).
        """
        at, around = round(given_s * self.sample_rate), max(2, self.sample_rate // 100)
        exact, seams = [], []
        for clip, real in zip(made, truth, strict=True):
            exact.append(torch.equal(clip.data[..., :at], real.data[..., :at]))  # type: ignore[index]
            steps = clip.data[..., at - around : at + around].diff().abs().amax(0)  # type: ignore[index]
            seam, others = steps[around - 1], torch.cat([steps[: around - 1], steps[around:]])
            seams.append(float(seam / others.max().clamp(min=1e-4)))
        return {"given_exact": sum(exact) / len(exact), "seam": sorted(seams)[len(seams) // 2]}

    def compare_reconstructions(self, made: Sequence[Clip], truth: Sequence[Clip]) -> dict[str, float]:
        """si_sdr_db, stft and log_mel, see `fidelity.fidelity`."""
        from flowgen_audio.fidelity import fidelity

        a, b = ([clip.data.cpu() for clip in clips] for clips in (made, truth))  # type: ignore[union-attr]
        return fidelity(a, b, self.sample_rate)

    def segments(self, path: Source, silence_db: float = -40.0, pause_s: float = 0.3) -> list[list[float]]:
        """From when to when there is sound louder than `silence_db`, pauses below `pause_s` being part of it."""
        from flowgen_audio.preparing import sounding

        return sounding(path, silence_db, pause_s)

    def measure(self, path: Source, start_s: float, duration_s: float | None) -> tuple[dict[str, float], list[float]]:
        """Seconds, loudness, peak, silent and clipped; see `preparing.measures`."""
        from flowgen_audio.preparing import measures

        return measures(path, start_s, duration_s)

    def shown(self, path: Source, start_s: float, duration_s: float | None, count: int) -> dict[str, Any]:
        """What a recogniser hears; `count` plays no part."""
        from flowgen_audio.preparing import heard

        return heard(path, start_s, duration_s)

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write one clip; the extension of `path` chooses the format. FlowgenError: it cannot be written."""
        if len(clips) != 1:
            raise UsageError(f"{path}: a sound file holds 1 clip, got {len(clips)}; give each a file of its own")
        write_samples(clips[0].data.float().cpu(), self.sample_rate, Path(path), metadata)  # type: ignore[union-attr]

    def write_growing(self, parts: Iterator[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the parts of one sound as they come."""
        write_growing((part.data for part in parts), self.sample_rate, path, metadata)  # type: ignore[misc]

    def sheet(self, clips: Sequence[Clip], path: Path, captions: Sequence[str] = ()) -> None:
        """One PNG with the spectrogram of every clip (time in seconds, frequency in kHz, 80 dB of range)."""
        from matplotlib.figure import Figure

        columns = min(len(clips), 5)
        rows = math.ceil(len(clips) / columns)
        figure = Figure(figsize=(2.6 * columns, 2.0 * rows), layout="constrained", dpi=100)
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for i, (clip, ax) in enumerate(zip(clips, axes.flat, strict=False)):
            ax.set_axis_on()
            ax.imshow(
                spectrogram_db(clip.data, self.sample_rate).numpy(),  # type: ignore[arg-type]
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=-80,
                vmax=0,
                extent=(0, clip.data.shape[-1] / self.sample_rate, 0, self.sample_rate / 2000),  # type: ignore[union-attr]
            )
            ax.tick_params(labelsize=6)
            if i < len(captions):
                ax.set_title(captions[i], fontsize=8)
            if i % columns == 0:
                ax.set_ylabel("kHz", fontsize=7)
        axes[-1][0].set_xlabel("seconds", fontsize=7)
        with replacing(Path(path)) as temporary:
            figure.savefig(temporary, format="png")


def spectrogram_db(samples: Tensor, rate: int) -> Tensor:
    """Power [frequencies, frames] of the mean channel in decibels below full scale, over 32 ms windows."""
    mono = samples.float().mean(0)
    n = 1 << round(math.log2(0.032 * rate))
    window = torch.hann_window(n)
    padded = torch.nn.functional.pad(mono, (n // 2, n // 2))
    spectrum = torch.stft(padded, n, n // 4, window=window, center=False, return_complex=True)
    return 20 * (2 * spectrum.abs() / window.sum()).clamp(min=1e-6).log10()
