"""Vocos (Siuzdak 2023, arXiv 2306.00814): mel bands to the STFT of a waveform by ConvNeXt blocks at one rate.

Written from the paper, with the tensor names of the published weights, so that those load. The library of that name has
not been released since 2023 and makes whatever classes a config file names; this reads settings from it and nothing else.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.errors import FlowgenError, UsageError
from flowgen.media.pretrained import read_weights
from flowgen.weights import load_strictly

_MEL = "feature_extractor.mel_spec."
"""Window and filters, which published weights hold too and the encoder makes itself."""


@dataclass(frozen=True)
class VocosSettings:
    """What a vocoder was made and trained with; the mel settings by the names of the encoder's options."""

    sample_rate: int
    window: int
    hop: int
    bands: int
    width: int
    hidden: int
    blocks: int


def read_settings(folder: Path) -> VocosSettings:
    """The settings in config.yaml. FlowgenError: it is no Vocos on mel bands."""
    from flowgen.config.document import read

    path = folder / "config.yaml"
    try:
        config = read(path).values
    except UsageError as error:
        raise FlowgenError(f"{error}; is the folder a complete model?") from None
    classes = {
        "feature_extractor": "vocos.feature_extractors.MelSpectrogramFeatures",
        "backbone": "vocos.models.VocosBackbone",
        "head": "vocos.heads.ISTFTHead",
    }
    parts: dict[str, Mapping[str, Any]] = {}
    for part, expected in classes.items():
        section = config.get(part)
        found = section.get("class_path") if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping) or found != expected:
            raise FlowgenError(f"{path}: {part} is of {found!r}; a vocoder on mel bands has {expected!r}")
        parts[part] = section.get("init_args", {})
    mel, backbone, head = parts.values()
    for part, options in (("feature_extractor", mel), ("head", head)):
        if options.get("padding") != "center":
            raise FlowgenError(
                f"{path}: {part}.padding is {options.get('padding')!r}; only 'center' can be decoded here"
            )
    try:
        settings = VocosSettings(
            int(mel.get("sample_rate", 24000)),
            int(mel.get("n_fft", 1024)),
            int(mel.get("hop_length", 256)),
            int(mel.get("n_mels", 100)),
            int(backbone["dim"]),
            int(backbone["intermediate_dim"]),
            int(backbone["num_layers"]),
        )
        same = (int(backbone["input_channels"]), int(head["dim"]), int(head["n_fft"]), int(head["hop_length"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FlowgenError(f"{path}: a setting is missing or no number ({error})") from None
    if same != (settings.bands, settings.width, settings.window, settings.hop) or "adanorm_num_embeddings" in backbone:
        raise FlowgenError(f"{path}: features, backbone and head do not fit each other, or want more than mel bands")
    return settings


def load_vocos(folder: Path) -> Vocos:
    """A vocoder with its weights, all of which must match. FlowgenError: they do not, or are not there."""
    pickled = folder / "pytorch_model.bin"
    if list(folder.glob("*.safetensors")):
        tensors = read_weights(folder)
    elif pickled.is_file():
        tensors = _plain_tensors(pickled)
    else:
        raise FlowgenError(f"{folder} has no weights (model.safetensors or pytorch_model.bin)")
    network = Vocos(read_settings(folder))
    load_strictly(network, {k: v for k, v in tensors.items() if not k.startswith(_MEL)}, folder)
    return network


def _plain_tensors(path: Path) -> dict[str, Tensor]:
    """What torch.save wrote, read as plain tensors: nothing in it is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise FlowgenError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def vocos_files(folder: Path) -> list[Path]:
    """What decides how it sounds."""
    return [folder / "config.yaml", *(sorted(folder.glob("*.safetensors")) or [folder / "pytorch_model.bin"])]


class Vocos(nn.Module):
    """Samples [B, (T - 1) hop] of log-mel bands [B, bands, T]."""

    def __init__(self, settings: VocosSettings) -> None:
        super().__init__()
        self.backbone = _Backbone(settings)
        self.head = _Head(settings)

    def forward(self, mel: Tensor) -> Tensor:
        return self.head(self.backbone(mel))


class _Backbone(nn.Module):
    def __init__(self, s: VocosSettings) -> None:
        super().__init__()
        self.embed = nn.Conv1d(s.bands, s.width, 7, padding=3)
        self.norm = nn.LayerNorm(s.width, eps=1e-6)
        self.convnext = nn.ModuleList(_Block(s.width, s.hidden, s.blocks) for _ in range(s.blocks))
        self.final_layer_norm = nn.LayerNorm(s.width, eps=1e-6)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.norm(self.embed(mel).transpose(1, 2))
        for block in self.convnext:
            x = block(x)
        return self.final_layer_norm(x)


class _Block(nn.Module):
    """ConvNeXt in one dimension (Liu et al. 2022), [B, T, width]."""

    def __init__(self, width: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, hidden)
        self.pwconv2 = nn.Linear(hidden, width)
        self.gamma = nn.Parameter(torch.full((width,), 1 / blocks))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.dwconv(x.transpose(1, 2)).transpose(1, 2))
        return x + self.gamma * self.pwconv2(nn.functional.gelu(self.pwconv1(h)))


class _Head(nn.Module):
    """Logarithm of magnitude, and phase, of every bin; the inverse STFT of both."""

    def __init__(self, s: VocosSettings) -> None:
        super().__init__()
        self.window, self.hop = s.window, s.hop
        self.out = nn.Linear(s.width, s.window + 2)
        self.istft = _Window(s.window)

    def forward(self, x: Tensor) -> Tensor:
        log, phase = self.out(x).transpose(1, 2).chunk(2, 1)
        spectrum = torch.polar(log.exp().clamp(max=100.0), phase)
        return torch.istft(spectrum, self.window, self.hop, window=self.istft.window)


class _Window(nn.Module):
    """The window of the inverse STFT, under the name it is published by."""

    window: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(size))
