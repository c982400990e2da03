"""The loss of an autoencoder of waveforms: how far what is given back is from what was, in samples, spectra and mel bands."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from flowgen.core.losses.reconstruction import WeightedReconstruction
from flowgen.core.ranges import Count, NonNegative, Positive
from flowgen_audio.encoders import mel_filters
from flowgen_audio.modality import Audio

_SILENCE = 1e-2
"""Added to what is divided by, in units of the data's variance: silence weighs little."""
_TINY = 1e-8


class AudioReconstruction(WeightedReconstruction):
    """A weighted sum of distances between waveforms, of autoencoders of sound; each is logged under its name.

    Of two channels the spectral distances are means over left, right, mid and side. All are in units of the deviation of the
    data, to which the encoder scales them. A clip's distances are over its own length.

    Args:
        l1: mean absolute difference of samples.
        snr: logarithm (base 10) of the energy of the difference relative to that of the clip.
        log: mean absolute difference of logarithms of STFT magnitudes, a mean over `windows`.
        convergence: norm of the difference of magnitudes relative to that of the clip's (Arik et al. 2018), likewise.
        phase: mean magnitude of the difference of complex STFTs relative to the mean magnitude, likewise.
        mel: mean absolute difference of logarithms of `bands` mel bands of `mel_window` samples.
        windows: of the STFTs, in samples; a quarter of it apart.
        floor: magnitudes far below it are silence to logarithms; of the data's deviation, per square root of a window.
    """

    def __init__(
        self,
        modality: Audio,
        l1: NonNegative = 1.0,
        snr: NonNegative = 0.0,
        log: NonNegative = 1.0,
        convergence: NonNegative = 1.0,
        phase: NonNegative = 1.0,
        mel: NonNegative = 1.0,
        windows: tuple[Count, ...] = (2048, 1024, 512, 256, 128, 64),
        mel_window: Count = 1024,
        bands: Count = 80,
        floor: Positive = 1e-2,
    ) -> None:
        super().__init__({"l1": l1, "snr": snr, "log": log, "convergence": convergence, "phase": phase, "mel": mel})
        if not windows or min(*windows, mel_window) < 8:
            raise ValueError(f"expected windows of at least 8 samples, got {[*windows, mel_window]}")
        self.sounds, self.windows, self.mel_window, self.floor = modality.channels, windows, mel_window, floor
        for size in {*windows, mel_window}:
            self.register_buffer(f"hann_{size}", torch.hann_window(size), persistent=False)
        filters = mel_filters(mel_window // 2 + 1, bands, modality.sample_rate, 20.0)
        self.register_buffer("filters", filters, persistent=False)

    def reconstruction_loss(self, x: Tensor, made: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """By name, the distances [B] of states x [B, T, C] and those given back, that have a weight."""
        with torch.autocast(x.device.type, enabled=False):
            real, made = (self._waves(v.float() if mask is None else v.float() * mask[..., None]) for v in (x, made))
            share = x.new_ones(len(x)) if mask is None else mask.float().mean(1)
            lengths = real.shape[-1] * share  # without padding, to which nothing is compared
            found = self._in_samples(real, made, lengths) | self._in_spectra(real, made, lengths)
        return {name: found[name] for name in self.weights}

    def _in_samples(self, real: Tensor, made: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        energy, error = (v.square().sum((1, 2)) / (self.sounds * lengths) for v in (real, made - real))
        l1 = (made - real).abs().sum((1, 2)) / (self.sounds * lengths)
        return {"l1": l1, "snr": torch.log10((error + _SILENCE) / (energy + _SILENCE))}

    def _in_spectra(self, real: Tensor, made: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        both = torch.stack([_with_mid_side(real), _with_mid_side(made)])
        sums: dict[str, Tensor] = {}
        sizes = self.windows if {"log", "convergence", "phase"} & self.weights.keys() else ()
        for size in sizes:
            a, b = self._stft(both, size)
            p, q = _magnitude(a), _magnitude(b)
            number = p.shape[1] * p.shape[2] * lengths / (size // 4)
            each = {
                "log": _sum(self._logarithms(p, q)) / number,
                "convergence": _sum((p - q).square()).sqrt() / (_sum(p.square()) + _SILENCE * number).sqrt(),
                "phase": _sum(_magnitude(a - b)) / (_sum(p) + _SILENCE * number),
            }
            sums = {name: sums.get(name, 0.0) + value / len(sizes) for name, value in each.items()}
        if "mel" in self.weights:
            p, q = (self.get_buffer("filters") @ _magnitude(z) for z in self._stft(both, self.mel_window))
            sums["mel"] = _sum(self._logarithms(p, q)) / (p.shape[1] * p.shape[2] * lengths / (self.mel_window // 4))
        return sums

    def _logarithms(self, p: Tensor, q: Tensor) -> Tensor:
        return ((p + self.floor).log() - (q + self.floor).log()).abs()

    def _stft(self, waves: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Complex [B, C, F, T] of real and made [2, B, C, n], a quarter of a window apart, until no window holds any of it."""
        window = self.get_buffer(f"hann_{size}")
        waves = F.pad(waves, (0, size // 2))
        z = torch.stft(waves.flatten(0, 2), size, size // 4, window=window, pad_mode="constant", return_complex=True)
        a, b = (z / math.sqrt(size)).unflatten(0, waves.shape[:3]).unbind(0)
        return a, b

    def _waves(self, x: Tensor) -> Tensor:
        """Samples [B, audio channels, n] of patches."""
        return x.unflatten(-1, (self.sounds, -1)).permute(0, 2, 1, 3).flatten(2)


def _with_mid_side(waves: Tensor) -> Tensor:
    """Left, right, mid and side [B, 4, n] of two channels; one as it is."""
    if waves.shape[1] != 2:
        return waves
    left, right = waves.unbind(1)
    return torch.stack([left, right, (left + right) / 2, (left - right) / 2], 1)


def _magnitude(z: Tensor) -> Tensor:
    """With a gradient at 0, too."""
    return (z.real.square() + z.imag.square() + _TINY).sqrt()


def _sum(x: Tensor) -> Tensor:
    """Of each clip [B], with a gradient of its root at 0."""
    return x.sum((1, 2, 3)) + _TINY
