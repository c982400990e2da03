"""The medium: a clip holds a melody and a light, one value a step each, at rates of their own; one of them may be absent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowgen.core.random import generator
from flowgen.core.ranges import Count, Share
from flowgen.errors import FlowgenError, UsageError
from flowgen.files import replacing
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.interfaces import Dataset, Modality
from flowgen.media.streams import Axis, StreamSpec

SECONDS = 2.0
RATES = {"melody": 16.0, "light": 4.0}


def light_of(melody: Tensor) -> Tensor:
    """What a light shows: the mean of the melody [..., 32, 1] over each of its steps, [..., 8, 1]."""
    return melody.unflatten(-2, (-1, round(RATES["melody"] / RATES["light"]))).mean(-2)


@dataclass(frozen=True)
class Curve:
    """One stream: a curve [steps, 1] of `rate` steps a second, as text with a value on each line."""

    formats: ClassVar[Mapping[str, str]] = {".txt": "text/plain"}
    clips_per_file: ClassVar[int | None] = 1
    rate: float

    def seconds(self, clip: Clip) -> float:
        return len(clip.data) / self.rate

    def cut(self, clip: Clip, start_s: float, end_s: float) -> Clip:
        return replace(clip, data=clip.data[round(start_s * self.rate) : round(end_s * self.rate)])  # type: ignore[index]

    def join(self, clips: Sequence[Clip]) -> Clip:
        return replace(clips[0], data=torch.cat([clip.data for clip in clips]))  # type: ignore[misc]

    def read(self, path: Path) -> Clip:
        try:
            values = [float(line) for line in Path(path).read_text().splitlines() if not line.startswith("#")]
        except (OSError, ValueError) as error:
            raise FlowgenError(f"cannot read {path} as a curve: {error}") from None
        if not values:
            raise FlowgenError(f"{path} has no values; a curve has one on each line")
        return Clip(torch.tensor(values)[:, None], self.rate, source=str(path))

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        values = "".join(f"{value:.9g}\n" for value in clips[0].data[:, 0].tolist())  # type: ignore[call-overload, index]
        with replacing(Path(path)) as temporary:
            temporary.write_text(f"# {json.dumps(metadata)}\n{values}")

    def sheet(self, clips: Sequence[Clip], path: Path, captions: Sequence[str] = ()) -> None:
        draw([{"curve": clip} for clip in clips], path, captions)


@dataclass(frozen=True)
class Duet:
    """Two streams: a melody and a light, of one length in seconds. Files are JSON with a list for each."""

    formats: ClassVar[Mapping[str, str]] = {".json": "application/json"}
    clips_per_file: ClassVar[int | None] = 1
    streams: Mapping[str, Modality] = field(
        default_factory=lambda: {name: Curve(rate) for name, rate in RATES.items()}, init=False
    )

    def seconds(self, clip: Clip) -> float:
        return max(len(values) / RATES[name] for name, values in clip.data.items())  # type: ignore[union-attr]

    def cut(self, clip: Clip, start_s: float, end_s: float) -> Clip:
        return self._each([clip], lambda curve, parts: curve.cut(parts[0], start_s, end_s))

    def join(self, clips: Sequence[Clip]) -> Clip:
        return self._each(clips, lambda curve, parts: curve.join(parts))

    def _each(self, clips: Sequence[Clip], make: Callable[[Curve, list[Clip]], Clip]) -> Clip:
        """The same of each stream that all clips have."""
        parts = {name: [self.stream_of(clip, name) for clip in clips] for name in RATES}
        made = {name: make(Curve(RATES[name]), own) for name, own in parts.items() if None not in own}  # type: ignore[arg-type]
        return replace(self.combined(made), conditions=clips[0].conditions, source=clips[0].source)

    def stream_of(self, clip: Clip, name: str) -> Clip | None:
        assert isinstance(clip.data, Mapping)
        return Clip(clip.data[name], RATES[name], source=clip.source) if name in clip.data else None

    def combined(self, parts: Mapping[str, Clip]) -> Clip:
        data: Any = {name: part.data for name, part in parts.items()}
        return Clip(data, {name: RATES[name] for name in parts})

    def read(self, path: Path) -> Clip:
        try:
            found = json.loads(Path(path).read_text())
            data = {name: torch.tensor(found[name], dtype=torch.float32)[:, None] for name in RATES if name in found}
        except (OSError, ValueError, TypeError, IndexError) as error:
            raise FlowgenError(f"cannot read {path} as a duet: {error}") from None
        if not data or not all(map(len, data.values())):
            raise FlowgenError(f"{path} has neither a melody nor a light, or an empty one")
        if len({len(values) / RATES[name] for name, values in data.items()}) > 1:
            raise FlowgenError(f"{path}: melody and light are not of one length; there are 16 and 4 values a second")
        return Clip(data, {name: RATES[name] for name in data}, source=str(path))

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        if len(clips) != 1:
            raise UsageError(f"{path}: a file holds one duet, got {len(clips)}")
        assert isinstance(clips[0].data, Mapping)
        values = {name: leaf[:, 0].tolist() for name, leaf in clips[0].data.items()}
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps({**values, "metadata": metadata}))

    def sheet(self, clips: Sequence[Clip], path: Path, captions: Sequence[str] = ()) -> None:
        parts = [{name: self.stream_of(clip, name) for name in RATES} for clip in clips]
        draw([{name: clip for name, clip in own.items() if clip is not None} for own in parts], path, captions)


def draw(rows: Sequence[Mapping[str, Clip]], path: Path, captions: Sequence[str]) -> None:
    """A row for each clip, with all its curves over the seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.8 * len(rows) + 0.4), layout="constrained")
    for i, (curves, axes) in enumerate(zip(rows, figure.subplots(len(rows), squeeze=False)[:, 0], strict=True)):
        for clip in curves.values():
            values: Any = clip.data
            axes.step([k / clip.rate for k in range(len(values))], values[:, 0].tolist(), where="post")  # type: ignore[operator]
        axes.set_axis_off()
        axes.set_title(captions[i] if i < len(captions) else "", fontsize=7, loc="left")
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png")


class Duets:
    """Melodies of one sine each, with the light that shows their mean. A share of the clips, `solo`, has no light."""

    conditions: Mapping[str, Mapping[str, Any]] = {}

    def __init__(self, modality: Duet, *, count: Count = 4096, solo: Share = 0.1, held_out: bool = False) -> None:
        self.modality, self.count, self.solo, self.held_out = modality, count, solo, held_out

    def __len__(self) -> int:
        return 256 if self.held_out else self.count

    def key(self, index: int) -> str:
        return f"{'held out' if self.held_out else 'training'} {index}"

    def clip(self, index: int, seed: int) -> Clip:
        u = torch.rand(4, generator=generator(self.key(index))).tolist()
        time = torch.arange(32) / RATES["melody"]
        melody = ((0.5 + u[0]) * torch.sin(2 * math.pi * (u[1] + (0.3 + u[2]) * time)))[:, None]
        data = {"melody": melody, "light": light_of(melody)}
        if u[3] < self.solo:
            del data["light"]
        return Clip(data, {name: RATES[name] for name in data}, source=self.key(index))

    def validation(self) -> Dataset:
        return Duets(self.modality, count=self.count, solo=self.solo, held_out=True)

    def describe(self) -> dict[str, Any]:
        return {"duets": len(self), "without light": self.solo}


class CurveEncoder(Encoder):
    """Latents [B, steps, 1]: the values of a curve in units of their deviation over the data set."""

    scale: Tensor

    def __init__(self, modality: Curve) -> None:
        super().__init__()
        self.modality = modality
        self.spec = StreamSpec(1, (Axis("time", round(SECONDS * modality.rate), modality.rate),))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, clips: Sequence[Clip]) -> None:
        self.scale.copy_(torch.stack([clip.data for clip in clips]).std())  # type: ignore[arg-type]

    def latent_shape(self, seconds: float) -> tuple[int, ...]:
        steps = seconds * self.modality.rate
        if abs(steps - round(steps)) > 1e-6:
            raise UsageError(f"{seconds:g} s are not a whole number of steps at {self.modality.rate:g} a second")
        return (round(steps), 1)

    def marked(self, mask: Clip) -> Tensor:
        return mask.data[:, 0] > 0.5  # type: ignore[call-overload, index]

    def encode(self, clips: Sequence[Clip]) -> Latents:
        return Latents(torch.stack([clip.data for clip in clips]).to(self.scale) / self.scale)  # type: ignore[arg-type]

    def decode(self, latents: Latents) -> list[Clip]:
        assert isinstance(latents.x, Tensor)
        return [Clip(one, self.modality.rate) for one in (latents.x.float() * self.scale).cpu()]
