"""Pretrained autoencoders of the `diffusers` library (extra: latent) between frames and latents."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from flowgen.core.ranges import Count
from flowgen.device import send
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.pretrained import Diffused, Precision
from flowgen.media.streams import Axis, StreamSpec
from flowgen_video.modality import Video


class FrozenAutoencoder(Encoder):
    """Latents [B, T', H', W', C], normalised as the autoencoder's config says; the mean of the posterior, nothing drawn."""

    scale: Tensor
    convolution_axes: int
    other: str

    def __init__(self, modality: Video, model: str, precision: Precision, tiling: bool, batch: int) -> None:
        super().__init__()
        if batch < 1:
            raise UsageError(f"encoder.batch: expected at least 1, got {batch}")
        self.modality, self.tiling, self.batch = modality, tiling, batch
        self.autoencoder = Diffused(model, precision)
        name = self.autoencoder.config["_class_name"]
        if self.autoencoder.convolution_axes != self.convolution_axes:
            raise UsageError(
                f"encoder.model: {name} in {model} convolves over {self.autoencoder.convolution_axes} axes, not "
                f"{self.convolution_axes}; it is for encoder.type: {self.other}"
            )
        # what it gives, for some make features of the frames before they take them in
        channels = self.autoencoder.option("out_channels", "in_channels", default=3)
        if modality.channels != channels:
            raise UsageError(
                f"modality.channels: {name} in {model} takes frames of {channels} channels, got {modality.channels}"
            )
        blocks = self.autoencoder.option("block_out_channels", default=())
        self.space = int(
            self.autoencoder.option(
                "spatial_compression_ratio", "scale_factor_spatial", default=2 ** max(len(blocks) - 1, 0)
            )
        )
        self.time = self._time()
        self._check_size(modality.height, modality.width, "modality")
        self.spec: StreamSpec = StreamSpec(
            int(self.autoencoder.option("latent_channels", "z_dim")),
            (
                Axis("time", self.steps_of(modality.frames), modality.fps / self.time),
                Axis("height", modality.height // self.space, 1 / self.space),
                Axis("width", modality.width // self.space, 1 / self.space),
            ),
        )
        self.register_buffer("scale", torch.tensor(127.5), persistent=False)

    @property
    def identity(self) -> str:
        precision, files = self.autoencoder.precision, self.autoencoder.identity
        key = f"{type(self).__qualname__}{self.spec}{self.modality}{precision}{files}"
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    @abstractmethod
    def _time(self) -> int:
        """Frames to a latent step."""

    @abstractmethod
    def steps_of(self, frames: int) -> int:
        """Latent steps of so many frames. UsageError: they do not fit."""

    @abstractmethod
    def _encode(self, frames: Tensor) -> Tensor:
        """[B, 3, T, H, W] in [-1, 1] to raw latents [B, C, T', H', W']."""

    @abstractmethod
    def _decode(self, z: Tensor) -> Tensor: ...

    def latent_shape(self, seconds: float) -> tuple[int, ...]:
        """The shape of the latent of a clip of so many seconds, without the batch."""
        frames = round(seconds * self.modality.fps)
        if frames < 1:
            raise UsageError(f"{seconds:g} s is less than one frame at {self.modality.fps:g} frames a second")
        return (self.steps_of(frames), *self.spec.shape[1:])

    def encode(self, clips: Sequence[Clip]) -> Latents:
        frames = torch.stack([self._frames(clip) for clip in clips])
        self._set_tiling()
        with torch.no_grad():
            z = self._encode(rearrange(frames, "b t h w c -> b c t h w") / self.scale - 1)
        expected = (self.steps_of(frames.shape[1]), frames.shape[2] // self.space, frames.shape[3] // self.space)
        if tuple(z.shape[2:]) != expected or z.shape[1] != self.spec.channels:
            raise FlowgenError(
                f"the autoencoder in {self.autoencoder.folder} makes latents {tuple(z.shape[1:])} of {frames.shape[1]} frames, "
                f"where its config says {(self.spec.channels, *expected)}; this kind is not supported"
            )
        mean, scale = (_channels(v) for v in self.autoencoder.normalisation(z.device))
        return Latents(rearrange((z - mean) * scale, "b c t h w -> b t h w c").contiguous())

    def decode(self, latents: Latents) -> list[Clip]:
        assert isinstance(latents.x, Tensor)
        mean, scale = (_channels(v) for v in self.autoencoder.normalisation(latents.x.device))
        z = rearrange(latents.x.float(), "b t h w c -> b c t h w") / scale + mean
        self._set_tiling()
        with torch.no_grad():
            frames = self._decode(z)
        shown = rearrange((frames + 1) * 127.5, "b c t h w -> b t h w c").round().clamp(0, 255).to("cpu", torch.uint8)
        return [Clip(x.clone(), self.modality.fps) for x in shown]

    def marked(self, mask: Clip) -> Tensor:
        """Which latent positions a mask in black and white touches (is light anywhere in), bool [T', H', W']."""
        light = (self._frames(mask).mean(-1) >= 128).float()
        light = F.max_pool2d(light, self.space)
        # the first latent step of a causal autoencoder is one frame, every other one several
        ahead = -len(light) % self.time
        return F.pad(light, (0, 0, 0, 0, ahead, 0)).unflatten(0, (-1, self.time)).amax(1) > 0

    def _set_tiling(self) -> None:
        if self.tiling:
            self.autoencoder.network.enable_tiling()

    def _frames(self, clip: Clip) -> Tensor:
        data = clip.data
        if not isinstance(data, Tensor) or data.dtype != torch.uint8 or data.shape[-1] != self.modality.channels:
            found = f"{data.dtype} {tuple(data.shape)}" if isinstance(data, Tensor) else "several streams"
            raise FlowgenError(
                f"clip {clip.source or '?'}: expected bytes of shape [T, H, W, {self.modality.channels}], got {found}"
            )
        self._check_size(data.shape[1], data.shape[2], f"clip {clip.source or '?'}")
        return send(data, self.scale.device).float()

    def _check_size(self, height: int, width: int, where: str) -> None:
        for name, size in (("height", height), ("width", width)):
            if size % self.space:
                low = size // self.space * self.space
                near = f"{low} or {low + self.space}" if low else f"{self.space}"
                raise UsageError(
                    f"{where}: the autoencoder takes a {name} that {self.space} divides, got {size}; nearest: {near}"
                )


class ImageAutoencoder(FrozenAutoencoder):
    """Frame by frame through a picture autoencoder (AutoencoderKL, AutoencoderDC): any number of frames.

    Args:
        model: its folder, or id in the hub cache (see `flowgen.media.pretrained`); nothing is downloaded.
        precision: of its weights.
        tiling: large frames in overlapping tiles, which bounds memory.
        batch: frames at a time.
    """

    convolution_axes = 2
    other = "video-autoencoder"

    def __init__(
        self,
        modality: Video,
        model: str,
        precision: Precision = "float32",
        tiling: bool = False,
        batch: Count = 8,
    ) -> None:
        super().__init__(modality, model, precision, tiling, batch)

    def _time(self) -> int:
        return 1

    def steps_of(self, frames: int) -> int:
        return frames

    def _encode(self, frames: Tensor) -> Tensor:
        return self._each(frames, self.autoencoder.encode)

    def _decode(self, z: Tensor) -> Tensor:
        return self._each(z, self.autoencoder.decode)

    def _each(self, x: Tensor, code: object) -> Tensor:
        assert callable(code)
        parts = rearrange(x, "b c t h w -> (b t) c h w").split(self.batch)
        return rearrange(torch.cat([code(part) for part in parts]), "(b t) c h w -> b c t h w", b=len(x))


class VideoAutoencoder(FrozenAutoencoder):
    """Clips through a causal autoencoder of space and time (AutoencoderKLLTXVideo, -Wan, -HunyuanVideo, -CogVideoX, ...).

    The first frame is a latent step of its own, every further step takes f frames: clips have 1 + k f frames.

    Args:
        model: its folder, or id in the hub cache (see `flowgen.media.pretrained`); nothing is downloaded.
        precision: of its weights.
        tiling: large frames in overlapping tiles, which bounds memory.
        batch: clips at a time.
    """

    convolution_axes = 3
    other = "image-autoencoder"

    def __init__(
        self,
        modality: Video,
        model: str,
        precision: Precision = "float32",
        tiling: bool = False,
        batch: Count = 1,
    ) -> None:
        super().__init__(modality, model, precision, tiling, batch)

    def _time(self) -> int:
        option = self.autoencoder.option("temporal_compression_ratio", "scale_factor_temporal")
        if option is None:
            raise UsageError(
                f"encoder.model: {self.autoencoder.config['_class_name']} does not say how many frames make a latent step"
            )
        return int(option)

    def steps_of(self, frames: int) -> int:
        if (frames - 1) % self.time:
            low = (frames - 1) // self.time * self.time + 1
            raise UsageError(
                f"the autoencoder takes 1 + k x {self.time} frames, got {frames}; nearest: {low} or {low + self.time} "
                f"({low / self.modality.fps:.3g} or {(low + self.time) / self.modality.fps:.3g} s)"
            )
        return 1 + (frames - 1) // self.time

    def _encode(self, frames: Tensor) -> Tensor:
        return torch.cat([self.autoencoder.encode(part) for part in frames.split(self.batch)])

    def _decode(self, z: Tensor) -> Tensor:
        frames = torch.cat([self.autoencoder.decode(part) for part in z.split(self.batch)])
        expected = 1 + (z.shape[2] - 1) * self.time
        if frames.shape[2] != expected:  # AutoencoderKLCogVideoX, of an even number of steps
            raise FlowgenError(
                f"{self.autoencoder.config['_class_name']} makes {frames.shape[2]} frames of {z.shape[2]} latent steps, which stand "
                f"for {expected}; take clips of {expected + self.time} frames"
            )
        return frames


def _channels(value: Tensor) -> Tensor:
    """[C] or [] against [B, C, T, H, W]."""
    return value.reshape(-1, 1, 1, 1)
