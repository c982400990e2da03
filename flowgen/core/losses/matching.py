"""Flow matching: regression on the conditional velocity, data, noise, score or v."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from flowgen.core.couplings import Independent
from flowgen.core.flow import NetworkFlow, check_output
from flowgen.core.interfaces import (
    PREDICTIONS,
    Bridge,
    Coefficients,
    Cond,
    Coupling,
    Flow,
    LossOutput,
    Path,
    Paths,
    Prediction,
    Times,
)
from flowgen.core.losses.balance import shown_averages
from flowgen.core.losses.base import (
    by_name,
    check_balance,
    check_named,
    check_streams,
    draw_weighted,
    mean_error,
    output,
    refuse_infinite,
    valid_in,
)
from flowgen.core.paths import Linear, interpolate, noised, velocity
from flowgen.core.random import Randomness
from flowgen.core.ranges import Decay, NonNegative, Positive, Real
from flowgen.core.times import Shifts, Uniform
from flowgen.core.tree import State, leaves, left, lincomb, tree_map

Weighting: TypeAlias = Literal["uniform", "min-snr", "logit-normal"]


@dataclass(frozen=True)
class FlowMatching:
    """Regression on the conditional velocity (Lipman et al. 2022, eq. 9), or on data, noise, score or v, in any space.

    The network outputs `predicts`; the squared error is measured in `space` (the same by default). Errors in different
    spaces are proportional, dv = (D/sigma) dx1 = -(D/alpha) dx0, so another space is a factor on the network's own
    error, capped at `max_ratio` where it would be singular.

    Args:
        weighting: of the loss by time. "min-snr": min(snr, snr_cap) on the error of the data (Hang et al. 2023), whatever
            the network predicts; it takes the place of `space`. "logit-normal": the density of LogitNormal(density_mean,
            density_std), in the mean the same as drawing times from it (SD3, section 3.1).
        huber: errors beyond it count linearly.
        weights: of several streams, what the loss of each counts relative to the others; all alike by default.
        balance: of several streams, divide the loss of each by a moving average of its own, which keeps this much of itself in
            a step (0.99): streams count by their `weights` whatever the scale of their losses. See `LossWithBalance`.
        noise_levels: of several streams, whether their times in training are those of one draw ("shared"), drawn for each
            ("independent": any stream can be given to generate another, at any times), or by stream the name of a level
            that it shares with the streams of that name.

    Of several streams, `path`, `times`, `shift` and `predicts` may be one for all or a dict with one a stream.

    ValueError: an option that it does not take; when it is called, a velocity without bound, as that of `VP`, at times that
    reach t = 1.
    """

    path: Paths = field(default_factory=Linear)
    times: Times | Mapping[str, Times] = field(default_factory=Uniform)
    coupling: Coupling = field(default_factory=Independent)
    shift: Shifts = 1.0
    predicts: Prediction | dict[str, Prediction] = "velocity"
    space: Prediction | None = None
    max_ratio: Positive = 20.0
    weighting: Weighting = "uniform"
    snr_cap: Positive = 5.0
    density_mean: Real = 0.0
    density_std: Positive = 1.0
    huber: Positive | None = None
    weights: dict[str, NonNegative] | None = None
    noise_levels: Literal["shared", "independent"] | dict[str, str] = "shared"
    balance: Decay | None = None

    def __post_init__(self) -> None:
        for kind in (*leaves(self.predicts), *leaves(self.space or self.predicts)):
            if kind not in PREDICTIONS:
                raise ValueError(f"unknown prediction {kind!r}; expected one of {', '.join(PREDICTIONS)}")
        check_streams(self.weights, self.noise_levels, self.times)
        if self.weighting == "min-snr" and self.space is not None:
            raise ValueError("min-snr weighting measures the error of the data: leave `space` unset")
        for name in ("max_ratio", "snr_cap", "density_std", "huber"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if isinstance(self.coupling, Bridge) and (
            {*leaves(self.predicts)} != {"data"} or any(type(path) is not Linear for path in leaves(self.path))
        ):
            raise ValueError(
                "a Brownian bridge leads along the path linear to the data: give the loss predicts=data and the path linear"
            )

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        check_named({**self.streams_named(), **by_name(path=self.path)}, x1)
        self.check_limits()
        check_balance(self.balance, x1)
        averages, cond = shown_averages(cond)
        (x0, t, times, cond), pair_weight = draw_weighted(
            x1, cond, random, known, self.times, self.coupling, self.shift, self.noise_levels
        )
        xt, target = self.pair(x1, x0, t)
        if known is not None:
            xt = interpolate(self.path, x1, x0, times)
        if isinstance(self.coupling, Bridge):
            sigma, z = self.coupling.sigma, random.normal(x1, "bridge")
            xt = lincomb((1.0, xt), (tree_map(lambda t: sigma * (t * (1 - t)).sqrt(), times), z))
        prediction = network(xt, times, cond)
        check_output(prediction, xt)
        weights = valid_in(cond, known, x1)
        each = self.errors(prediction, target, t, weights)
        if pair_weight is not None:
            each = tree_map(lambda e: e * pair_weight, each)
        return output(each, t, weights, self.weights, averages)

    def errors(self, prediction: State, target: State, t: Any, counts: Any) -> Any:
        """The loss of each sample [B], a leaf for each stream: what a network says at times t beside the target of `pair`.

        counts: the positions that count, see `flowgen.core.losses.base.valid`.
        """

        def leaf(
            predicted: Tensor, target: Tensor, weight: Tensor | None, path: Path, t: Tensor, predicts: Prediction
        ) -> Tensor:
            c = path(t)
            each = mean_error(_compared(predicted, c, predicts), target, weight, self._ratio(c, predicts), self.huber)
            w = self._weight(c, t, predicts)
            return each if w is None else each * w

        return tree_map(leaf, prediction, target, counts, self.path, t, self.predicts)

    def compared(self, prediction: State, t: Any) -> State:
        """What a network says at times t in the terms of the target of `pair`: a score as noise, all else as it is."""
        return tree_map(lambda v, path, t, kind: _compared(v, path(t), kind), prediction, self.path, t, self.predicts)

    def check_limits(self) -> None:
        refuse_infinite(self.path, self.predicts, self.times, "predict data, noise or v (predicts: v)")

    def flow(self, network: Callable[..., State]) -> Flow:
        """The flow of `network`, bound to the path and prediction it is trained on."""
        return NetworkFlow(network, self.path, self.predicts)

    def streams_named(self) -> dict[str, Collection[str]]:
        """The streams that options name, by option."""
        return by_name(predicts=self.predicts, weights=self.weights, noise_levels=self.noise_levels)

    def pair(self, x1: State, x0: State, t: Any) -> tuple[State, State]:
        """x_t, and what the network is compared with: the velocity, the data, v, or the noise (for the score, too)."""
        if self.predicts == "velocity":
            return noised(self.path, x1, x0, t)

        def leaf(x1: Tensor, x0: Tensor, path: Path, t: Tensor, predicts: Prediction) -> State:
            match predicts:
                case "velocity":
                    return velocity(path, x1, x0, t)
                case "data":
                    return x1
                case "v":
                    c = path(t)
                    return lincomb((c.alpha, x0), (-c.sigma, x1))
                case _:
                    return x0

        target = tree_map(leaf, x1, x0, self.path, t, self.predicts)
        return interpolate(self.path, x1, x0, t), target

    def _ratio(self, c: Coefficients, predicts: Prediction) -> Tensor | None:
        """|error in `space`| / |error as compared|, capped; None for 1."""
        own = "noise" if predicts == "score" else predicts
        if self.weighting == "min-snr":
            return None
        space = self.space or predicts
        if space == own:
            return None
        # the size of each parameterisation's error for a unit error of the velocity; alpha/D of the noise over sigma is
        # that of the score
        unit = {"velocity": torch.ones_like(c.alpha), "data": c.sigma / c.det, "noise": c.alpha / c.det}
        unit["score"] = unit["noise"] / c.sigma
        unit["v"] = (c.alpha.square() + c.sigma.square()) / c.det
        if own == "noise" and space == "score":
            return (1 / c.sigma).clamp(max=self.max_ratio)
        return (unit[space] / unit[own]).nan_to_num(nan=0.0).clamp(max=self.max_ratio)

    def _weight(self, c: Coefficients, t: Tensor, predicts: Prediction) -> Tensor | None:
        if self.weighting == "uniform":
            return None
        if self.weighting == "logit-normal":
            z = (torch.logit(t.double()) - self.density_mean) / self.density_std
            density = torch.exp(-0.5 * z * z) / (
                self.density_std * math.sqrt(2 * math.pi) * t.double() * (1 - t.double())
            )
            return density.nan_to_num(nan=0.0).float()  # 0 at both ends
        a2, s2 = c.alpha.square(), c.sigma.square()
        match predicts:  # min(snr, cap) |dx1|^2, in terms of the error as compared; no division by what may be 0
            case "velocity":
                return torch.minimum(a2, self.snr_cap * s2) / c.det.square()
            case "data":
                return (a2 / s2).clamp(max=self.snr_cap)
            case "v":
                return torch.minimum(a2, self.snr_cap * s2) / (a2 + s2).square()
            case _:
                return (self.snr_cap * s2 / a2).clamp(max=1.0)


def _compared(predicted: Tensor, c: Coefficients, predicts: Prediction) -> Tensor:
    """A score is measured as noise, x0 = -sigma score: regular up to the data."""
    return -left(c.sigma, predicted) * predicted.float() if predicts == "score" else predicted
