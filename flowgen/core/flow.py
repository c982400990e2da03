"""A flow: a network, what it predicts and the path it was trained on, bound together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.interfaces import END_TIME, Breaks, Coefficients, Cond, Flow, Path, Paths, Prediction, Predictions
from flowgen.core.paths import coefficients, velocity_bounded
from flowgen.core.times import shift, shift_rate
from flowgen.core.tree import State, alike, first_leaf, lincomb, tree_map


@dataclass(frozen=True)
class NetworkFlow:
    """The flow of a network `network(x, t, cond)`.

    The state stays in the caller's precision; the network sees it in float32 (or what autocast makes of it) and times
    in float32 as [B] or [B, ...], whatever shape they came in.
    """

    network: Callable[..., State]
    path: Paths
    predicts: Predictions = "velocity"

    def __call__(self, x: State, t: Tensor | dict[str, Tensor], cond: Cond | None = None) -> Estimate:
        given = dict(cond) if cond else {}
        if END_TIME in given:
            raise ValueError(
                "this flow is no flow map and makes no jumps: take a solver of the ODE, such as heun, or train with a loss that "
                "learns a flow map"
            )
        if isinstance(x, Tensor) and isinstance(t, Tensor):  # the inner loop of sampling, without the trees
            seen = x if x.dtype is torch.float32 else x.float()
            value: Any = self.network(seen, _times(t, seen), given)
            if value.dtype is x.dtype and value.shape == x.shape:
                return Estimate(self.path, x, t, self.predicts, value)
        else:
            state = tree_map(lambda leaf: leaf.float(), x)
            like = first_leaf(state)
            value = self.network(state, tree_map(lambda t: _times(t, like), t), given)
        check_output(value, x)
        return Estimate(self.path, x, t, self.predicts, tree_map(lambda x, v: v.to(x.dtype), x, value))


def check_output(value: State, x: State) -> None:
    """ValueError: what a network made of the state x has not its streams and shapes (broadcasting would hide it)."""
    if isinstance(value, Tensor) and isinstance(x, Tensor):
        if value.shape != x.shape:
            raise ValueError(f"the network made {list(value.shape)} of a state {list(x.shape)}; it must keep the shape")
    elif not isinstance(value, Mapping) or not isinstance(x, Mapping) or value.keys() != x.keys():
        made, given = (sorted(v) if isinstance(v, Mapping) else "one tensor" for v in (value, x))
        raise ValueError(f"the network made {made} of a state of {given}; it must keep the streams")
    else:
        for key in x:
            check_output(value[key], x[key])


def _times(t: Tensor, like: Tensor) -> Tensor:
    """Times in float32 for the network, [B] or [B, ...], on the device of the (float32) state."""
    if t.ndim == 0 and t.is_cpu and not t.requires_grad:  # made where it is wanted: no copy from host to device
        return like.new_full((len(like),), t.item())
    t = t.to(like.device, torch.float32)
    return t if t.ndim else t.expand(len(like))


@dataclass(frozen=True)
class ShiftedPath:
    """A path by another clock: at time t it is where `path` is at `shift(t, k)`."""

    path: Path
    k: float

    def __call__(self, t: Tensor) -> Coefficients:
        c, rate = self.path(shift(t, self.k)), shift_rate(t, self.k)
        return Coefficients(c.alpha, c.sigma, c.dalpha * rate, c.dsigma * rate)

    @property
    def velocity_bounded(self) -> bool:
        return velocity_bounded(self.path)  # the rate of the clock is finite

    def time_of_snr(self, rho: Tensor) -> Tensor:
        return shift(self.path.time_of_snr(rho), 1 / self.k)


@dataclass(frozen=True)
class Shifted:
    """A flow of several streams by one clock: when it strikes t, stream i is at its own time shift(t, k_i).

    A change of clock is a change of path, so solvers, guidance, known regions and likelihoods go by the one clock and
    need not know of it; the network is shown a time for each stream. Both ends, 0 and 1, stay where they are.

    Args:
        flow: one that takes a dict of times.
        factors: k of each stream, see `flowgen.core.times.shift`.
    """

    flow: Flow
    factors: Mapping[str, float]

    @cached_property
    def path(self) -> dict[str, Path]:
        paths, factors = alike(self.flow.path, self.factors)
        return {name: path if factors[name] == 1 else ShiftedPath(path, factors[name]) for name, path in paths.items()}

    @property
    def predicts(self) -> Predictions:
        return self.flow.predicts

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        clock = t if isinstance(t, Mapping) else dict.fromkeys(self.factors, t)
        said = self.flow(x, {name: shift(clock[name], k) for name, k in self.factors.items()}, cond)

        def leaf(value: Tensor, t: Tensor, k: float, prediction: Prediction) -> State:
            return lincomb((shift_rate(t, k), value)) if prediction == "velocity" and k != 1 else value

        value = tree_map(leaf, said.value, clock, dict(self.factors), said.prediction)
        return Estimate(self.path, said.x, t, said.prediction, value)


@dataclass(frozen=True)
class AroundFlow:
    """What a flow around another one shares with it: the path, and what estimates hold. A subclass has `__call__`."""

    flow: Flow

    @property
    def path(self) -> Paths:
        return self.flow.path

    @property
    def predicts(self) -> Predictions:
        return self.flow.predicts

    @property
    def breaks(self) -> tuple[float, ...]:
        return self.flow.breaks if isinstance(self.flow, Breaks) else ()


@dataclass(frozen=True)
class OnPath:
    """A flow on another path than it was trained on, where the signal-to-noise ratios allow it.

    x_t on `path` is, up to scale, what the trained path has at the time of the same alpha/sigma; data and noise in it are
    the same, so is what the network says of them. ValueError: the trained path never has the ratio of `start` or `end`,
    the times between which it will be asked.
    """

    flow: Flow
    path: Path
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        trained = self._trained
        low, high = (_at(trained, t).snr for t in (0.0, 1.0))
        for t in (self.start, self.end):
            snr = _at(self.path, t).snr
            if not low * (1 - 1e-9) <= snr <= high * (1 + 1e-9):
                raise ValueError(
                    f"{self.path} has alpha/sigma = {snr:.4g} at t = {t:g}, outside the {low:.4g} to {high:.4g} that the "
                    f"network saw on {trained}; sample between other times (start, end), or on the trained path"
                )

    @property
    def _trained(self) -> Path:
        path = self.flow.path
        if isinstance(path, Mapping):
            raise ValueError(f"a change of path wants a flow with one path, got {path!r}")
        return path

    @property
    def predicts(self) -> Predictions:
        """What it is read from: a velocity is converted to the new path's, the others stay what they are."""
        return self.flow.predicts

    def __call__(self, x: State, t: Tensor, cond: Cond | None = None) -> Estimate:
        if END_TIME in (cond or {}):
            raise ValueError("a flow map jumps along the path that it was trained on: leave sample.path out")
        if not bool(((t >= self.start) & (t <= self.end)).all()):
            raise ValueError(
                f"asked at t = {t.flatten()[0]:g}, outside the checked range [{self.start:g}, {self.end:g}]"
            )
        asked, trained = self.path(t), self._trained
        # the clamp takes off rounding only: the range of ratios has been checked
        u = trained.time_of_snr(asked.alpha / asked.sigma).clamp(0, 1)
        seen = trained(u)
        scale = (seen.alpha + seen.sigma) / (asked.alpha + asked.sigma)
        estimate = self.flow(lincomb((scale, x)), u, cond)
        if estimate.prediction == "velocity":
            value = lincomb((asked.dalpha, estimate.data), (asked.dsigma, estimate.noise))
        else:  # the density of x is that of the scaled state, scaled: so is its score; v is linear in alpha and sigma
            factor = {"score": scale, "v": 1 / scale}.get(estimate.prediction, 1.0)  # type: ignore[arg-type]
            value = lincomb((factor, estimate.value))
        return Estimate(self.path, x, t, estimate.prediction, value)


def _at(path: Path, t: float) -> Coefficients:
    return coefficients(path, torch.tensor(t, dtype=torch.float64))
