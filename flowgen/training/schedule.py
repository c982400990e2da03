"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from flowgen.config.schema import Schedule


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear warm-up to `peak`, then decay to floor x peak."""
    if step < schedule.warmup:
        return peak * (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(steps - schedule.warmup, 1)
    match schedule.decay:
        case "constant":
            factor = 1.0
        case "linear":
            factor = 1 - done
        case "cosine":
            factor = (1 + math.cos(math.pi * done)) / 2
    return peak * (schedule.floor + (1 - schedule.floor) * factor)
