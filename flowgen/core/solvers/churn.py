"""EDM's stochastic sampler: noise is added by going back in time, and the ODE is solved from there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowgen.core.interfaces import Coefficients, Cond, Flow, Noise, Path
from flowgen.core.ranges import NonNegative, Positive, Share
from flowgen.core.solvers.base import Stateless, at, number
from flowgen.core.solvers.ode import Heun
from flowgen.core.tree import State, leaves, lincomb, tree_map

_MOST = math.sqrt(2) - 1  # at most as much new noise as there is (Karras et al. 2022, algorithm 2)


@dataclass(frozen=True)
class EDMChurn(Stateless):
    """Raise the noise level sigma/alpha by a factor 1 + gamma, then take Heun's step (Karras et al. 2022, algorithm 2).

    Both halves keep the marginals, so that the order is Heun's for any churn. gamma = min(churn (s - t), sqrt(2) - 1) is
    the paper's S_churn/N on N equal steps, and the same amount in all on any other grid. churn 0 is Heun's method.

    Args:
        churn: S_churn, the amount of noise renewed over all of the way.
        start: no noise is renewed before this time (S_max in noise levels).
        end: nor after this time (S_min).
        noise_scale: S_noise, standard deviation of what is added; above 1 against a network that removes too much.
    """

    churn: NonNegative = 10.0
    start: Share = 0.0
    end: Share = 1.0
    noise_scale: Positive = 1.0
    order = 2
    evaluations = 2

    def __post_init__(self) -> None:
        if self.churn < 0 or self.noise_scale <= 0 or not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"expected churn >= 0, 0 <= start < end <= 1 and noise_scale > 0, got churn={self.churn}, "
                f"start={self.start}, end={self.end} and noise_scale={self.noise_scale}"
            )

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        h = number(s) - number(t)
        if h < 0 and self.churn:
            raise ValueError("a stochastic solver cannot run backwards; invert with an ODE solver such as heun")
        gamma = min(self.churn * h, _MOST)
        if gamma > 0 and self.start <= float(t) <= self.end:
            earlier = self._earlier(flow, t, gamma)
            if earlier < t:
                x, t = renoised(flow, x, t, earlier, noise, (t, s), self.noise_scale), earlier
        return Heun().step(flow, x, t, s, state, noise, cond)

    def _earlier(self, flow: Flow, t: Tensor, gamma: float) -> Tensor:
        """The time at which sigma/alpha is 1 + gamma times what it is at t; where streams differ, the latest of theirs."""

        def leaf(path: Path) -> Tensor:
            c = path(t)
            if c.sigma == 0:  # nothing to raise
                return t
            return path.time_of_snr(torch.as_tensor(c.alpha / c.sigma / (1 + gamma), dtype=torch.float64))

        return torch.stack(list(leaves(tree_map(leaf, flow.path)))).max().clamp(min=0.0)


def renoised(
    flow: Flow, x: State, t: Tensor, earlier: Tensor, noise: Noise, label: tuple[Tensor, Tensor], scale: float = 1.0
) -> State:
    """x_t carried back to an earlier time by the forward process: with fresh noise of the variance that is missing.

    (alpha_e/alpha_t) x + sqrt(sigma_e^2 - (alpha_e sigma_t/alpha_t)^2) z: what is p_t before is p_e after. `label`: the
    interval by which `noise` names the draw.
    """

    def kept(now: Coefficients, then: Coefficients) -> float:
        return then.alpha / now.alpha if then.alpha else 0.0

    def fresh(now: Coefficients, then: Coefficients) -> float:
        return scale * math.sqrt(max(then.sigma**2 - (kept(now, then) * now.sigma) ** 2, 0.0))

    now, then = at(flow.path, t), at(flow.path, earlier)
    shares = [tree_map(lambda leaf, now, then, of=of: of(now, then), x, now, then) for of in (kept, fresh)]
    return lincomb((shares[0], x), (shares[1], noise(x, *label)))
