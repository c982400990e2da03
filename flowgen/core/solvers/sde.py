"""Stochastic solvers: dX = (v + w score) dt + sqrt(2 w) dW has the marginals of the ODE for every w(t) >= 0.

With w = c sigma the drift is v - c x0hat and the noise sqrt(2 c sigma dt): no 1/sigma, regular at the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowgen.core.interfaces import Coefficients, Cond, Flow, Noise
from flowgen.core.paths import Linear
from flowgen.core.ranges import Count, NonNegative, Positive
from flowgen.core.solvers.base import Stateless, at, combine, number
from flowgen.core.solvers.multistep import Progress, Seen, ends, extrapolation
from flowgen.core.tree import State, leaves, lincomb, tree_map


@dataclass(frozen=True)
class EulerMaruyama(Stateless):
    """x + h (v - churn x0hat) + sqrt(2 churn sigma h) z. churn 0 is Euler's method on the ODE."""

    churn: NonNegative = 1.0
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        _not_negative("churn", self.churn)

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        h = _forward(t, s, self.churn)
        estimate = flow(x, t, cond)
        now = at(estimate.path, t)
        x_s = combine(estimate, now, lambda c: {"x": 1.0, "velocity": h, "noise": -h * self.churn})
        return _add(x_s, now, lambda c: math.sqrt(2 * self.churn * c.sigma * h), noise, x, t, s), None


@dataclass(frozen=True)
class HeunSDE(Stateless):
    """The mean of the drifts at both ends, with one noise for both (stochastic Heun): second order in expectations."""

    churn: NonNegative = 1.0
    order = 2
    evaluations = 2

    def __post_init__(self) -> None:
        _not_negative("churn", self.churn)

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        h = _forward(t, s, self.churn)

        def drift(x: State, t: Tensor) -> tuple[State, Any]:
            estimate = flow(x, t, cond)
            weights = {"velocity": 1.0, "noise": -self.churn}
            return combine(estimate, at(estimate.path, t), lambda c: dict(weights)), estimate.path

        def size(now: Coefficients, then: Coefficients) -> float:
            # the variance of the noise over the step, to second order as well
            return math.sqrt(self.churn * (now.sigma + then.sigma) * h)

        first, paths = drift(x, t)
        x_noisy = _add(x, at(paths, t), size, noise, x, t, s, at(paths, s))
        second, _ = drift(lincomb((1.0, x_noisy), (h, first)), s)
        return lincomb((1.0, x_noisy), (h / 2, first), (h / 2, second)), None


@dataclass(frozen=True)
class Ancestral(Stateless):
    """alpha_s x1hat + sqrt(sigma_s^2 - tau^2) x0hat + tau z. eta 0 is DDIM, eta 1 on VP is DDPM (Song et al. 2020, eq. 16)."""

    eta: NonNegative = 1.0
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        _forward(t, s, self.eta)
        estimate = flow(x, t, cond)
        now, then = at(estimate.path, t), at(estimate.path, s)

        def fresh(now: Coefficients, then: Coefficients) -> float:
            if not self.eta or not then.sigma:
                return 0.0
            kept = now.alpha * then.sigma / (now.sigma * then.alpha)
            return self.eta * then.sigma * math.sqrt(1 - kept * kept)

        def weights(now: Coefficients, then: Coefficients) -> dict[str, float]:
            return {"data": then.alpha, "noise": math.sqrt(then.sigma**2 - fresh(now, then) ** 2)}

        x_s = combine(estimate, now, weights, then)
        return _add(x_s, now, fresh, noise, x, t, s, then), None


class DDIM(Ancestral):
    """The deterministic limit of ancestral sampling (Song et al. 2020); on the linear path it is Euler's method."""

    def __init__(self) -> None:
        super().__init__(eta=0.0)


@dataclass(frozen=True)
class BrownianBridge(Stateless):
    """((1 - s) x + (s - t) x1hat)/(1 - t) + sigma sqrt((s - t) (1 - s)/(1 - t)) z: the bridge from x to the estimated data.

    For runs that were trained with a bridge (the coupling `schroedinger-bridge`) of this sigma: the SDE of Shi et al. 2023
    (eq. 3), exact where the estimate does not change on the way. sigma 0 is Euler's method on the linear path.
    """

    sigma: NonNegative = 0.0
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        _not_negative("sigma", self.sigma)

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        _forward(t, s, self.sigma)
        estimate = flow(x, t, cond)
        for path in leaves(estimate.path):
            if not isinstance(path, Linear):
                raise ValueError(f"a Brownian bridge runs on the path linear, and the flow has {path}")
        rest, h = 1 - number(t), number(s) - number(t)
        now = at(estimate.path, t)
        x_s = combine(estimate, now, lambda c: {"x": (rest - h) / rest, "data": h / rest})
        return _add(x_s, now, lambda c: self.sigma * math.sqrt(h * (rest - h) / rest), noise, x, t, s), None


@dataclass(frozen=True)
class DPMSolverPPSDE(Stateless):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, eq. 19, in log-free form): the noise is integrated exactly.

    eta 1 is the reverse SDE, 0 is DPM-Solver++(2M).
    """

    eta: NonNegative = 1.0
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        _not_negative("eta", self.eta)

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Progress | None, noise: Noise, cond: Cond | None
    ) -> tuple[State, Progress]:
        _forward(t, s, self.eta)
        estimate = flow(x, t, cond)
        now, then = ends(estimate.path, t, s, state)
        seen = Seen(estimate.data, now)
        old = seen if state is None else state.seen[0]

        def leaf(
            x: Tensor, data: Tensor, before: Tensor, c_before: Any, now: Coefficients, then: Coefficients
        ) -> State:
            q = now.alpha * then.sigma / (now.sigma * then.alpha)  # exp(lambda_t - lambda_s)
            kept, weight = q**self.eta, then.alpha * (1 - q ** (1 + self.eta))
            r = 0.0 if state is None else extrapolation(c_before, now, then)
            return lincomb((then.sigma / now.sigma * kept, x), (weight * (1 + r), data), (-weight * r, before))

        def fresh(now: Coefficients, then: Coefficients) -> float:
            q = now.alpha * then.sigma / (now.sigma * then.alpha)
            return then.sigma * math.sqrt(1 - q ** (2 * self.eta))

        x_s = tree_map(leaf, x, seen.data, old.data, old.c, now, then)
        return _add(x_s, now, fresh, noise, x, t, s, then), Progress((seen,), x, then, s)


@dataclass(frozen=True)
class Langevin(Stateless):
    """Annealed Langevin dynamics (Song and Ermon 2019): `corrections` steps x + (a^2/2) score + a z at each time, a = rate sigma.

    `predictor`: each time is reached by a DDIM step (predictor-corrector sampling, Song et al. 2020); without it by
    scaling alone, as in the original on VE.
    """

    corrections: Count = 4
    rate: Positive = 0.3
    predictor: bool = True
    order = 1

    def __post_init__(self) -> None:
        if self.corrections < 1 or self.rate <= 0:
            raise ValueError(f"expected corrections >= 1 and rate > 0, got {self.corrections} and {self.rate}")

    @property
    def evaluations(self) -> int:
        return self.corrections + self.predictor

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        _forward(t, s, self.rate)
        if self.predictor:
            x, _ = DDIM().step(flow, x, t, s, None, noise, cond)
        else:
            x = self._scaled(flow, x, t, s)
        a = self.rate
        for i in range(self.corrections):
            estimate = flow(x, s, cond)
            now = at(estimate.path, s)
            if all(c.sigma == 0 for c in ([now] if isinstance(now, Coefficients) else now.values())):
                break  # nothing is left to anneal
            moved = combine(estimate, now, lambda c: {"x": 1.0, "noise": -a * a / 2 * c.sigma})
            label = t + (s - t) * (i / self.corrections)  # every draw of a step has a name of its own
            x = _add(moved, now, lambda c: a * c.sigma, noise, x, label, s)
        return x, None

    def _scaled(self, flow: Flow, x: State, t: Tensor, s: Tensor) -> State:
        paths = flow.path

        def leaf(x: Tensor, now: Coefficients, then: Coefficients) -> State:
            if now.alpha == 0:
                raise ValueError(
                    "Langevin without a predictor cannot leave alpha = 0; use the VE path, or predictor=True"
                )
            return lincomb((then.alpha / now.alpha, x))

        return tree_map(leaf, x, at(paths, t), at(paths, s))


def _add(x: State, now: Any, size: Any, noise: Noise, like: State, t: Tensor, s: Tensor, *then: Any) -> State:
    """x + size(coefficients) z; nothing is drawn where there is nothing to add."""
    sizes = tree_map(lambda leaf, *c: size(*c), like, now, *then)
    if not any(sizes.values() if isinstance(sizes, dict) else [sizes]):
        return x
    return lincomb((1.0, x), (sizes, noise(like, t, s)))


def _forward(t: Tensor, s: Tensor, amount: float) -> float:
    h = number(s) - number(t)
    if h < 0 and amount > 0:
        raise ValueError("a stochastic solver cannot run backwards; invert with an ODE solver such as heun")
    return h


def _not_negative(name: str, value: float) -> None:
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")
