"""A recogniser of class conditions: a small convolutional network on log-mel frames, trained on real training clips only.

It judges what is generated (is the asked class heard?), and its features measure likeness (Frechet distance).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from flowgen.core.random import generator, seed_of
from flowgen.errors import FlowgenError, UsageError
from flowgen.files import replacing
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset, Identified
from flowgen_audio.encoders import mel_filters
from flowgen_audio.modality import Audio

_VERSION = 1  # part of the cache key: raise it when anything here changes what is learned
FEATURES = 64
_MOST_CLIPS = 6000
_BATCH = 64


class Recogniser(nn.Module):
    """Logits of every class condition, by name, from clips of any length."""

    hann: Tensor
    filters: Tensor

    def __init__(self, rate: int, classes: Mapping[str, Sequence[str]], width: int = 48, bands: int = 48) -> None:
        super().__init__()
        self.rate, self.classes = rate, {name: tuple(names) for name, names in classes.items()}
        self.window, self.hop = 1 << round(math.log2(0.03 * rate)), round(0.01 * rate)
        self.register_buffer("hann", torch.hann_window(self.window), persistent=False)
        self.register_buffer("filters", mel_filters(self.window // 2 + 1, bands, rate, 50.0), persistent=False)
        sizes = [1, width // 2, width, 2 * width, 2 * width]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=2 if i < 3 else 1, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()
            )
            for i, (a, b) in enumerate(pairwise(sizes))
        )
        self.features = nn.Linear(2 * sizes[-1], FEATURES)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(names)) for name, names in self.classes.items()})

    def frames(self, clip: Clip) -> Tensor:
        """Log-mel frames [bands, T] of a clip: 60 dB below its loudest are 0: loudness plays no part."""
        assert isinstance(clip.data, Tensor)
        wave = F.pad(clip.data.float().mean(0), (self.window // 2, self.window // 2))
        spectrum = torch.stft(wave, self.window, self.hop, window=self.hann, center=False, return_complex=True)
        mel = (self.filters @ spectrum.abs()).clamp(min=1e-8).log10() * 20
        return (mel - mel.max()).clamp(min=-60) / 30 + 2

    def embed(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Features [B, FEATURES] of frames [B, bands, T], of which `lengths` are real."""
        h = x[:, None]
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if i < 3:
                lengths = (lengths + 1) // 2
            real = (torch.arange(h.shape[-1]) < lengths[:, None])[:, None]
            h = h * real[:, :, None]  # what lies beyond the end stays the zeros that a convolution pads with
        h = h.mean(2)  # [B, C, T]
        mean = h.sum(-1) / lengths[:, None]
        return self.features(torch.cat([mean, h.masked_fill(~real, -math.inf).amax(-1)], 1))

    def forward(self, x: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        h = F.relu(self.embed(x, lengths))
        return {name: head(h) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, clips: Sequence[Clip]) -> tuple[list[dict[str, str]], Tensor]:
        """What is heard in each clip, by condition, and the features [N, FEATURES]."""
        self.eval()
        heard: list[dict[str, str]] = []
        features = []
        for start in range(0, len(clips), _BATCH):
            h = self.embed(*collate([self.frames(clip) for clip in clips[start : start + _BATCH]]))
            features.append(h)
            best = {name: head(F.relu(h)).argmax(1).tolist() for name, head in self.heads.items()}
            heard += [{name: self.classes[name][best[name][i]] for name in best} for i in range(len(h))]
        return heard, torch.cat(features)


def collate(frames: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Frames [B, bands, T] padded with silence, and how many are real."""
    lengths = torch.tensor([f.shape[1] for f in frames])
    longest = int(lengths.max())
    return torch.stack([F.pad(f, (0, longest - f.shape[1])) for f in frames]), lengths


def class_conditions(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """The class conditions of a data set. UsageError: it has none."""
    found = {k: tuple(c["names"]) for k, c in dataset.conditions.items() if c["type"] == "class"}
    if not found:
        raise UsageError("a recogniser needs a condition of type class; this data set has none")
    return found


def recogniser(modality: Audio, dataset: Dataset, epochs: int, seed: int) -> Recogniser:
    """The recogniser of a data set: from the cache in the user's cache folder, or trained now."""
    with torch.random.fork_rng(devices=[]):  # what layers draw as they are made is replaced by weights of a seed
        model = Recogniser(modality.sample_rate, class_conditions(dataset))
    file = _cache_file(modality, dataset, epochs, seed)
    if file.is_file():
        try:
            model.load_state_dict(load_file(file))
            return model.eval()
        except (OSError, RuntimeError, SafetensorError):
            pass  # a damaged cache file: train again and replace it
    _train(model, dataset, epochs, seed)
    try:
        with replacing(file) as temporary:
            save_file(model.state_dict(), temporary)
    except FlowgenError:
        pass  # a cache that cannot be written costs time, not correctness
    return model.eval()


def _cache_file(modality: Audio, dataset: Dataset, epochs: int, seed: int) -> Path:
    described = dataset.identity if isinstance(dataset, Identified) else repr(dataset)
    key = f"{_VERSION}{modality}{described}{sorted(dataset.conditions.items())}{epochs}{seed}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowgen" / "audio"
    return folder / f"recogniser-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"


def _train(model: Recogniser, dataset: Dataset, epochs: int, seed: int) -> None:
    """AdamW with one cycle of the learning rate; every example shifted, masked and given new noise each time."""
    count = min(len(dataset), _MOST_CLIPS)
    clips = [dataset.clip(i, seed_of(seed, "recogniser", i)) for i in range(count)]
    frames = [model.frames(clip) for clip in clips]
    labels = {
        name: torch.tensor([_label(clip, name, names) for clip in clips]) for name, names in model.classes.items()
    }
    _initialise(model, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    per_epoch = max(count // _BATCH, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * per_epoch, pct_start=0.2)
    g = generator(seed, "recogniser")
    # clips of like length share a batch, so that little is computed on padding
    by_length = torch.tensor([f.shape[1] for f in frames], dtype=torch.float32)
    model.train()
    for _ in range(epochs):
        order = (by_length * (1 + 0.3 * torch.rand(count, generator=g))).argsort()
        for b in torch.randperm(per_epoch, generator=g).tolist():
            rows = order[b * count // per_epoch : (b + 1) * count // per_epoch].tolist()
            x, lengths = collate([_augment(frames[i], g) for i in rows])
            logits = model(x, lengths)
            loss = torch.stack(
                [
                    F.cross_entropy(logits[name], labels[name][rows], ignore_index=-1, label_smoothing=0.1)
                    for name in logits
                ]
            ).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def _label(clip: Clip, name: str, names: Sequence[str]) -> int:
    value: Any = clip.conditions.get(name)
    return -1 if value is None else names.index(str(value))


def _initialise(model: nn.Module, seed: int) -> None:
    """He initialisation of weights from a generator of our own."""
    g = generator(seed, "recogniser weights")
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan = module.weight[0].numel()
            with torch.no_grad():
                module.weight.copy_(torch.randn(module.weight.shape, generator=g) * math.sqrt(2 / fan))
                if module.bias is not None:
                    module.bias.zero_()


def _augment(x: Tensor, g: torch.Generator) -> Tensor:
    """Frames with silence before and after, a stretch of time and of pitch, masked bands, and noise."""
    draw = torch.rand(8, generator=g).tolist()
    bands, length = x.shape
    stretch = 0.85 + 0.3 * draw[0]
    x = F.interpolate(x[None], max(int(length * stretch), 4), mode="linear", align_corners=False)[0]
    x = F.pad(x, (int(8 * draw[1]), int(8 * draw[2])), value=0.0)
    x = x + 0.05 * torch.randn(x.shape, generator=g)
    low, height = int(draw[3] * bands), int(draw[4] * 8)
    x[low : low + height] = 0.0
    first, span = int(draw[5] * x.shape[1]), int(draw[6] * 0.15 * x.shape[1])
    x[:, first : first + span] = 0.0
    return x
