"""An autoencoder of video that is trained here: causal in time, for clips and single pictures, of any length.

The state is what the encoder `pixels` makes, [B, T, H, W, C]. Frames are coded in groups; three copies of the first frame
stand before it (for groups of four), so that it fills a group alone: T = 1 + 4 (t - 1), and a picture is a clip of one frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from flowgen.config import build
from flowgen.core.interfaces import Bottleneck, Reconstruction
from flowgen.core.random import Randomness
from flowgen.core.ranges import Count
from flowgen.core.tree import State
from flowgen.media.conditions import Conditioner
from flowgen.media.streams import StreamSpec
from flowgen_video.modality import Video

_QUIET = -5.0
"""Logarithm of the variance of a posterior, at first."""
Memory = dict[int, Tensor]
"""By layer, the last of its inputs that the next part needs."""


class CausalVideo(nn.Module):
    """A linear code of blocks of frames, from the principal components of the data, and a network that adds what it misses.

    Layers over frames see one frame each; layers over latent steps look back. So no latent depends on later frames, and no
    frame on later latents.

    Args:
        channels: of the latent.
        bottleneck: a component of that kind.
        factors: frames, and pixels to each side, that make one position of the latent.
        width, blocks: of the layers over frames: in the encoder, in the decoder.
        latent_width, latent_blocks: of those over latent steps.
        kernel: latent steps that each of those sees: its own and those before.
    """

    repeated_blocks = ("encoder", "latent_encoder", "latent_decoder", "decoder")
    channels: int
    context: int
    factors: tuple[int, ...]

    def __init__(
        self,
        spec: StreamSpec,
        conditions: Mapping[str, Conditioner],
        modality: Video,
        channels: Count = 16,
        bottleneck: str | dict[str, Any] = "kl",
        factors: tuple[Count, Count] = (4, 8),
        width: Count = 48,
        blocks: tuple[Count, Count] = (1, 2),
        latent_width: Count = 128,
        latent_blocks: tuple[Count, Count] = (2, 3),
        kernel: Count = 2,
    ) -> None:
        super().__init__()
        if not isinstance(spec, StreamSpec) or [axis.name for axis in spec.axes] != ["time", "height", "width"]:
            raise ValueError("it takes frames of pixels: set encoder.type=pixels")
        if conditions:
            raise ValueError(
                f"an autoencoder takes no conditions, and the data set offers {', '.join(conditions)}: set conditions={{}}"
            )
        self.time, self.space = factors
        if self.space % 2 or modality.height % self.space or modality.width % self.space:
            raise ValueError(
                f"the second of factors={list(factors)} must be even and divide the height and width of frames, "
                f"{modality.height}x{modality.width}"
            )
        self.channels, self.factors, self.colours = channels, (self.time, self.space, self.space), modality.channels
        self.bottleneck: Bottleneck = build("bottleneck", bottleneck, channels=channels)
        features, numbers = self.bottleneck.features, self.time * self.space**2 * self.colours
        pixels = (self.space // 2) ** 2 * self.colours
        self.mean = nn.Parameter(torch.zeros(numbers))
        self.linear_analysis = nn.Linear(numbers, channels, bias=False)
        self.linear_synthesis = nn.Linear(channels, numbers, bias=False)
        self.embed = nn.Conv2d(pixels, width, 1)
        self.encoder = nn.ModuleList(FrameBlock(width) for _ in range(blocks[0]))
        self.merge = nn.Linear(4 * self.time * width, latent_width)
        self.latent_encoder = nn.ModuleList(CausalBlock(latent_width, kernel) for _ in range(latent_blocks[0]))
        self.to_features = nn.Conv3d(latent_width, features, 1)
        self.from_latent = nn.Conv3d(channels, latent_width, 1)
        self.latent_decoder = nn.ModuleList(CausalBlock(latent_width, kernel) for _ in range(latent_blocks[1]))
        self.divide = nn.Linear(latent_width, 4 * self.time * width)
        self.decoder = nn.ModuleList(FrameBlock(width) for _ in range(blocks[1]))
        self.head = nn.Conv2d(width, pixels, 1)
        self.context = 2 * (kernel - 1) * max(latent_blocks)
        with torch.no_grad():
            for layer in (self.to_features, self.head):
                layer.weight.zero_()
                layer.bias.zero_()  # type: ignore[union-attr]
            self.to_features.bias[channels:] = _QUIET  # type: ignore[index]

    @torch.no_grad()
    def start_from(self, states: Iterable[State]) -> None:
        """The linear code becomes the principal components of blocks of frames, each scaled to unit variance."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for x in states:
            assert isinstance(x, Tensor)
            rows = self.split(x).flatten(0, -2).double().cpu()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.T @ rows
        mean = total / count
        variance, basis = torch.linalg.eigh(squares / count - mean[:, None] * mean)
        basis = basis[:, -self.channels :]
        deviation = variance[-self.channels :].clamp(min=1e-6).sqrt()
        self.mean.copy_(mean)
        self.linear_analysis.weight.copy_((basis / deviation).T)
        self.linear_synthesis.weight.copy_(basis * deviation)

    def forward(self, x: Tensor, t: Any, cond: Mapping[str, Any]) -> Tensor:
        """The state given back, whatever the time."""
        return self.decode(self.encode(x))[:, : x.shape[1]]

    def reconstruct(self, x: Tensor, random: Randomness, mask: Tensor | None = None) -> Reconstruction:
        if mask is not None:
            raise ValueError("clips of several lengths in a batch: give clips of one length (data.buckets)")
        z, penalty = self.bottleneck(self._features(self._grouped(x), None), random)
        return Reconstruction(self.decode(z)[:, : x.shape[1]], penalty)

    def encode(self, x: Tensor) -> Tensor:
        """Latents [B, t, h, w, channels] of frames [B, T, H, W, C]; T is filled up with the last frame."""
        return self.bottleneck(self._features(self._grouped(x), None)).z

    def decode(self, z: Tensor) -> Tensor:
        """Frames [B, 1 + 4 (t - 1), H, W, C]."""
        return self._frames(z, None)[:, self.time - 1 :]

    def latent_sizes(self, sizes: Sequence[int]) -> tuple[int, ...]:
        frames, *space = sizes
        return (1 + math.ceil((frames - 1) / self.time), *(size // self.space for size in space))

    def split(self, x: Tensor) -> Tensor:
        return _blocks(self._grouped(x), self.time, self.space)

    def join(self, parts: Tensor) -> Tensor:
        return _unblocked(parts, self.time, self.space)[:, self.time - 1 :]

    def encode_in_parts(self, x: Tensor, steps: int) -> Tensor:
        encoding, size = Encoding(self), steps * self.time
        parts = [encoding.push(x[:, i : i + size]) for i in range(0, x.shape[1], size)]
        return torch.cat([*parts, encoding.finish()], 1)

    def decode_in_parts(self, z: Tensor, steps: int) -> Tensor:
        decoding = Decoding(self)
        return torch.cat([decoding.push(z[:, i : i + steps]) for i in range(0, z.shape[1], steps)], 1)

    def _grouped(self, x: Tensor) -> Tensor:
        """Whole groups of frames: copies of the first before it, and of the last after it."""
        after = -(x.shape[1] - 1) % self.time
        return torch.cat([*[x[:, :1]] * (self.time - 1), x, *[x[:, -1:]] * after], 1)

    def _features(self, x: Tensor, memory: Memory | None) -> Tensor:
        """Features [B, t, h, w, F] of whole groups of frames."""
        with torch.autocast(x.device.type, enabled=False):
            linear = self.linear_analysis(_blocks(_precise(x), self.time, self.space) - self.mean)
        s = self.space // 2
        h = self.embed(rearrange(x, "b t (h p) (w q) c -> (b t) (p q c) h w", p=s, q=s))
        for block in self.encoder:
            h = block(h)
        h = rearrange(h, "(b t k) c (h p) (w q) -> b t h w (k p q c)", b=len(x), k=self.time, p=2, q=2)
        h = self.merge(h).permute(0, 4, 1, 2, 3)
        for block in self.latent_encoder:
            h = block(h, memory)
        h = _precise(self.to_features(_normalised(h)).permute(0, 2, 3, 4, 1))
        return h + F.pad(linear, (0, h.shape[-1] - linear.shape[-1]))

    def _frames(self, z: Tensor, memory: Memory | None) -> Tensor:
        """Whole groups of frames of latents."""
        with torch.autocast(z.device.type, enabled=False):
            linear = _unblocked(self.linear_synthesis(_precise(z)) + self.mean, self.time, self.space)
        h = self.from_latent(z.permute(0, 4, 1, 2, 3))
        for block in self.latent_decoder:
            h = block(h, memory)
        h = self.divide(h.permute(0, 2, 3, 4, 1))
        h = rearrange(h, "b t h w (k p q c) -> (b t k) c (h p) (w q)", k=self.time, p=2, q=2)
        for block in self.decoder:
            h = block(h)
        s = self.space // 2
        h = rearrange(self.head(_normalised(h)), "(b t) (p q c) h w -> b t (h p) (w q) c", b=len(z), p=s, q=s)
        return linear + _precise(h)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class FrameBlock(nn.Module):
    """A residual pair of convolutions over each frame [N, width, h, w], starting at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rise, self.fall = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.fall.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fall(F.silu(self.rise(_normalised(x))))


class CausalBlock(nn.Module):
    """A residual pair of convolutions over latent steps [B, width, t, h, w] that look back in time, starting at zero."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.rise, self.fall = (CausalConv(width, kernel) for _ in range(2))
        nn.init.zeros_(self.fall.conv.weight)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        return x + self.fall(F.silu(self.rise(_normalised(x), memory)), memory)


class CausalConv(nn.Module):
    """A convolution that sees `kernel` steps up to its own; before the first are zeros, or what `memory` holds."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.back = kernel - 1
        self.conv = nn.Conv3d(width, width, (kernel, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        known = None if memory is None else memory.get(id(self))
        if known is None:
            x = F.pad(x, (0, 0, 0, 0, self.back, 0))
        else:
            x = torch.cat([known, x], 2)
        if memory is not None:
            memory[id(self)] = x[:, :, x.shape[2] - self.back :]
        return self.conv(x)


class Encoding:
    """Frames pushed in parts of any size, latents taken as their groups are full: equal to `encode` of the whole."""

    def __init__(self, network: CausalVideo) -> None:
        self.network = network
        self._memory: Memory = {}
        self._rest: Tensor | None = None

    def push(self, frames: Tensor) -> Tensor:
        """Latents [B, n, h, w, channels] of the groups that frames [B, m, H, W, C] fill; n may be 0."""
        before = [frames[:, :1]] * (self.network.time - 1) if self._rest is None else [self._rest]
        x = torch.cat([*before, frames], 1)
        whole = x.shape[1] // self.network.time * self.network.time
        self._rest = x[:, whole:]
        if not whole:
            return x.new_zeros(len(x), 0, *self.network.latent_sizes(x.shape[1:4])[1:], self.network.channels)
        return self.network.bottleneck(self.network._features(x[:, :whole], self._memory)).z

    def finish(self) -> Tensor:
        """The latent of a last group that is not full, filled with the last frame; none, [B, 0, ...], if it is."""
        rest = self._rest
        if rest is None:
            raise ValueError("no frame was pushed; push some first")
        if not rest.shape[1]:
            return self.push(rest)
        return self.push(rest[:, -1:].expand(-1, self.network.time - rest.shape[1], -1, -1, -1))


class Decoding:
    """Latents pushed in parts of any size, frames taken at once: equal to `decode` of the whole."""

    def __init__(self, network: CausalVideo) -> None:
        self.network = network
        self._memory: Memory = {}
        self._begun = False

    def push(self, z: Tensor) -> Tensor:
        """The frames of latents [B, n, h, w, channels]: of the first one, and four for each of the others."""
        frames = self.network._frames(z, self._memory)
        first, self._begun = not self._begun, True
        return frames[:, self.network.time - 1 :] if first else frames


def _blocks(x: Tensor, time: int, space: int) -> Tensor:
    return rearrange(x, "b (t k) (h p) (w q) c -> b t h w (k p q c)", k=time, p=space, q=space)


def _unblocked(x: Tensor, time: int, space: int) -> Tensor:
    return rearrange(x, "b t h w (k p q c) -> b (t k) (h p) (w q) c", k=time, p=space, q=space)


def _normalised(x: Tensor) -> Tensor:
    """Unit mean square over channels, position by position: what lies elsewhere plays no part."""
    return x * (x.square().mean(1, keepdim=True) + 1e-4).rsqrt()
