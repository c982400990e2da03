"""One evaluation: three sets of equally many clips under the same metrics.

generated    sampled with the conditions of the real clips below
round trip   the real clips, encoded and decoded: the best a generator behind this encoder could do
real         held-out clips of the data set: what the metrics say of the truth

Metrics that compare with a reference get real clips that are in none of the sets.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from flowgen import __version__
from flowgen.core.random import seed_of
from flowgen.core.tree import batch_size
from flowgen.data.loader import Order
from flowgen.device import device_name
from flowgen.errors import FlowgenError, UsageError
from flowgen.evaluation.continuing import compare, continuations, from_streams
from flowgen.evaluation.controls import CONTROLS, control_clips, like_asked, lossless
from flowgen.evaluation.rows import Row, finite, measure
from flowgen.evaluation.straightness import straightness_row
from flowgen.files import read_json, write_json
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset, Metric
from flowgen.runs.generator import Generator, Weights
from flowgen.runs.requests import request_like

_PACKAGES = ("torch", "torchaudio", "torchvision", "numpy", "scipy", "scikit-learn")


_ROWS = TypeAdapter(tuple[Row, ...])


@dataclass(frozen=True)
class Evaluation:
    """Figures, and the settings under which they hold (plain JSON values)."""

    rows: tuple[Row, ...]
    settings: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {**self.settings, "figures": [asdict(row) for row in self.rows]}

    def row(self, name: str) -> Row:
        """The row of a figure. KeyError: there is none."""
        return {row.name: row for row in self.rows}[name]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Evaluation:
        settings = {k: v for k, v in value.items() if k != "figures"}
        return cls(_ROWS.validate_python(value["figures"]), settings)

    @property
    def controls(self) -> dict[str, list[str]]:
        """By control, the figures that tell it from real clips by more than their sampling error; none without `--controls`."""
        if "controls" not in self.settings:
            return {}
        return {
            control: [f"{row.metric}: {row.name}" for row in self.rows if row.fails(control)]
            for control in CONTROLS
            if control not in self.settings["controls_missing"]
        }


@dataclass(frozen=True)
class Sets:
    """Held-out real clips to measure, and others to compare with; `origin` says in words where the others are from."""

    real: list[Clip]
    reference: list[Clip]
    origin: str


def draw_sets(dataset: Dataset, n: int, seed: int) -> Sets:
    """At most n held-out clips in an order that depends on the seed, and equally many others: held out too, or from
    training where too few are. Where there are fewer clips than asked for, both sides are as small as the smaller one.

    UsageError: no clip is held out.
    """
    held_out = dataset.validation()
    own, others = Order(seed, len(held_out)), Order(seed, len(dataset))

    def clip(data: Dataset, order: Order, position: int) -> Clip:
        index = order[position].index
        return data.clip(index, seed_of(seed, "evaluation", index))

    if len(held_out) >= 2 * n:
        reference = [clip(held_out, own, n + i) for i in range(n)]
        return Sets([clip(held_out, own, i) for i in range(n)], reference, f"{n} other held-out clips")
    n = min(n, len(held_out), len(dataset))
    if n == 0:
        raise UsageError("the data hold out no clip to measure; give `data` a held-out part")
    reference = [clip(dataset, others, i) for i in range(n)]
    return Sets([clip(held_out, own, i) for i in range(n)], reference, f"{n} training clips")


def evaluate(
    generator: Generator,
    dataset: Dataset,
    metrics: Sequence[tuple[str, Metric]],
    *,
    weights: Weights = "ema",
    continued: float | None = None,
    given: Sequence[str] = (),
    controls: bool = False,
    straight: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a generator as its config's `eval` section says (number of clips, seed).

    Args:
        metrics: by name, as `Experiment.metrics`.
        weights: which ones the generator was loaded with, for the record.
        continued: give this many seconds of each real clip, and measure their continuations.
        given: give these streams of each real clip, and measure what is made to them.
        controls: measure the negative controls, too (see `flowgen.evaluation.controls`).
        straight: measure how straight the trajectories are, too.
        on_step: called with the number of solver steps done and their total.

    UsageError: controls of continuations or of given streams are asked for, or both are given.
    """
    if controls + bool(given) + (continued is not None) > 1:
        raise UsageError("give one of --controls (whole clips), --continue and --given")
    config = generator.config
    seed = config.eval.seed
    sets = draw_sets(dataset, config.eval.clips, seed)
    n = len(sets.real)
    asked = [{k: clip.conditions.get(k) for k in generator.conditioners} for clip in sets.real]
    straightness = (
        [straightness_row(generator, asked, seed)] if straight else []
    )  # what it refuses, before all is sampled
    with _Counter(generator.network) as counter:
        began = time.perf_counter()
        if given:
            generated = from_streams(generator, sets.real, given, asked, seed=seed, on_step=on_step)
        elif continued is None:
            generated = generator.sample(request_like(sets.real, asked, seed=seed), on_step=on_step)
        else:
            generated = continuations(generator, sets.real, continued, asked, seed=seed, on_step=on_step)
        seconds = time.perf_counter() - began
    real = [like_asked(clip, asked[0]) for clip in sets.real]
    clips = {"generated": generated, "round_trip": generator.reconstruct(real), "real": real}
    made, missing = control_clips(generator, dataset, sets.real, asked, seed) if controls else ({}, {})
    if controls and lossless(clips["round_trip"], real):
        missing["round_trip"] = "the encoder loses nothing"
    rows = [row for name, metric in metrics for row in measure(name, metric, {**clips, **made}, sets.reference, seed)]
    if continued is not None:
        agreement = compare(generator, generated, sets.real, continued)
        rows += [Row("continuation", name, finite(value), None, None) for name, value in agreement.items()]
    rows += straightness
    sample = config.sample.model_dump(mode="json")
    settings = {
        "name": config.name,
        "step": generator.step,
        "weights": weights,
        "clips": n,
        "clips_asked": config.eval.clips,
        "seed": seed,
        "conditions": sorted(generator.conditioners),
        "continued_s": continued,
        "given": list(given),
        "reference": sets.origin,
        "steps": sample["steps"],
        "solver": sample["solver"],
        "guidance": sample["guidance"],
        "evaluations_per_clip": counter.rows / n,
        "seconds_per_clip": seconds / n,
        "metrics": [m.model_dump(mode="json") for m in config.eval.metrics],
        **({"controls": list(made), "controls_missing": missing} if controls else {}),
        **machine(generator.device),
    }
    return Evaluation(tuple(rows), settings)


def save(result: Evaluation, path: Path) -> None:
    """Write an evaluation as JSON. FlowgenError: it cannot be written."""
    write_json(result.as_json(), path)


def load(path: Path) -> Evaluation:
    """Read what `save` wrote. FlowgenError: it is no evaluation."""
    try:
        return Evaluation.from_json(read_json(path))
    except (UsageError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlowgenError(
            f"cannot read the evaluation {path}: {error}; write it again with: flowgen eval RUN"
        ) from None


def figure(value: float | None) -> str:
    """Three significant digits; a dash for what a set does not give."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine(device: torch.device) -> dict[str, Any]:
    """Where and with what figures were taken."""
    packages = {"flowgen": __version__}
    for name in _PACKAGES:
        packages[name] = importlib.metadata.version(name)
    return {
        "device": device_name(device),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": packages,
    }


class _Counter:
    """Counts the rows a network sees: evaluations of single clips, whatever solver and guidance make of a step."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.rows = network, 0

    def __enter__(self) -> _Counter:
        self._hook = self.network.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _count(self, network: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        self.rows += batch_size(arguments[0])
