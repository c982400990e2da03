"""Adaptive solvers: as many evaluations as the asked accuracy takes, decided for every sample on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowgen.core.interfaces import Cond, Flow, Noise
from flowgen.core.ranges import Count, Positive
from flowgen.core.solvers.base import Stateless
from flowgen.core.tree import State, batch_size, first_leaf, leaves, left, lincomb, tree_map

# Dormand and Prince 1980; the weights of the fifth-order result are the last row, so its slope opens the next step
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_MEMORY = 0.04
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class _Carried(NamedTuple):
    """For every sample: the next step size, the error of its last accepted step in units of the tolerance, the slope."""

    h: Tensor
    error: Tensor
    slope: State


@dataclass(frozen=True)
class DormandPrince(Stateless):
    """The Runge-Kutta pair 5(4), with a step size and an accept mask for every sample.

    A sample's result does not depend on what else is in the batch; the batch costs what its hardest sample costs. Times
    reach the flow as [B]. Gradients are those of the steps that were taken: their sizes count as constants.

    ValueError: a sample takes more than `max_steps` steps between two points of the grid.
    """

    rtol: Positive = 1e-5
    atol: Positive = 1e-5
    max_steps: Count = 1000
    order = 5
    evaluations = 6
    """For each step it tries; a grid point is reached in as many as the tolerance takes."""

    def __post_init__(self) -> None:
        if self.rtol <= 0 or self.atol <= 0 or self.max_steps < 1:
            raise ValueError(
                f"tolerances and max_steps must be positive, got {self.rtol}, {self.atol}, {self.max_steps}"
            )

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: _Carried | None, noise: Noise, cond: Cond | None
    ) -> tuple[State, _Carried]:
        place = first_leaf(x).device
        now = t.to(place).repeat(batch_size(x))
        end, sign = s.to(place), 1.0 if s > t else -1.0
        if state is None:
            slope = flow(x, now, cond).velocity
            with torch.no_grad():
                h = self._first_size(flow, x, now, end, slope, cond)
            before = torch.ones_like(h)
        else:
            h, before, slope = state
        for _ in range(self.max_steps):
            # the last step of a sample ends on the grid point; h keeps the size the controller asked for
            taken = torch.minimum(h, (end - now).abs()) * sign
            lands = taken.abs() >= (end - now).abs()
            arrival = torch.where(lands, end, now + taken)
            ks = [slope]
            for row, c in zip(_A, _C, strict=True):
                y = lincomb((1.0, x), *((taken * a, k) for a, k in zip(row, ks, strict=True) if a))
                ks.append(flow(y, arrival if c == 1 else now + c * taken, cond).velocity)
            with torch.no_grad():
                error = self._norm(lincomb(*((taken * e, k) for e, k in zip(_ERROR, ks, strict=True) if e)), x, y)
                _refuse_not_finite(error, now, arrival)
                accept = error <= 1
                waits = accept & (now == end) & (taken == 0)  # it is there, and others are not
                h, before = _next_size(h, before, taken.abs(), error, lands, waits)
            x = tree_map(lambda new, old, m=accept: torch.where(left(m, new), new, old), y, x)
            slope = tree_map(lambda new, old, m=accept: torch.where(left(m, new), new, old), ks[-1], slope)
            now = torch.where(accept, arrival, now)
            if bool((now == end).all()):
                return x, _Carried(h, before, slope)
        i = int((now != end).nonzero()[0])
        raise ValueError(
            f"sample {i} has only come to t = {float(now[i]):g} after {self.max_steps} steps towards {float(end):g}; "
            "loosen rtol and atol, or check whether the velocity is singular there"
        )

    def _norm(self, gap: State, x: State, y: State) -> Tensor:
        """Root mean square of the error in units of the tolerance, [B]."""

        def leaf(gap: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
            scaled = gap / (self.atol + self.rtol * torch.maximum(x.abs(), y.abs()))
            return scaled.flatten(1).double().square().sum(1), scaled.shape[1:].numel()

        parts = list(leaves(tree_map(leaf, gap, x, y)))
        return torch.sqrt(torch.stack([p for p, _ in parts]).sum(0) / sum(n for _, n in parts))

    def _first_size(self, flow: Flow, x: State, t: Tensor, end: Tensor, slope: State, cond: Cond | None) -> Tensor:
        """Hairer, Norsett and Wanner, Solving ODEs I, section II.4."""
        length = (end - t).abs()
        d0, d1 = self._norm(x, x, x), self._norm(slope, x, x)
        guess = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).minimum(length)
        guess = guess * torch.sign(end - t)
        other = flow(lincomb((1.0, x), (guess, slope)), t + guess, cond).velocity
        d2 = self._norm(lincomb((1.0, other), (-1.0, slope)), x, x) / guess.abs()
        largest = torch.maximum(d1, d2)
        size = torch.where(largest <= 1e-15, (guess.abs() * 1e-3).clamp(min=1e-6), (0.01 / largest) ** 0.2)
        return torch.minimum(100 * guess.abs(), size).minimum(length)


def _next_size(
    h: Tensor, before: Tensor, taken: Tensor, error: Tensor, lands: Tensor, waits: Tensor
) -> tuple[Tensor, Tensor]:
    """The size of the next step, and the error of the last accepted one.

    Proportional and integral control: with a view to the error before, far fewer steps are tried in vain (Hairer and
    Wanner, Solving ODEs II, section IV.2).
    """
    accept = error <= 1
    error = error.clamp(min=1e-12)
    steady = torch.where(accept, error ** (0.75 * _MEMORY - 0.2) * before**_MEMORY, error**-0.2)
    # rounded to float32: the last bit of a power depends on the place in the batch
    factor = (0.9 * steady).clamp(0.2, 10.0).float()
    # a step cut short by the grid point says little about the size the sample could take
    grown = torch.where(lands & accept, torch.maximum(h, taken * factor), taken * factor)
    return torch.where(waits, h, grown), torch.where(accept & ~waits, error.clamp(min=1e-4), before)


def _refuse_not_finite(error: Tensor, now: Tensor, arrival: Tensor) -> None:
    if bool(torch.isfinite(error).all()):
        return
    i = int((~torch.isfinite(error)).nonzero()[0])
    raise ValueError(
        f"the velocity of sample {i} is not finite between t = {float(now[i]):g} and {float(arrival[i]):g}; "
        "check the network, and whether its prediction is singular there"
    )
