"""Averages of any width after the run, out of the power-function averages in its checkpoints (Karras et al. 2024, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowgen.errors import UsageError
from flowgen.runs.run import Run
from flowgen.training.ema import exponent


@dataclass(frozen=True)
class Profile:
    """Weight t^gamma over the steps (0, end], with integral 1; below 0 and beyond `end`, 0."""

    end: int
    gamma: float

    def dot(self, other: Profile) -> float:
        """Integral of the product of two profiles."""
        first, last = (self, other) if self.end <= other.end else (other, self)
        ratio = (first.end / last.end) ** last.gamma
        return (first.gamma + 1) * (last.gamma + 1) * ratio / ((first.gamma + last.gamma + 1) * last.end)


def combination(stored: list[Profile], wanted: Profile) -> tuple[Tensor, float]:
    """Coefficients of sum 1, float64 [len(stored)], that bring stored profiles nearest to a wanted one in least squares; and the
    share of its norm that they miss.
    """
    n = len(stored)
    system = torch.ones(n + 1, n + 1, dtype=torch.float64)  # the last row holds the sum at 1, by a Lagrange multiplier
    system[n, n] = 0.0
    system[:n, :n] = torch.tensor([[a.dot(b) for b in stored] for a in stored], dtype=torch.float64)
    aim = torch.tensor([*(a.dot(wanted) for a in stored), 1.0], dtype=torch.float64)
    scale = wanted.dot(wanted)  # of the order of 1 / end: brings the rows to one size
    system[:n, :n] /= scale
    aim[:n] /= scale
    x = torch.linalg.lstsq(system, aim[:, None], driver="gelsd").solution[:n, 0]
    missed = 1 - 2 * x @ aim[:n] + x @ system[:n, :n] @ x
    return x, math.sqrt(max(float(missed), 0.0))


def average_of_width(run: Run, width: float) -> tuple[dict[str, Tensor], float]:
    """The average of a relative width at the newest checkpoint of a run, float32 by name; and the share of its profile that is missed.

    UsageError: the run stores no such averages, or the width is none.
    """
    try:
        gamma = exponent(width)
    except ValueError as error:
        raise UsageError(f"--ema-width: {error}") from None
    widths = run.config().train.ema.profiles
    if not widths:
        raise UsageError(
            f"{run.folder} keeps no power-function averages to combine; train with train.ema.profiles=[0.05,0.1] and "
            f"a train.checkpoint.keep that leaves several checkpoints"
        )
    checkpoints = run.checkpoints()
    kept = [(c, w) for c in checkpoints for w in widths]
    profiles = [Profile(c.step, exponent(w)) for c, w in kept]
    coefficients, missed = combination(profiles, Profile(run.newest_checkpoint().step, gamma))
    sums: dict[str, Tensor] = {}
    whole: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        checkpoint.verify()
    for (checkpoint, w), coefficient in zip(kept, coefficients.tolist(), strict=True):
        whole = checkpoint.weights(f"ema-{w:g}")
        for name, value in whole.items():
            if value.is_floating_point():
                sums[name] = sums.get(name, torch.zeros(())) + coefficient * value.double()
    return {name: sums[name].to(value.dtype) if name in sums else value for name, value in whole.items()}, missed
