"""Clips that say what their flow starts from, for the coupling `given-pairs`: of reflow, and of bridges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

import torch
from torch.utils.data import get_worker_info

from flowgen.config import build
from flowgen.config.schema import Named, Slot
from flowgen.core.random import seed_of
from flowgen.core.ranges import Count, Integer
from flowgen.core.tree import tree_map
from flowgen.data.loader import Order, clips_at, many_clips
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset, Modality
from flowgen.runs.generator import Generator

_BLOCK = 256  # pairs made together: always the same ones, so that each is the same to the last bit


@dataclass(frozen=True)
class Reflow:
    """Noise, each with the sample that a trained run makes of it: paths learned from these are straighter (Liu et al. 2022).

    The run samples as its own `sample` section says, guidance included, under the conditions of its training clips; the
    solver should be one of an ODE. A pair is a function of its index and `seed`. Pairs are made when they are first met
    and kept in memory; every process makes those that it meets.

    Args:
        run: the folder of the trained run. The new one should have its encoder and its conditions.
        pairs: how many there are; a tenth as many more are held out.
        steps: solver steps for each; as many as the run takes by default.
    """

    modality: Modality
    run: str
    pairs: Count = 10_000
    steps: Count | None = None
    seed: Integer = 0
    held_out: bool = field(default=False, init=False)
    made: dict[int, list[Clip]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pairs < 1 or (self.steps is not None and self.steps < 1):
            raise UsageError(f"data: expected at least 1 pair and 1 step, got pairs={self.pairs}, steps={self.steps}")

    @cached_property
    def teacher(self) -> Generator:
        """The run, ready to sample. UsageError: it makes clips of another medium or format."""
        overrides = [] if self.steps is None else [f"sample.steps={self.steps}"]
        teacher = Generator.load(self.run, overrides=overrides)
        if teacher.modality != self.modality:
            raise UsageError(
                f"data.run: {self.run} makes clips of {teacher.modality}, and this config wants {self.modality}; "
                f"give it the modality section of the run"
            )
        return teacher

    @cached_property
    def asked(self) -> Dataset:
        """The clips whose conditions are asked for."""
        dataset = build("dataset", self.teacher.config.data, modality=self.teacher.modality)
        return dataset.validation() if self.held_out else dataset

    @property
    def conditions(self) -> dict[str, Mapping[str, Any]]:
        return {name: self.asked.conditions[name] for name in self.teacher.conditioners}

    def __len__(self) -> int:
        return max(1, self.pairs // 10) if self.held_out else self.pairs

    def clip(self, index: int, seed: int) -> Clip:
        """Pair `index`, the same for every seed."""
        block, place = divmod(index, _BLOCK)
        if block not in self.made:
            self.made[block] = self._make(block)
        return self.made[block][place]

    def validation(self) -> Reflow:
        other = replace(self)
        object.__setattr__(other, "held_out", True)
        other.__dict__["teacher"] = self.teacher
        return other

    def describe(self) -> dict[str, Any]:
        settings = self.teacher.config.sample
        return {"pairs": len(self), "run": self.run, "step": self.teacher.step, "solver_steps": settings.steps}

    def _make(self, block: int) -> list[Clip]:
        if self.teacher.device.type != "cpu" and get_worker_info() is not None:
            raise UsageError("data: worker processes cannot reach the GPU on which pairs are made; set train.workers=0")
        indices = range(block * _BLOCK, min((block + 1) * _BLOCK, len(self)))
        order = Order(self.seed, len(self.asked))
        shown = clips_at(self.asked, self.seed, [order[i] for i in indices])
        conditions = [{name: clip.conditions.get(name) for name in self.teacher.conditioners} for clip in shown]
        seed = seed_of(self.seed, "held-out pairs" if self.held_out else "pairs", block)
        noise = tree_map(torch.Tensor.cpu, self.teacher.noise(len(indices), seed))
        made = self.teacher.sample(conditions, seed=seed)
        return [
            replace(clip, source=f"{self.run}, pair {i}", start=tree_map(lambda x, k=k: x[k], noise))
            for k, (i, clip) in enumerate(zip(indices, made, strict=True))
        ]


@dataclass(frozen=True)
class Pairs:
    """Clips of one data set that start from clips of another: a bridge. Its conditions are those of the target.

    Args:
        source: the data set to start from.
        target: the data set to arrive at.
        aligned: clip i of the target belongs to clip i of the source (a sketch and its picture), and both are made with
            one seed. Otherwise each gets a clip of the source at random.
    """

    modality: Modality
    source: Annotated[Named, Slot("dataset")]
    target: Annotated[Named, Slot("dataset")]
    aligned: bool = False
    held_out: bool = field(default=False, init=False)

    @cached_property
    def parts(self) -> tuple[Dataset, Dataset]:
        """Source and target. UsageError: they are aligned, and of different lengths."""
        source, target = (build("dataset", part, modality=self.modality) for part in (self.source, self.target))
        if self.held_out:
            source, target = source.validation(), target.validation()
        if self.aligned and len(source) != len(target):
            raise UsageError(f"data.aligned: the source has {len(source)} clips and the target {len(target)}")
        return source, target

    @property
    def conditions(self) -> Mapping[str, Mapping[str, Any]]:
        return self.parts[1].conditions

    def __len__(self) -> int:
        return len(self.parts[1])

    def clip(self, index: int, seed: int) -> Clip:
        return self.clips([index], [seed])[0]

    def clips(self, indices: Sequence[int], seeds: Sequence[int]) -> list[Clip]:
        """Many clips at once, each as `clip` gives it."""
        source, target = self.parts
        others, draws = list(indices), list(seeds)
        if not self.aligned:
            others = [seed_of(seed, "which", index) % len(source) for index, seed in zip(indices, seeds, strict=True)]
            draws = [seed_of(seed, "start", index) for index, seed in zip(indices, seeds, strict=True)]
        ends = many_clips(target, indices, seeds)
        return [replace(end, start=start) for end, start in zip(ends, many_clips(source, others, draws), strict=True)]

    def validation(self) -> Pairs:
        other = replace(self)
        object.__setattr__(other, "held_out", True)
        return other

    def describe(self) -> dict[str, Any]:
        source, target = self.parts
        found = {f"source_{k}": v for k, v in source.describe().items()}
        return {"pairs": "aligned" if self.aligned else "at random", **found, **target.describe()}
