"""Metrics, loggers, conditioners, regions, optimizers and writers that are broken, each in one way."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from flowgen_points.metrics import CheckerboardShare
from flowgen_points.modality import Points

from flowgen.core.bottlenecks import FSQ, Plain
from flowgen.core.interfaces import Code
from flowgen.media.conditions import NumberCondition
from flowgen.media.regions import Prefix
from flowgen.training.loggers import JSONL
from flowgen.training.optimizers import Muon, adamw, groups


class NotANumber(CheckerboardShare):
    """."""

    def measure(self, clips, reference):
        return {**super().measure(clips, reference), "spread": float("nan")}


class DrawsGlobally(CheckerboardShare):
    """."""

    def measure(self, clips, reference):
        return super().measure(random.sample(clips, len(clips)), reference)


class DrawsInNumpy(CheckerboardShare):
    """."""

    def measure(self, clips, reference):
        np.random.shuffle(np.arange(3))
        return super().measure(clips, reference)


class ZeroesItsClips(CheckerboardShare):
    """."""

    def measure(self, clips, reference):
        figures = super().measure(clips, reference)
        for clip in clips:
            clip.data.zero_()
        return figures


class CannotFail:
    """How many clips there are."""

    def __init__(self, modality: Points):
        pass

    def measure(self, clips, reference):
        return {"clips": float(len(clips))}


class Counts(CheckerboardShare):
    """."""

    calls = 0

    def measure(self, clips, reference):
        self.calls += 1
        return {**super().measure(clips, reference), "calls": self.calls}


class Raises(JSONL):
    """Does not take what is no number."""

    def log(self, step, figures):
        if any(value != value for value in figures.values()):
            raise ValueError("a figure is not a number")
        super().log(step, figures)


class StartsAnew(JSONL):
    """."""

    def __init__(self, folder):
        (folder / "log.jsonl").unlink(missing_ok=True)
        super().__init__(folder)


class WritesElsewhere(JSONL):
    """."""

    def log(self, step, figures):
        with open("figures.txt", "a") as file:
            file.write(f"{step}\n")
        super().log(step, figures)


class LoggerDraws(JSONL):
    """."""

    def log(self, step, figures):
        torch.rand(1)
        super().log(step, figures)


@dataclass(frozen=True)
class NullIsZero(NumberCondition):
    """The null value is the middle of the range."""

    def null(self):
        return torch.tensor(-1.0)


@dataclass(frozen=True)
class ChokesOnJunk(NumberCondition):
    """."""

    def encode(self, value):
        return super().encode(value + 0)


@dataclass(frozen=True)
class HandsOutItsOwn(NumberCondition):
    """."""

    def encode(self, value):
        kept = vars(self).setdefault("kept", {})
        return kept.setdefault(value, super().encode(value))


@dataclass(frozen=True)
class OneValue(NumberCondition):
    """."""

    def encode(self, value):
        return super().encode(value) * 0


class AllKnown(Prefix):
    """."""

    def _known(self, place, size, lengths, u):
        return place < 99 * lengths[:, :1]


class OverLongs(Prefix):
    """Its length is a share of the batch, not of the clip."""

    def _known(self, place, size, lengths, u):
        return (place < 8).expand(len(lengths), -1)


class OwnDraw(Prefix):
    """."""

    def _known(self, place, size, lengths, u):
        return place < 1 + torch.randint(3, (len(lengths), 1))


class Forgets(Muon):
    """."""

    def load_state_dict(self, state_dict):
        torch.optim.Optimizer.load_state_dict(self, state_dict)


def half(parts, lr: float = 1e-3):
    """AdamW of the first part."""
    return adamw(parts[:1], lr)


class Uphill(torch.optim.SGD):
    """."""

    def __init__(self, parts, lr: float = 1e-3):
        super().__init__(groups(parts), lr=lr, weight_decay=0.0, maximize=True)


class OwnRate(torch.optim.SGD):
    """."""

    def __init__(self, parts, lr: float = 1e-3):
        super().__init__(groups(parts), lr=lr)

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 0.3
        return super().step(closure)


def in_place(modality, clips, path, metadata):
    """."""
    path.write_text(str(metadata) + " ".join(str(clip.data.tolist()) for clip in clips))


class OneChannel(Plain):
    """."""

    def forward(self, h, random=None, mask=None):
        z, penalty = super().forward(h, random, mask)
        return Code(z[..., :1], penalty)


class DropsAtWill(Plain):
    """."""

    def forward(self, h, random=None, mask=None):
        return super().forward(torch.nn.functional.dropout(h, 0.5), random, mask)


class WholeBatch(Plain):
    """."""

    def forward(self, h, random=None, mask=None):
        return super().forward(h / h.std((0, 1)), None, mask)


class Rounds(Plain):
    """."""

    def forward(self, h, random=None, mask=None):
        return super().forward(h.round(), random, mask)


class OffByOne(FSQ):
    """."""

    def codes(self, z):
        return super().codes(z).add(1).clamp(max=self.levels - 1)
