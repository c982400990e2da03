"""The smallest plugin that trains: vectors or sequences of a few numbers, registered as a stranger's would be."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.streams import Axis, StreamSpec
from flowgen.plugins import Component, hookimpl

NAMES = ("a", "b", "c")


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component("modality", "tiny", "flowgen_tiny:Tiny"),
        Component("dataset", "tiny", "flowgen_tiny:Numbers"),
        Component("encoder", "tiny", "flowgen_tiny:Scale"),
        Component("network", "tiny-blocks", "flowgen_tiny:Blocks"),
        Component("network", "tiny-branches", "flowgen_tiny:Branches"),
        Component("loss", "tiny-asking", "flowgen_tiny_losses:Asking"),
        Component("optimizer", "tiny-momentum", "flowgen_tiny_optimizer:Momentum"),
        Component("logger", "clock", "flowgen_tiny:Clock"),
        Component("logger", "signal-at", "flowgen_tiny:SignalAt"),
    ]


@dataclass(frozen=True)
class Tiny:
    """`channels` numbers, `length` times over (0: a plain vector)."""

    channels: int = 2
    length: int = 0
    formats: ClassVar = {".json": "application/json"}
    clips_per_file = 1

    def read(self, path: Path) -> Clip:
        return Clip(torch.tensor(json.loads(path.read_text())))

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        path.write_text(json.dumps([clip.data.tolist() for clip in clips]))  # type: ignore[union-attr]

    def sheet(self, clips: Sequence[Clip], path: Path, captions: Sequence[str] = ()) -> None:
        path.write_bytes(b"")


@dataclass(frozen=True)
class Numbers:
    """Noise around one centre for each kind. Clips of the indices `bad` are not-a-number, those of `huge` enormous."""

    modality: Tiny
    clips: int = 40
    bad: tuple[int, ...] = ()
    huge: tuple[int, ...] = ()
    held_out: bool = False
    conditions: ClassVar = {"kind": {"type": "class", "names": list(NAMES)}}

    def __len__(self) -> int:
        return self.clips

    def clip(self, index: int, seed: int) -> Clip:
        kind = index % len(NAMES)
        shape = (self.modality.length, self.modality.channels) if self.modality.length else (self.modality.channels,)
        x = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + (kind - 1)
        if index in self.bad:
            x = x * math.nan
        if index in self.huge:
            x = x + 1e8
        return Clip(x, conditions={"kind": NAMES[kind]}, source=f"number {index}")

    def validation(self) -> Numbers:
        return replace(self, held_out=True, bad=(), huge=())

    def describe(self) -> dict[str, Any]:
        return {"clips": self.clips}


class Scale(Encoder):
    """Division by the deviation of the data."""

    def __init__(self, modality: Tiny) -> None:
        super().__init__()
        axes = (Axis("time", modality.length),) if modality.length else ()
        self.spec = StreamSpec(modality.channels, axes)
        self.register_buffer("scale", torch.ones(()))

    def fit(self, clips: Sequence[Clip]) -> None:
        values = torch.stack([clip.data for clip in clips])  # type: ignore[misc]
        self.scale = values[values.abs() < 100].std()

    def encode(self, clips: Sequence[Clip]) -> Latents:
        return Latents(torch.stack([clip.data for clip in clips]) / self.scale)  # type: ignore[misc]

    def decode(self, latents: Latents) -> list[Clip]:
        return [Clip(x * self.scale) for x in latents.x]


class Blocks(nn.Module):
    """Residual blocks with dropout, of an odd width, so that no number of ranks divides its tensors."""

    repeated_blocks = ("blocks",)

    def __init__(
        self, spec: StreamSpec, conditions: Mapping[str, Any], *, width: int = 13, depth: int = 3, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(spec.channels + 1, width)
        self.kinds = nn.Embedding(len(NAMES) + 1, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout), nn.SiLU()) for _ in range(depth)
        )
        self.out = nn.Linear(width, spec.channels)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        times = t.reshape(-1, *[1] * (x.ndim - 1)).expand(*x.shape[:-1], 1)
        h = self.embed(torch.cat([x, times], -1))
        if "kind" in cond:
            h = h + self.kinds(cond["kind"]).reshape(len(x), *[1] * (x.ndim - 2), -1)
        for block in self.blocks:
            h = h + block(h)
        return self.out(h)


class Branches(nn.Module):
    """A head for each rank: what no network may be."""

    def __init__(self, spec: StreamSpec, conditions: Mapping[str, Any]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(spec.channels, spec.channels) for _ in range(2))

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        return self.heads[int(os.environ["RANK"])](x)


class Clock:
    """Processor seconds of this process at each logged step, in clock.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "clock.jsonl").open("w", buffering=1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._file.write(json.dumps([step, time.process_time()]) + "\n")

    def close(self) -> None:
        self._file.close()


class SignalAt:
    """Sends this process a signal at a step."""

    def __init__(self, folder: Path, step: int, name: str = "SIGTERM") -> None:
        self.step, self.name = step, name

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.Signals[self.name])

    def close(self) -> None: ...
