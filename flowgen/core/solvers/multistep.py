"""Solvers that remember earlier evaluations: one evaluation a step.

They integrate the polynomial through the last estimates exactly. Adams-Bashforth does so for the velocity, dx = v dt; the
exponential ones for the data, d(x/sigma) = D d(alpha/sigma), as a polynomial in a clock of the signal-to-noise ratio:

    x_s = (sigma_s/sigma_t) x_t + sum_j w_j D_j,    sum_j w_j (u_j - u_t)^k = sigma_s int (u - u_t)^k d(alpha/sigma).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.flow import AroundFlow
from flowgen.core.interfaces import Coefficients, Cond, Flow, Noise, Paths
from flowgen.core.solvers.base import Stateless, at, combine, interpolatory, number
from flowgen.core.solvers.ode import Ralston, RungeKutta, TableRungeKutta
from flowgen.core.tree import State, leaves, lincomb, tree_map

Clock: TypeAlias = Literal["log-snr", "linear"]
"""In which the data estimate is a polynomial: log(alpha/sigma), or alpha/(alpha + sigma), which is bounded: t on the linear path."""


class _Past(NamedTuple):
    """What an Adams solver carries: velocities with their times (newest first), and where the last step began."""

    seen: tuple[tuple[float, State], ...]
    x: State


@dataclass(frozen=True)
class AdamsBashforth(Stateless):
    """x + sum_j w_j v_j with the weights of the polynomial through the last `order` velocities, for steps of any size.

    The first order - 2 steps are Runge-Kutta steps of order - 1, which cost as many evaluations more.
    """

    order: Literal[2, 3, 4] = 2
    evaluations = 1

    def __post_init__(self) -> None:
        if self.order not in (2, 3, 4):
            raise ValueError(f"Adams-Bashforth is offered in the orders 2, 3 and 4, got {self.order}")

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: _Past | None, noise: Noise, cond: Cond | None
    ) -> tuple[State, _Past]:
        past = state.seen if state else ()
        if len(past) + 1 < self.order - 1:
            recorded = _Recorded(flow, [])
            starter: RungeKutta = {2: Ralston, 3: TableRungeKutta}[self.order - 1]()
            x_s, _ = starter.step(recorded, x, t, s, None, noise, cond)
            return x_s, _Past(((number(t), recorded.velocities[0]), *past), x)
        seen = ((number(t), flow(x, t, cond).velocity), *past[: self.order - 1])
        return _quadrature(x, number(t), number(s), seen), _Past(seen, x)


@dataclass(frozen=True)
class _Recorded(AroundFlow):
    """A flow that keeps the velocities it was asked for."""

    velocities: list[State]

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        estimate = self.flow(x, t, cond)
        self.velocities.append(estimate.velocity)
        return estimate


@dataclass(frozen=True)
class AdamsMoulton(Stateless):
    """A step through the last `points` velocities, redone with the velocity at its end as soon as that is known.

    The next step evaluates there anyway, so the correction is free (predict, evaluate, correct). The most accurate solver
    here at few evaluations: 2 points up to about 10, from there on 3 and the eased grid. The first step is corrected to
    second order only, so 3 points are of order 3 as 2 are; but their error may fall faster until that first step shows.
    """

    points: Literal[1, 2, 3] = 2
    evaluations = 1

    def __post_init__(self) -> None:
        if self.points not in (1, 2, 3):
            raise ValueError(f"Adams-Moulton is offered with 1, 2 or 3 points, got {self.points}")

    @property
    def order(self) -> int:
        return min(self.points + 1, 3)

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: _Past | None, noise: Noise, cond: Cond | None
    ) -> tuple[State, _Past]:
        seen = ((number(t), flow(x, t, cond).velocity), *(state.seen if state else ()))
        if state is not None:
            x = _quadrature(state.x, seen[1][0], number(t), seen)
        seen = seen[: self.points]
        return _quadrature(x, number(t), number(s), seen), _Past(seen, x)


def _quadrature(x: State, t: float, s: float, seen: tuple[tuple[float, State], ...]) -> State:
    """x plus the integral from t to s of the polynomial through the velocities."""
    h = s - t
    weights = interpolatory([(u - t) / h for u, _ in seen], [h / (k + 1) for k in range(len(seen))])
    return lincomb((1.0, x), *((w, v) for w, (_, v) in zip(weights, seen, strict=True)))


class Seen(NamedTuple):
    """A data estimate and the coefficients where it was made."""

    data: State
    c: Any


class Progress(NamedTuple):
    """What an exponential multistep solver carries: estimates (newest first), where the last step began, where it ended."""

    seen: tuple[Seen, ...]
    x: State
    end: Any
    t: Tensor


@dataclass(frozen=True)
class DPMSolverPP2M(Stateless):
    """DPM-Solver++(2M) of Lu et al. 2022 (algorithm 2), log-free.

    x_s = (sigma_s/sigma_t) x_t + (alpha_s - alpha_t sigma_s/sigma_t) D with D the data estimate, extrapolated in
    lambda = log(alpha/sigma) from the step before. Finite at alpha = 0 and at sigma = 0.
    """

    order = 2
    evaluations = 1

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Progress | None, noise: Noise, cond: Cond | None
    ) -> tuple[State, Progress]:
        estimate = flow(x, t, cond)
        now, then = ends(estimate.path, t, s, state)
        data = estimate.data
        x_s = first_order(estimate, now, then)
        if state is not None:

            def leaf(
                x: Tensor, data: Tensor, old: Tensor, before: Coefficients, now: Coefficients, then: Coefficients
            ) -> State:
                r = extrapolation(before, now, then)
                if r == 0:
                    return x
                w = r * (then.alpha - now.alpha * then.sigma / now.sigma)
                return lincomb((1.0, x), (w, data), (-w, old))

            x_s = tree_map(leaf, x_s, data, state.seen[0].data, state.seen[0].c, now, then)
        return x_s, Progress((Seen(data, now),), x, then, s)


class ExponentialMultistep(Stateless):
    """The polynomial through the last `order` data estimates in a clock of the SNR, integrated exactly."""

    order: int
    clock: Clock
    corrects: bool
    """Whether a step is redone with the estimate at its end before the next one begins, at no evaluation (UniC)."""
    evaluations = 1

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Progress | None, noise: Noise, cond: Cond | None
    ) -> tuple[State, Progress]:
        estimate = flow(x, t, cond)
        now, then = ends(estimate.path, t, s, state)
        seen = (Seen(estimate.data, now), *(state.seen if state else ()))
        points = self.order - self.corrects
        if state is not None and self.corrects and all(c.sigma for c in leaves(seen[1].c)):
            x = self._integrate(state.x, seen[1].c, now, (seen[1], seen[0], *seen[2:]))
        if state is None and any(c.sigma == 0 for c in leaves(now)):
            x_s = first_order(estimate, now, then)  # leaving the data: x alone does not hold the noise
        else:
            x_s = self._integrate(x, now, then, seen[:points])
        if state is None and self.order > 2 and not self.corrects and all(c.sigma for c in leaves(then)):
            # a first step of order 1 would bound the order of the whole by 2
            x_s = self._integrate(x, now, then, (*seen, Seen(flow(x_s, s, cond).data, then)))
        return x_s, Progress(seen[:points], x, then, s)

    def _integrate(self, x: State, now: Any, then: Any, seen: tuple[Seen, ...]) -> State:
        """From `now` to `then`; the first of the estimates is the one at `now`."""

        def leaf(x: Tensor, now: Coefficients, then: Coefficients, *parts: Any) -> State:
            ticks = [_tick(self.clock, c) - _tick(self.clock, now) for c in parts[1::2]]
            if math.isfinite(_tick(self.clock, then) - _tick(self.clock, now)):
                used = [(u, data) for u, data in zip(ticks, parts[::2], strict=True) if math.isfinite(u)]
            else:
                used = [(0.0, parts[0])]  # no polynomial reaches an infinite log-SNR
            moments = _moments(self.clock, now, then, len(used))
            weights = interpolatory([u for u, _ in used], moments)
            return lincomb(
                (then.sigma / now.sigma, x), *((w, data) for w, (_, data) in zip(weights, used, strict=True))
            )

        return tree_map(leaf, x, now, then, *(part for one in seen for part in one))


@dataclass(frozen=True)
class DPMSolverPP3M(ExponentialMultistep):
    """DPM-Solver++ of third order (Lu et al. 2022), multistep. Its first step costs a second evaluation."""

    clock: Clock = "log-snr"
    order = 3
    corrects = False


@dataclass(frozen=True)
class UniPC(ExponentialMultistep):
    """Predictor and corrector of one family (Zhao et al. 2023), with the weights of exact interpolation.

    `order` is that of convergence: the predictor goes through order - 1 estimates ("solver order" elsewhere), the
    corrector through one more.
    """

    order: Literal[2, 3] = 3
    clock: Clock = "log-snr"
    corrects = True

    def __post_init__(self) -> None:
        if self.order not in (2, 3):
            raise ValueError(f"UniPC is offered in the orders 2 and 3, got {self.order}")


def first_order(estimate: Estimate, now: Any, then: Any) -> State:
    """The DDIM step alpha_s D + sigma_s x0hat: exact while the estimate does not change."""

    def weights(now: Coefficients, then: Coefficients) -> dict[str, float]:
        if now.sigma == 0:  # leaving the data: the noise must be read, x alone does not hold it
            return {"data": then.alpha, "noise": then.sigma}
        ratio = then.sigma / now.sigma
        return {"x": ratio, "data": then.alpha - now.alpha * ratio}

    return combine(estimate, now, weights, then)


def extrapolation(before: Coefficients, now: Coefficients, then: Coefficients) -> float:
    """(lambda_s - lambda_t) / (2 (lambda_t - lambda_before)), 0 where an end of it is infinite."""
    a, b, c = (_tick("log-snr", k) for k in (before, now, then))
    return (c - b) / (2 * (b - a)) if math.isfinite(c - b) and math.isfinite(b - a) else 0.0


def ends(paths: Paths, t: Tensor, s: Tensor, state: Progress | None) -> tuple[Any, Any]:
    """Coefficients at both ends of a step; those of its start are known from the step before."""
    return (state.end if state is not None and state.t == t else at(paths, t)), at(paths, s)


def _tick(clock: Clock, c: Coefficients) -> float:
    if clock == "linear":
        return c.alpha / (c.alpha + c.sigma)
    if c.alpha == 0:
        return -math.inf
    return math.log(c.alpha / c.sigma) if c.sigma else math.inf


def _moments(clock: Clock, now: Coefficients, then: Coefficients, n: int) -> list[float]:
    """sigma_s int (u - u_t)^k d(alpha/sigma) over the step, for k < n."""
    zeroth = then.alpha - now.alpha * then.sigma / now.sigma
    if n == 1:
        return [zeroth]
    if clock == "log-snr":
        h = _tick(clock, then) - _tick(clock, now)
        # alpha_s h^k M_k, M_k = h int_0^1 exp(-(1 - u) h) u^k du
        if abs(h) < 0.5:
            raw = [h * math.exp(-h) * _series(h, k, math.factorial) for k in range(n)]
        else:
            raw = [-math.expm1(-h)]
            for k in range(1, n):
                raw.append(1 - k / h * raw[-1])
        return [zeroth, *(then.alpha * h**k * raw[k] for k in range(1, n))]
    # linear clock, u = 1 - 1/y with y = 1 + alpha/sigma: b^(k-1) int_1^q (1 - 1/y)^k dy, q the ratio of the ys, b = 1 - u_t
    b, end = now.sigma / (now.alpha + now.sigma), then.alpha + then.sigma
    w = 1 - then.sigma / (end * b)  # 1 - 1/q
    if abs(w) < 0.3:
        scale = [then.sigma * b ** (k - 1) * w ** (k + 1) for k in range(n)]
        return [zeroth, *(scale[k] * _series(w, k, lambda j: 1 / (j + 1)) for k in range(1, n))]
    inverse = 1 - w
    grown = end * b - then.sigma  # sigma_s (q - 1), finite at sigma_s = 0
    log = then.sigma * -math.log(inverse) if inverse else 0.0
    out = [zeroth]
    for k in range(1, n):
        # the binomial expansion of (1 - 1/y)^k, integrated term by term
        total = grown - k * log
        for j in range(2, k + 1):
            total += (-1) ** j * math.comb(k, j) * then.sigma * (1 - inverse ** (j - 1)) / (j - 1)
        out.append(b ** (k - 1) * total)
    return out


def _series(x: float, k: int, divisor: Callable[[int], float]) -> float:
    """sum_j x^j / (divisor(j) (k + 1 + j)), for |x| well below 1."""
    total = 0.0
    for j in range(60):
        part = x**j / (divisor(j) * (k + 1 + j))
        total += part
        if abs(part) < 1e-18:
            break
    return total
