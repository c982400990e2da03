"""Encoders: sound to latents [B, T, C] and back. Lengths are real: short clips are padded and masked, decoding cuts."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from flowgen.core.ranges import Count, NonNegative, Positive, Real, Whole
from flowgen.device import send
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.streams import Axis, StreamSpec
from flowgen_audio.griffin_lim import griffin_lim
from flowgen_audio.modality import Audio
from flowgen_audio.stereo import Stereo, joint_griffin_lim, mid_side_balance

_BALANCE = 2.0
"""Of the balance in the features, beside logarithms that span about 7."""


class AudioEncoder(Encoder):
    """Features of frames `hop` samples apart, normalised by statistics measured once on the data set.

    `multiple` is the patch of the network: a grid of any length must be one that it divides.

    A subclass turns samples [B, channels, frames_of(n) * hop] into features [B, T, C] and back. The mean is taken of
    every channel, the deviation of all together: channels keep their relative weight.
    """

    mean: Tensor
    std: Tensor
    settings: tuple[float, ...] = ()
    """Options that shape and weights do not show; part of the identity."""

    context: int = 0
    """Latent steps before and after a cut that what lies beyond it bears on."""

    def __init__(self, modality: Audio, hop: int, channels: int, multiple: int) -> None:
        super().__init__()
        if hop < 1 or multiple < 1:
            raise UsageError(f"encoder: expected a hop and a multiple of at least 1, got {hop} and {multiple}")
        self.modality, self.hop, self.multiple = modality, hop, multiple
        rate = modality.sample_rate / hop
        self.spec: StreamSpec = StreamSpec(channels, (Axis("time", self.frames_of(modality.samples), rate),))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(()))

    def frames_of(self, samples: int) -> int:
        """Latent steps of a clip of so many samples: rounded up to a multiple of `multiple`, the rest being silence."""
        return math.ceil(self._frames(samples) / self.multiple) * self.multiple

    def _frames(self, samples: int) -> int:
        return math.ceil(samples / self.hop)

    def latent_shape(self, seconds: float) -> tuple[int, ...]:
        """The shape of the latent of a clip of so many seconds, without the batch."""
        if seconds <= 0:
            raise UsageError(f"expected a positive duration, got {seconds:g} s")
        return (self.frames_of(round(seconds * self.modality.sample_rate)), self.spec.channels)

    @property
    def identity(self) -> str:
        key = f"{super().identity}{self.modality}{self.hop}{self.multiple}{self.settings}"
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    @abstractmethod
    def features(self, samples: Tensor) -> Tensor:
        """Raw features [B, T, C] of samples [B, channels, n], n a multiple of hop."""

    @abstractmethod
    def samples(self, features: Tensor) -> Tensor:
        """Samples [B, channels, n] of raw features [B, T, C]."""

    def fit(self, clips: Sequence[Clip]) -> None:
        parts = [self.features(self._padded([clip])[0])[0].double() for clip in clips]
        frames = torch.cat(parts)
        self.mean.copy_(frames.mean(0))
        self.std.copy_((frames - frames.mean(0)).square().mean().sqrt().clamp(min=1e-5))

    def encode(self, clips: Sequence[Clip]) -> Latents:
        samples, lengths = self._padded(clips)
        steps = [self.frames_of(n) for n in lengths]
        x = (self.features(samples) - self.mean) / self.std
        if min(steps) == max(steps):
            return Latents(x)
        mask = torch.arange(x.shape[1], device=x.device) < send(torch.tensor(steps), x.device)[:, None]
        return Latents(x * mask[..., None], mask)

    def decode(self, latents: Latents) -> list[Clip]:
        x, mask = latents
        assert isinstance(x, Tensor)
        steps = [x.shape[1]] * len(x) if mask is None else mask.sum(1).tolist()  # type: ignore[union-attr]
        features = x.float() * self.std + self.mean
        out = []
        # one length at a time: what is decoded of a clip must not depend on its neighbours in the batch
        for count in sorted(set(steps)):
            rows = [i for i, n in enumerate(steps) if n == count]
            length = self.modality.samples if count == self.spec.shape[0] else self._samples_of(count)
            waves = self.samples(features[rows, :count])[..., :length].clamp(-1, 1).cpu()
            out += [(i, Clip(wave.clone(), self.modality.sample_rate)) for i, wave in zip(rows, waves, strict=True)]
        return [clip for _, clip in sorted(out, key=lambda pair: pair[0])]

    def _samples_of(self, steps: int) -> int:
        return steps * self.hop

    def _padded(self, clips: Sequence[Clip]) -> tuple[Tensor, list[int]]:
        """Samples [B, channels, n] with zeros after the end, n a multiple of hop, and the true lengths."""
        lengths = [clip.data.shape[-1] for clip in clips]  # type: ignore[union-attr]
        n = self._samples_of(self.frames_of(max(lengths)))
        whole = torch.stack([F.pad(clip.data.float(), (0, n - clip.data.shape[-1])) for clip in clips])  # type: ignore[union-attr]
        return send(whole, self.mean.device), lengths


class Waveform(AudioEncoder):
    """Patches of `patch` samples as they are."""

    def __init__(self, modality: Audio, patch: Count = 64, multiple: Count = 1) -> None:
        super().__init__(modality, patch, patch * modality.channels, multiple)

    def features(self, samples: Tensor) -> Tensor:
        return samples.unflatten(-1, (-1, self.hop)).permute(0, 2, 1, 3).flatten(2)

    def samples(self, features: Tensor) -> Tensor:
        return features.unflatten(-1, (self.modality.channels, self.hop)).permute(0, 2, 1, 3).flatten(2)


class _Transform(AudioEncoder):
    """Windows of `window` samples, `hop` apart, the first and the last centred on the ends of the clip."""

    hann: Tensor

    def __init__(
        self, modality: Audio, window: int, hop: int, rows: int, multiple: int, channels: int | None = None
    ) -> None:
        if not 0 < hop <= window // 2:
            raise UsageError(f"encoder.hop: expected 1 to {window // 2} (half of window={window}), got {hop}")
        self.channels = channels or modality.channels
        super().__init__(modality, hop, rows * self.channels, multiple)
        self.window = window
        self.context = math.ceil(window / (2 * hop))
        """Steps on either side of a cut that depend on what is beyond it."""
        self.register_buffer("hann", torch.hann_window(window), persistent=False)

    def _frames(self, samples: int) -> int:
        return math.ceil(samples / self.hop) + 1

    def _samples_of(self, steps: int) -> int:
        return max(steps - 1, 1) * self.hop

    def _stft(self, samples: Tensor) -> Tensor:
        """Complex [B channels, F, T]."""
        return torch.stft(
            samples.flatten(0, 1), self.window, self.hop, window=self.hann, pad_mode="constant", return_complex=True
        ) / math.sqrt(self.window)

    def _rows(self, features: Tensor) -> Tensor:
        """[B channels, rows, T] of features [B, T, channels rows]."""
        return features.unflatten(-1, (self.channels, -1)).permute(0, 2, 3, 1).flatten(0, 1)

    def _features(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (-1, self.channels)).permute(0, 3, 1, 2).flatten(2)


class _Magnitudes(_Transform):
    """Logarithmic magnitudes, `floor_db` below full scale at the least; phases are found by Griffin-Lim.

    Of two channels, with `stereo` joint, these are the magnitudes of mid and side, and the balance of left and right.
    """

    def __init__(
        self,
        modality: Audio,
        window: int,
        hop: int,
        rows: int,
        floor_db: float,
        iterations: int,
        multiple: int,
        stereo: Stereo,
        settings: tuple[float, ...],
    ) -> None:
        self.joint = modality.channels == 2 and stereo == "joint"
        super().__init__(modality, window, hop, rows, multiple, 3 if self.joint else modality.channels)
        self.floor, self.iterations = 10 ** (floor_db / 20), iterations
        self.settings = (*settings, _BALANCE) if self.joint else settings

    def earlier(self, state: Mapping[str, Tensor]) -> str | None:
        """What fits statistics of flowgen 0.1, which held left and right."""
        mean = state.get("mean")
        two = mean is not None and 3 * mean.numel() == 2 * self.spec.channels
        return "stereo: separate" if self.joint and two else None

    def features(self, samples: Tensor) -> Tensor:
        z = self._stft(samples)
        if not self.joint:
            return self._features(self._compress(self._banded(z.abs())))
        mid, side, balance = mid_side_balance(z.unflatten(0, (-1, 2)), self.floor)
        mid, side = (self._compress(self._banded(x)) for x in (mid, side))
        rows = torch.stack([mid, side, _BALANCE * self._banded(balance)], 1)
        return self._features(rows.flatten(0, 1))

    def samples(self, features: Tensor) -> Tensor:
        rows, scale = self._rows(features), math.sqrt(self.window)
        if not self.joint:
            magnitude = self._unbanded(self._expand(rows)) * scale
            waves = griffin_lim(magnitude, self.hann, self.hop, self.iterations)
            return waves.unflatten(0, (-1, self.modality.channels))
        mid, side, balance = rows.unflatten(0, (-1, 3)).unbind(1)
        mid, side = (self._unbanded(self._expand(x)) * scale for x in (mid, side))
        return joint_griffin_lim(mid, side, self._spread(balance / _BALANCE), self.hann, self.hop, self.iterations)

    def _compress(self, magnitude: Tensor) -> Tensor:
        return (magnitude / self.floor + 1).log()

    def _expand(self, features: Tensor) -> Tensor:
        # no magnitude of a clip in [-1, 1] exceeds sqrt(window); what a generator overshoots must not overflow
        return ((features.clamp(min=0).exp() - 1) * self.floor).clamp(max=math.sqrt(self.window))

    def _banded(self, rows: Tensor) -> Tensor:
        """Rows of the features [B, rows, T] of rows of frequencies [B, F, T]."""
        return rows

    def _unbanded(self, rows: Tensor) -> Tensor:
        """Magnitudes [B, F, T] of those of rows [B, rows, T]."""
        return rows

    def _spread(self, rows: Tensor) -> Tensor:
        """Mean values [B, F, T] of those of rows [B, rows, T]."""
        return rows


class Spectrogram(_Magnitudes):
    """Logarithmic magnitudes of a short-time Fourier transform, `floor_db` below full scale at the least.

    Decoding finds phases by `iterations` rounds of Griffin-Lim with momentum, from a fixed start: deterministic. Of two channels
    it holds mid, side and balance, and finds their phases together, unless `stereo` is separate.
    """

    def __init__(
        self,
        modality: Audio,
        window: Count = 1024,
        hop: Count = 256,
        floor_db: Real = -80.0,
        iterations: Whole = 32,
        multiple: Count = 1,
        stereo: Stereo = "joint",
    ) -> None:
        settings = (window, floor_db)
        super().__init__(modality, window, hop, window // 2 + 1, floor_db, iterations, multiple, stereo, settings)


class Mel(_Magnitudes):
    """Logarithmic magnitudes in `bands` mel bands from `low_hz` up to the Nyquist frequency.

    Decoding inverts the filter bank by non-negative least squares in a few multiplicative steps, then finds phases as
    `spectrogram` does, in two channels, too.
    """

    filters: Tensor
    inverse: Tensor

    def __init__(
        self,
        modality: Audio,
        bands: Count = 80,
        window: Count = 1024,
        hop: Count = 256,
        low_hz: NonNegative = 20.0,
        floor_db: Real = -80.0,
        iterations: Whole = 32,
        multiple: Count = 1,
        stereo: Stereo = "joint",
    ) -> None:
        settings = (window, low_hz, floor_db)
        super().__init__(modality, window, hop, bands, floor_db, iterations, multiple, stereo, settings)
        if not 0 <= low_hz < modality.sample_rate / 2:
            raise UsageError(f"encoder.low_hz: expected 0 to {modality.sample_rate / 2:g}, got {low_hz:g}")
        self.register_buffer(
            "filters", mel_filters(window // 2 + 1, bands, modality.sample_rate, low_hz), persistent=False
        )
        self.register_buffer("inverse", torch.linalg.pinv(self.filters), persistent=False)

    def _banded(self, rows: Tensor) -> Tensor:
        return self.filters @ rows

    def _unbanded(self, rows: Tensor) -> Tensor:
        return nonnegative(self.filters, self.inverse, rows).clamp(max=math.sqrt(self.window))

    def _spread(self, rows: Tensor) -> Tensor:
        weights = self.filters.T
        return weights / weights.sum(1, keepdim=True).clamp(min=1e-6) @ rows


class ComplexSTFT(_Transform):
    """The complex short-time Fourier transform with magnitudes raised to `power`: invertible up to rounding.

    Real and imaginary parts are channels. Harder to learn than magnitudes, as phases turn with time.
    """

    def __init__(
        self, modality: Audio, window: Count = 512, hop: Count = 128, power: Positive = 0.5, multiple: Count = 1
    ) -> None:
        if not 0 < power <= 1:
            raise UsageError(f"encoder.power: expected 0 < power <= 1, got {power:g}")
        super().__init__(modality, window, hop, 2 * (window // 2 + 1), multiple)
        self.power, self.settings = power, (window, power)

    def features(self, samples: Tensor) -> Tensor:
        z = self._stft(samples)
        z = torch.polar(z.abs() ** self.power, z.angle())
        return self._features(torch.cat([z.real, z.imag], 1))

    def samples(self, features: Tensor) -> Tensor:
        real, imaginary = self._rows(features).chunk(2, 1)
        z = torch.complex(real, imaginary)
        z = torch.polar(z.abs() ** (1 / self.power), z.angle()) * math.sqrt(self.window)
        length = max(z.shape[-1] - 1, 1) * self.hop
        return torch.istft(z, self.window, self.hop, window=self.hann, length=length).unflatten(
            0, (-1, self.modality.channels)
        )


def mel_filters(frequencies: int, bands: int, rate: int, low_hz: float) -> Tensor:
    """Triangular filters [bands, frequencies], equally spaced in mel (2595 log10(1 + f/700)), each of unit sum.

    A band narrower than the frequency resolution takes the bins nearest to its centre.
    """

    def mel(hz: float) -> float:
        return 2595 * math.log10(1 + hz / 700)

    edges = 700 * (10 ** (torch.linspace(mel(low_hz), mel(rate / 2), bands + 2, dtype=torch.float64) / 2595) - 1)
    hz = torch.linspace(0, rate / 2, frequencies, dtype=torch.float64)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    spacing = rate / 2 / (frequencies - 1)
    rising = (hz - low) / (centre - low).clamp(min=spacing)
    falling = (high - hz) / (high - centre).clamp(min=spacing)
    narrow = 1 - (hz - centre).abs() / spacing
    filters = torch.maximum(torch.minimum(rising, falling), narrow).clamp(min=0)
    return (filters / filters.sum(1, keepdim=True)).float()


def nonnegative(filters: Tensor, inverse: Tensor, mel: Tensor, rounds: int = 16) -> Tensor:
    """m >= 0 [B, F, T] with filters @ m about `mel` [B, bands, T]: Lee and Seung's multiplicative updates."""
    m = (inverse @ mel).clamp(min=1e-6)
    numerator = filters.T @ mel
    gram = filters.T @ filters
    for _ in range(rounds):
        m = m * numerator / (gram @ m).clamp(min=1e-12)
    return m
