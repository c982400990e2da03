"""Do sound and picture belong together? Events that are seen beside events that are heard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowgen.errors import UsageError
from flowgen.evaluation.features import FromFeatures, agreement, shares
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better
from flowgen_av.bouncing import BALLS, MATERIALS, BouncingSounds
from flowgen_av.events import impacts, onsets
from flowgen_av.modality import AudioVideo

_MOST = 48
"""Events of a clip that are kept."""


class EventSynchrony(FromFeatures):
    """Visible impacts and onsets of sounds, each beside the nearest of the other kind, within one frame.

    `impacts_heard`: the share of impacts with an onset within a frame. `onsets_seen`: that of onsets with an impact.
    `error_ms` and `error_90_ms`: median and 90th percentile of the distance of those pairs, `lead_ms` its median with the sign
    of what comes late (positive: the sound). `shuffled`: the share of impacts heard where each picture is given the sound of
    another clip, what chance would reach. Events within two frames of either end are looked for, and not counted.

    A clip without any impact, or without any onset, counts by what it has: its onsets are unseen, its impacts unheard.
    """

    better: ClassVar[Mapping[str, Better]] = {"impacts_heard": "higher", "onsets_seen": "higher", "error_ms": "lower"}

    def __init__(self, modality: AudioVideo, dataset: Any) -> None:
        _check(dataset, "event-synchrony")
        self.modality, self.radius = modality, dataset.radius

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        seen, heard = ([self.events(clip)[name] for clip in clips] for name in ("picture", "sound"))
        length = [self.modality.seconds(clip) for clip in clips]
        return {"seen": _padded(seen), "heard": _padded(heard), "seconds": torch.tensor(length, dtype=torch.float64)}

    def events(self, clip: Clip) -> dict[str, list[float]]:
        """Seconds of the impacts that are seen (`picture`) and of the onsets that are heard (`sound`)."""
        picture, sound = (self.modality.stream_of(clip, name) for name in ("picture", "sound"))
        return {
            "picture": [] if picture is None else impacts(picture.data, self.modality.fps, self.radius),  # type: ignore[arg-type]
            "sound": [] if sound is None else onsets(sound.data, self.modality.sample_rate),  # type: ignore[arg-type]
        }

    def draw(self, clip: Clip, path: Path) -> None:
        """The frames and the sound of a clip under each other, with both kinds of events marked."""
        self.modality.sheet([clip], path, events=[self.events(clip)])

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        seen, heard, seconds = found["seen"], found["heard"], found["seconds"]
        if not len(seen):
            return {}
        frame = 1 / self.modality.fps
        impacts_by, onsets_by = (_nearest(*pair, seconds, 2 * frame) for pair in ((seen, heard), (heard, seen)))
        figures = {"impacts_heard": _share(impacts_by, frame), "onsets_seen": _share(onsets_by, frame)}
        errors = 1000 * impacts_by[impacts_by.abs() <= frame]
        if len(errors):
            figures["error_ms"] = float(errors.abs().median())
            figures["error_90_ms"] = float(errors.abs().quantile(0.9))
            figures["lead_ms"] = float(errors.median())
        if len(seen) > 1:
            figures["shuffled"] = _share(_nearest(seen, heard.roll(1, 0), seconds, 2 * frame), frame)
        return {name: value for name, value in figures.items() if not math.isnan(value)}


class BounceAgreement(FromFeatures):
    """Whether the asked ball and material are seen and heard.

    `ball_seen` by colour and `ball_heard` by pitch, `material_seen` by shape and `material_heard` by decay: each is what the
    nearest of the mean features of real clips says. A clip in which nothing is seen (or heard) counts against it.
    """

    judged = ("ball_seen", "ball_heard", "material_seen", "material_heard")
    better: ClassVar[Mapping[str, Better]] = dict.fromkeys(judged, "higher")

    def __init__(self, modality: AudioVideo, dataset: Any) -> None:
        _check(dataset, "bounce-agreement")
        self.modality, self.radius = modality, dataset.radius

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        asked = {name: [clip.conditions.get(name) for clip in clips] for name in ("ball", "material")}
        seen = [self._seen(clip) for clip in clips]
        heard = [self._heard(clip) for clip in clips]
        return {
            "ball_seen": agreement([ball for ball, _ in seen], asked["ball"]),
            "material_seen": agreement([material for _, material in seen], asked["material"]),
            "ball_heard": agreement([ball for ball, _ in heard], asked["ball"]),
            "material_heard": agreement([material for _, material in heard], asked["material"]),
        }

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        return shares(found)

    def readings(self, clips: Sequence[Clip]) -> list[dict[str, str]]:
        """What is seen and heard in each clip."""
        return [
            {"ball seen": str(s[0]), "material seen": str(s[1]), "ball heard": str(h[0]), "material heard": str(h[1])}
            for s, h in ((self._seen(clip), self._heard(clip)) for clip in clips)
        ]

    def _seen(self, clip: Clip) -> tuple[str | None, str | None]:
        picture = self.modality.stream_of(clip, "picture")
        if picture is None:
            return None, None
        frames: Any = picture.data
        light = frames.float() / 255
        bright = light.amax(-1)
        if float(bright.max()) < 0.2:
            return None, None
        colour = (light * bright[..., None]).flatten(0, 2).sum(0)
        likeness = {
            name: float(torch.nn.functional.cosine_similarity(colour, torch.tensor(own), dim=0))
            for name, (own, _) in BALLS.items()
        }
        # a square covers 4/pi times as much as a disc of its width; what is fainter than a quarter of it is no ball
        cover = bright / bright.flatten(1).amax(1)[:, None, None].clamp(min=0.2)
        area = float((cover * (cover > 0.25)).flatten(1).sum(1).median())
        disc, square = math.pi * self.radius**2, (2 * self.radius) ** 2
        return max(likeness, key=likeness.__getitem__), "wood" if area > (disc + square) / 2 else "bell"

    def _heard(self, clip: Clip) -> tuple[str | None, str | None]:
        sound = self.modality.stream_of(clip, "sound")
        if sound is None:
            return None, None
        wave: Any = sound.data.float().mean(0)  # type: ignore[union-attr]
        at, rate = onsets(sound.data, self.modality.sample_rate), self.modality.sample_rate  # type: ignore[arg-type]
        if not at:
            return None, None
        n = round(0.1 * rate)
        parts = [wave[round(t * rate) : round(t * rate) + n] for t in at]
        parts = [part for part in parts if len(part) == n]
        if not parts:
            return None, None
        struck = torch.stack(parts)
        power = torch.fft.rfft(struck * torch.hann_window(n), 4 * n).abs().square().sum(0)
        hertz = torch.fft.rfftfreq(4 * n, 1 / rate)
        near = {
            name: float(power[(hertz > 0.88 * own) & (hertz < 1.12 * own)].sum()) for name, (_, own) in BALLS.items()
        }
        early, late = (struck[:, part].square().mean(1) for part in (slice(0, n // 4), slice(3 * n // 4, n)))
        fallen = float((late.clamp(min=1e-9) / early.clamp(min=1e-9)).log().quantile(0.25))  # others may follow closely
        # between the two decays, at the middle of both parts of the sound
        bell, wood = (-2 * 0.075 / decay for _, decay in MATERIALS.values())
        return max(near, key=near.__getitem__), "wood" if fallen < (bell + wood) / 2 else "bell"


def _check(dataset: Any, metric: str) -> None:
    if not isinstance(dataset, BouncingSounds):
        raise UsageError(
            f"metric {metric!r} measures clips of the data set bouncing-sounds, not of {type(dataset).__name__}; "
            "take it out of eval.metrics"
        )


def _padded(events: Sequence[Sequence[float]]) -> Tensor:
    """Seconds [N, 48], filled with not-a-number."""
    out = torch.full((len(events), _MOST), math.nan, dtype=torch.float64)
    for row, own in zip(out, events, strict=True):
        row[: len(own[:_MOST])] = torch.tensor(own[:_MOST], dtype=torch.float64)
    return out


def _nearest(of: Tensor, to: Tensor, seconds: Tensor, edge: float) -> Tensor:
    """Of every event further than `edge` from both ends, how much later the nearest of the other kind is; inf: there is none."""
    counted = (of >= edge) & (of <= seconds[:, None] - edge)  # false for what is not there
    later = to[:, None, :] - of[:, :, None]
    distance = later.abs().nan_to_num(nan=math.inf)
    nearest = later.gather(2, distance.argmin(2, keepdim=True))[..., 0]
    return nearest.nan_to_num(nan=math.inf)[counted]


def _share(distances: Tensor, within: float) -> float:
    return float((distances.abs() <= within).double().mean()) if len(distances) else math.nan
