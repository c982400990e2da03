"""Encoders of sound over pretrained networks: a waveform autoencoder, and mel bands with a neural vocoder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flowgen.core.ranges import Count
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents
from flowgen.media.pretrained import Diffused, Frozen, Precision, find
from flowgen_audio.encoders import AudioEncoder
from flowgen_audio.modality import Audio
from flowgen_audio.vocos import Vocos, load_vocos, read_settings, vocos_files


class WaveformAutoencoder(AudioEncoder):
    """Waveforms through a pretrained autoencoder (AutoencoderOobleck of `diffusers`, as in Stable Audio; extra: latent).

    Latents are means of the posterior, then normalised by statistics of the data set as in every encoder of sound, unless
    that is left out.

    Args:
        model: its folder, or id in the hub cache (see `flowgen.media.pretrained`); nothing is downloaded.
        precision: of its weights.
        multiple: the patch of the network.
        normalise: false: latents as the autoencoder gives them, as pretrained generators take them.
    """

    context = 4
    """Convolutions reach further than a latent step; what is given is kept this far from a cut."""

    def __init__(
        self,
        modality: Audio,
        model: str,
        precision: Precision = "float32",
        multiple: Count = 1,
        normalise: bool = True,
    ) -> None:
        self.normalise = normalise
        self._autoencoder = Diffused(model, precision)
        autoencoder, name = self._autoencoder, self._autoencoder.config["_class_name"]
        if autoencoder.convolution_axes != 1:
            raise UsageError(f"encoder.model: {name} in {model} is for pictures; this takes a waveform autoencoder")
        _agree(
            f"{name} in {model}",
            modality,
            {
                "sample_rate": autoencoder.option("sampling_rate", default=44100),
                "channels": autoencoder.option("audio_channels", default=2),
            },
        )
        hop = math.prod(autoencoder.option("downsampling_ratios", default=(2, 4, 4, 8, 8)))
        super().__init__(modality, hop, int(autoencoder.option("decoder_input_channels", default=64)), multiple)

    @property
    def identity(self) -> str:
        key = f"{super().identity}{self._autoencoder.precision}{self._autoencoder.identity}"
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    def fit(self, clips: Sequence[Clip]) -> None:
        if self.normalise:
            super().fit(clips)

    def features(self, samples: Tensor) -> Tensor:
        with torch.no_grad():
            return self._autoencoder.encode(samples).transpose(1, 2)

    def samples(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            return self._autoencoder.decode(features.transpose(1, 2).contiguous())

    def encode(self, clips: Sequence[Clip]) -> Latents:
        return encode_by_length(self, super().encode, clips)


class MelVocos(AudioEncoder):
    """Log-mel bands as a Vocos vocoder takes them (Siuzdak 2023), which decodes them in one pass: no phases to find.

    Bands, window and hop are those the vocoder was trained with; `modality.sample_rate` has to be its own.

    Args:
        model: folder with config.yaml and model.safetensors or pytorch_model.bin, or id in the hub cache, such as
            charactr/vocos-mel-24khz (see `flowgen.media.pretrained`); nothing is downloaded.
        bands, window, hop: as in a recipe that relies on them; settings that differ from the vocoder's are refused.
        multiple: the patch of the network.
    """

    filters: Tensor
    hann: Tensor

    def __init__(
        self,
        modality: Audio,
        model: str,
        bands: Count | None = None,
        window: Count | None = None,
        hop: Count | None = None,
        multiple: Count = 1,
    ) -> None:
        import torchaudio

        folder = find(model)
        mel = read_settings(folder)
        asked = {"encoder.bands": bands, "encoder.window": window, "encoder.hop": hop}
        own = dict(zip(asked, (mel.bands, mel.window, mel.hop), strict=True))
        asked["modality.sample_rate"], own["modality.sample_rate"] = modality.sample_rate, mel.sample_rate
        differing = [f"{k} is {v}, the vocoder's {own[k]}" for k, v in asked.items() if v not in (None, own[k])]
        if differing:
            raise UsageError(f"the vocoder in {folder} was trained with other settings: {'; '.join(differing)}")
        super().__init__(modality, mel.hop, mel.bands * modality.channels, multiple)
        self.window, self.context = mel.window, math.ceil(mel.window / (2 * mel.hop))
        self._vocoder: Frozen[Vocos] = Frozen(folder, lambda: load_vocos(folder), lambda: vocos_files(folder))
        self.register_buffer("hann", torch.hann_window(mel.window), persistent=False)
        filters = torchaudio.functional.melscale_fbanks(
            mel.window // 2 + 1, 0.0, mel.sample_rate / 2, mel.bands, mel.sample_rate, norm=None, mel_scale="htk"
        )
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    @property
    def identity(self) -> str:
        return hashlib.sha256(f"{super().identity}{self._vocoder.identity}".encode()).hexdigest()[:16]

    def _frames(self, samples: int) -> int:
        return math.ceil(samples / self.hop) + 1

    def _samples_of(self, steps: int) -> int:
        return max(steps - 1, 1) * self.hop

    def features(self, samples: Tensor) -> Tensor:
        if samples.shape[-1] <= self.window // 2:
            raise UsageError(
                f"a clip of {samples.shape[-1]} samples is shorter than half the vocoder's window of {self.window}; "
                f"leave such clips out (data.min_duration_s)"
            )
        spectrum = torch.stft(
            samples.flatten(0, 1), self.window, self.hop, window=self.hann, pad_mode="reflect", return_complex=True
        )
        bands = (self.filters @ spectrum.abs()).clamp(min=1e-7).log()
        return bands.unflatten(0, (-1, self.modality.channels)).permute(0, 3, 1, 2).flatten(2)

    def samples(self, features: Tensor) -> Tensor:
        rows = features.unflatten(-1, (self.modality.channels, -1)).permute(0, 2, 3, 1).flatten(0, 1)
        with torch.no_grad():
            waves = self._vocoder.on(features.device)(rows)
        return waves.unflatten(0, (-1, self.modality.channels))

    def encode(self, clips: Sequence[Clip]) -> Latents:
        return encode_by_length(self, super().encode, clips)


def encode_by_length(encoder: AudioEncoder, encode: object, clips: Sequence[Clip]) -> Latents:
    """Latents of clips, one length at a time: what lies after the end of a clip must not depend on its neighbours."""
    assert callable(encode)
    steps = [encoder.frames_of(clip.data.shape[-1]) for clip in clips]  # type: ignore[union-attr]
    if min(steps) == max(steps):
        return encode(clips)
    device = encoder.mean.device
    x = torch.zeros(len(clips), max(steps), encoder.spec.channels, device=device)
    for count in sorted(set(steps)):
        rows = [i for i, n in enumerate(steps) if n == count]
        x[rows, :count] = encode([clips[i] for i in rows]).x
    mask = torch.arange(max(steps), device=device) < torch.tensor(steps, device=device)[:, None]
    return Latents(x, mask)


def _agree(what: str, modality: Audio, settings: dict[str, int]) -> None:
    differing = [
        f"modality.{k} is {getattr(modality, k)}, its own {v}" for k, v in settings.items() if getattr(modality, k) != v
    ]
    if differing:
        raise UsageError(f"{what} takes other sound: {'; '.join(differing)}")
