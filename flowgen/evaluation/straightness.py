"""How straight the trajectories of a trained run are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from flowgen.core.interfaces import FlowMap
from flowgen.core.sampler import prior
from flowgen.core.straightness import straightness
from flowgen.errors import UsageError
from flowgen.evaluation.rows import Row
from flowgen.media.conditions import encode_conditions
from flowgen.runs.generator import Generator
from flowgen.runs.sampling import accurate

STEPS, MOST = 64, 64


def straightness_row(generator: Generator, conditions: Sequence[Mapping[str, Any]], seed: int) -> Row:
    """The mean straightness of at most 64 trajectories under the conditions, without guidance, solved in 64 steps of Euler.

    UsageError: the run is a flow map, which has no trajectories.
    """
    asked = conditions[:MOST]
    noise = generator.noise(len(asked), seed)
    flow = generator.flow(noise)
    if isinstance(flow, FlowMap):
        raise UsageError("--straightness: the run is a flow map, which jumps; measure the run that it was taken from")
    settings = accurate(generator.config.sample, STEPS)
    grid = generator.grid(settings, noise)
    cond = generator.on_device(encode_conditions(generator.conditioners, asked))
    with torch.inference_mode():
        found = straightness(flow, prior(flow.path, noise, float(grid[0])), grid, cond=cond)
    value, error = float(found.mean()), float(found.std()) / len(found) ** 0.5 if len(found) > 1 else 0.0
    interval = {"generated": (value - 1.96 * error, value + 1.96 * error)}
    return Row("trajectories", "straightness", value, None, None, intervals=interval)
