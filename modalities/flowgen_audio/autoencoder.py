"""Autoencoders of waveforms that are trained here: patches of samples to latents of as many steps, and back.

The state is what the encoder `waveform` makes: [B, T, patch channels], a patch of samples of all channels a step. So a latent
has `sample_rate / patch` steps a second, and lengths and masks are those of the patches. Every layer reaches a bounded number
of steps (`context`), so that long sound is coded in parts.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowgen.config import build
from flowgen.core.interfaces import MASK, Bottleneck, Reconstruction
from flowgen.core.random import Randomness
from flowgen.core.ranges import Count
from flowgen.media.conditions import Conditioner
from flowgen.media.streams import StreamSpec
from flowgen_audio.modality import Audio

_FLOOR = 1e-3
"""Of magnitudes whose logarithm is taken, in units of the data's deviation."""


class WaveformNetwork(nn.Module):
    """What the autoencoders of waveforms share: patches to samples, the bottleneck, masks.

    A subclass turns samples [B, audio channels, T patch] into features [B, T, `bottleneck.features`], and latents back.
    """

    context: int = 0
    bottleneck: Bottleneck

    def __init__(
        self,
        spec: StreamSpec,
        conditions: Mapping[str, Conditioner],
        modality: Audio,
        channels: int,
        bottleneck: str | Mapping[str, Any],
    ) -> None:
        super().__init__()
        if not isinstance(spec, StreamSpec) or len(spec.axes) != 1 or spec.channels % modality.channels:
            raise ValueError("it takes patches of samples: set encoder.type=waveform")
        if conditions:
            raise ValueError(
                f"an autoencoder takes no conditions, and the data set offers {', '.join(conditions)}: set conditions={{}}"
            )
        self.channels, self.sounds = channels, modality.channels
        self.patch = spec.channels // modality.channels
        self.bottleneck = build("bottleneck", bottleneck, channels=channels)

    def forward(self, x: Tensor, t: Any, cond: Mapping[str, Any]) -> Tensor:
        """The state given back, whatever the time."""
        mask = cond.get(MASK)
        z = self.encode(_kept(x, mask))
        return _kept(self.decode(_kept(z, mask)), mask)

    def reconstruct(self, x: Tensor, random: Randomness, mask: Tensor | None = None) -> Reconstruction:
        z, penalty = self.bottleneck(self.analyse(self._waves(_kept(x, mask))), random, mask)
        return Reconstruction(self.decode(_kept(z, mask)), penalty)

    def encode(self, x: Tensor) -> Tensor:
        return self.bottleneck(self.analyse(self._waves(x))).z

    def decode(self, z: Tensor) -> Tensor:
        waves = self.synthesise(z)
        return waves.unflatten(-1, (-1, self.patch)).permute(0, 2, 1, 3).flatten(2)

    @abstractmethod
    def analyse(self, waves: Tensor) -> Tensor:
        """Features [B, T, features] of samples [B, audio channels, T patch]."""

    @abstractmethod
    def synthesise(self, z: Tensor) -> Tensor:
        """Samples [B, audio channels, T patch] of latents [B, T, channels]."""

    def _waves(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.sounds, self.patch)).permute(0, 2, 1, 3).flatten(2)


def _kept(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask[..., None]


class SpectralAutoencoder(WaveformNetwork):
    """ConvNeXt blocks at a frame rate and at the latent's, between an STFT and its inverse (as Vocos, Siuzdak 2023).

    The encoder sees compressed spectra of frames `hop` samples apart; frames are merged into latent steps, and divided again
    in the decoder, whose head gives complex spectra. Beside it runs a lapped transform (learned, at first the lowest bands of
    an MDCT): a linear code from which the network starts, instead of from silence.

    Args:
        channels: of the latent.
        bottleneck: a component of that kind.
        width, blocks: of the blocks at the frame rate: in the encoder, in the decoder.
        latent_width, latent_blocks: of those at the latent's rate.
        window, hop: of the frames, in samples; hop divides the encoder's patch.
        expansion: of the layers within a block.
    """

    def __init__(
        self,
        spec: StreamSpec,
        conditions: Mapping[str, Conditioner],
        modality: Audio,
        channels: Count = 64,
        bottleneck: str | dict[str, Any] = "soft-norm",
        width: Count = 192,
        blocks: tuple[Count, Count] = (3, 5),
        latent_width: Count = 512,
        latent_blocks: tuple[Count, Count] = (2, 2),
        window: Count = 256,
        hop: Count = 64,
        expansion: Count = 3,
    ) -> None:
        super().__init__(spec, conditions, modality, channels, bottleneck)
        if self.patch % hop or not hop <= window // 2 or (window - hop) % 2:
            raise ValueError(
                f"hop must divide the encoder's patch of {self.patch}, be at most half of the window and even as it is, "
                f"got hop={hop} and window={window}"
            )
        self.window, self.hop, self.merged = window, hop, self.patch // hop
        bins = window // 2 + 1
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        features = self.bottleneck.features
        merged = self.merged * width
        self.embed = nn.Linear(3 * bins * self.sounds, width)
        self.encoder = nn.ModuleList(Block(width, expansion * width) for _ in range(blocks[0]))
        self.merge = nn.Linear(merged, latent_width)
        self.latent_encoder = nn.ModuleList(
            Block(latent_width, expansion * latent_width, 5) for _ in range(latent_blocks[0])
        )
        self.to_features = nn.Sequential(nn.LayerNorm(latent_width), nn.Linear(latent_width, features))
        self.from_latent = nn.Linear(channels, latent_width)
        self.latent_decoder = nn.ModuleList(
            Block(latent_width, expansion * latent_width, 5) for _ in range(latent_blocks[1])
        )
        self.divide = nn.Linear(latent_width, merged)
        self.decoder = nn.ModuleList(Block(width, expansion * width) for _ in range(blocks[1]))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * bins * self.sounds))
        self.lapped_analysis = nn.Linear(2 * self.patch * self.sounds, features, bias=False)
        self.lapped_synthesis = nn.Linear(channels, 2 * self.patch * self.sounds, bias=False)
        self._start_as_transform()
        reach = max(_reach(count, latent, self.merged) for count, latent in zip(blocks, latent_blocks, strict=True))
        self.context = 1 + reach + math.ceil(window / self.patch)

    repeated_blocks = ("encoder", "latent_encoder", "latent_decoder", "decoder")

    @torch.no_grad()
    def _start_as_transform(self) -> None:
        """The lapped transform as an MDCT of the lowest bands of each channel, and the network's part near zero."""
        each = self.channels // self.sounds
        basis = mdct_basis(self.patch)[: min(each, self.patch)]  # [bands, 2 patch]
        scale = math.sqrt(self.patch / len(basis)) if len(basis) else 1.0  # low bands hold most of what sounds
        self.lapped_analysis.weight.zero_()
        self.lapped_synthesis.weight.zero_()
        for i in range(self.sounds):
            rows = slice(i * len(basis), (i + 1) * len(basis))
            columns = slice(i * 2 * self.patch, (i + 1) * 2 * self.patch)
            self.lapped_analysis.weight[rows, columns] = basis / scale
            self.lapped_synthesis.weight[columns, rows] = basis.T * scale
        for head in (self.to_features[1], self.head[1]):
            assert isinstance(head, nn.Linear)
            head.weight.mul_(0.1)
            head.bias.zero_()

    def analyse(self, waves: Tensor) -> Tensor:
        frames = _framed(waves, self.window, self.hop) * self.get_buffer("hann")  # [B, C, frames, window]
        with torch.autocast(waves.device.type, enabled=False):
            spectrum = torch.fft.rfft(frames.float()) / math.sqrt(self.window)
            size = (spectrum.real.square() + spectrum.imag.square() + _FLOOR**2).sqrt()
            seen = torch.stack([spectrum.real / size.sqrt(), spectrum.imag / size.sqrt(), 0.3 * size.log()], -1)
        h = self.embed(seen.permute(0, 2, 1, 3, 4).flatten(2))
        for block in self.encoder:
            h = block(h)
        h = self.merge(h.unflatten(1, (-1, self.merged)).flatten(2))
        for block in self.latent_encoder:
            h = block(h)
        lapped = _framed(waves, 2 * self.patch, self.patch).permute(0, 2, 1, 3).flatten(2)
        return self.to_features(h) + self.lapped_analysis(lapped)

    def synthesise(self, z: Tensor) -> Tensor:
        h = self.from_latent(z)
        for block in self.latent_decoder:
            h = block(h)
        h = self.divide(h).unflatten(-1, (self.merged, -1)).flatten(1, 2)
        for block in self.decoder:
            h = block(h)
        lapped = self.lapped_synthesis(z).unflatten(-1, (self.sounds, -1)).transpose(1, 2)
        with torch.autocast(z.device.type, enabled=False):
            real, imaginary = self.head(h).float().unflatten(-1, (self.sounds, -1)).transpose(1, 2).chunk(2, -1)
            frames = torch.fft.irfft(torch.complex(real, imaginary), n=self.window) * self.get_buffer("hann")
            return _overlapped(frames, self.hop) + _overlapped(lapped.float(), self.patch)


class Block(nn.Module):
    """ConvNeXt in one dimension (Liu et al. 2022), [B, T, width]; the branch is scaled by a learned factor a channel."""

    def __init__(self, width: int, hidden: int, kernel: int = 7) -> None:
        super().__init__()
        self.along = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.rise, self.fall = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.along(x.transpose(1, 2)).transpose(1, 2))
        return x + self.scale * self.fall(F.gelu(self.rise(h)))


def _reach(blocks: int, latent_blocks: int, merged: int) -> int:
    """Latent steps that `blocks` of 7 frames and `latent_blocks` of 5 steps reach to each side."""
    return 2 * latent_blocks + math.ceil(3 * blocks / merged)


def mdct_basis(size: int) -> Tensor:
    """The modified discrete cosine transform [size, 2 size] with a sine window: orthonormal, inverse by overlap and addition."""
    n, k = torch.arange(2 * size, dtype=torch.float64), torch.arange(size, dtype=torch.float64)[:, None]
    window = torch.sin(math.pi / (2 * size) * (n + 0.5))
    return (math.sqrt(2 / size) * window * torch.cos(math.pi / size * (n + 0.5 + size / 2) * (k + 0.5))).float()


def _framed(waves: Tensor, window: int, hop: int) -> Tensor:
    """Frames [B, C, n / hop, window] of samples [B, C, n], each around its hop; silence beyond both ends."""
    side = (window - hop) // 2
    return F.pad(waves, (side, side)).unfold(-1, window, hop)


def _overlapped(frames: Tensor, hop: int) -> Tensor:
    """The sum [B, C, T hop] of frames [B, C, T, window], each around its hop."""
    batch, sounds, count, window = frames.shape
    folded = F.fold(frames.flatten(0, 1).transpose(1, 2), (1, (count - 1) * hop + window), (1, window), stride=(1, hop))
    side = (window - hop) // 2
    return folded.reshape(batch, sounds, -1)[..., side : side + count * hop]


class Snake(nn.Module):
    """x + sin^2(a x) / a of [B, C, n], with a by channel (Ziyin et al. 2020, eq. 3, as BigVGAN and DAC use it)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_frequency = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        a = self.log_frequency.exp()
        return x + (a * x).sin().square() / a


class SnakeAutoencoder(WaveformNetwork):
    """Convolutions at every rate with Snake activations (as DAC and Oobleck, Kumar et al. 2023), all the way to samples.

    Args:
        channels: of the latent.
        bottleneck: a component of that kind.
        strides: of the encoder's stages; their product is the encoder's patch.
        width: at the rate of samples; each stage doubles it up to `most`.
        dilations: of the residual units in each stage.
    """

    def __init__(
        self,
        spec: StreamSpec,
        conditions: Mapping[str, Conditioner],
        modality: Audio,
        channels: Count = 64,
        bottleneck: str | dict[str, Any] = "soft-norm",
        strides: tuple[Count, ...] = (2, 4, 8, 8),
        width: Count = 32,
        most: Count = 512,
        dilations: tuple[Count, ...] = (1, 3, 9),
    ) -> None:
        super().__init__(spec, conditions, modality, channels, bottleneck)
        if math.prod(strides) != self.patch:
            raise ValueError(
                f"the product of strides={list(strides)} is {math.prod(strides)}, and the encoder's patch {self.patch}; "
                f"make them equal"
            )
        widths = [min(width * 2**i, most) for i in range(len(strides) + 1)]
        down: list[nn.Module] = [nn.Conv1d(self.sounds, widths[0], 7, padding=3)]
        up: list[nn.Module] = [nn.Conv1d(channels, widths[-1], 7, padding=3)]
        for a, b, stride in zip(widths, widths[1:], strides, strict=False):
            down += [*(_Unit(a, d) for d in dilations), Snake(a), _merge(a, b, stride)]
        for a, b, stride in zip(widths[::-1], widths[-2::-1], strides[::-1], strict=False):
            up += [Snake(a), _divide(a, b, stride), *(_Unit(b, d) for d in dilations)]
        down += [Snake(widths[-1]), nn.Conv1d(widths[-1], self.bottleneck.features, 3, padding=1)]
        up += [Snake(widths[0]), nn.Conv1d(widths[0], self.sounds, 7, padding=3)]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        self.context = 1 + math.ceil(max(_samples_reached(strides, dilations)) / self.patch) + 3

    def analyse(self, waves: Tensor) -> Tensor:
        return self.encoder(waves).transpose(1, 2)

    def synthesise(self, z: Tensor) -> Tensor:
        return self.decoder(z.transpose(1, 2)).float()


def _samples_reached(strides: Sequence[int], dilations: Sequence[int]) -> tuple[int, int]:
    """Samples that the stages of encoder and decoder reach to each side."""
    units, rate, down, up = 3 * sum(dilations), 1, 3, 3
    for stride in strides:
        down += rate * (units + 2 * stride)
        up += rate * (units + 2 * stride)
        rate *= stride
    return down, up


class _Unit(nn.Module):
    """A residual unit: a dilated convolution and one of a single step, each after a Snake."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Snake(width),
            nn.Conv1d(width, width, 7, padding=3 * dilation, dilation=dilation),
            Snake(width),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _merge(channels: int, out: int, stride: int) -> nn.Module:
    """Every `stride` steps to one, by windows of three times as many (padded by one stride on each side)."""
    return nn.Conv1d(channels, out, 3 * stride, stride=stride, padding=stride)


def _divide(channels: int, out: int, stride: int) -> nn.Module:
    """Every step to `stride`, by windows of three times as many that overlap."""
    return nn.ConvTranspose1d(channels, out, 3 * stride, stride=stride, padding=stride)
