"""Preferences: a trained run learns which of two clips was liked better, without leaving what it knew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from flowgen.core.couplings import Independent
from flowgen.core.flow import NetworkFlow, Shifted, check_output
from flowgen.core.interfaces import MASK, REJECTED, Cond, Coupling, Flow, LossOutput, Paths, Prediction, Times
from flowgen.core.losses.base import check_named, draw, output, valid_in
from flowgen.core.losses.edm import Preconditioned
from flowgen.core.losses.matching import FlowMatching
from flowgen.core.losses.spans import unpadded
from flowgen.core.paths import Linear, interpolate
from flowgen.core.random import Randomness
from flowgen.core.ranges import Count, NonNegative, Positive
from flowgen.core.times import Shifts, Uniform
from flowgen.core.tree import State, alike


@dataclass(frozen=True)
class FlowDPO:
    """Direct preference optimisation of a flow on pairs: -log sigmoid(margin), with, of the preferred clip w and the rejected l,

        margin = -(beta / 2) [(|v_w - u_w|^2 - |r_w - u_w|^2) - (|v_l - u_l|^2 - |r_l - u_l|^2)],

    v being the network's velocity, r that of the frozen run it started from and u the conditional one (Wallace et al. 2023,
    eq. 14; for flows Liu et al. 2025, "Improving Video Generation with Human Feedback"). Both clips of a pair are at the same
    time with the same noise. |.|^2 is the mean over the numbers of a clip that count, so that beta is in the hundreds to
    thousands, whatever the size of the latents. A network that predicts something else is measured in velocity all the same.

    Start from the run's own weights (`--init-from`), where every margin is 0 and the loss is log 2.

    Logged as parts: the margin; `accuracy`, the share of pairs with a positive margin; `preferred` and `rejected`, what the
    error of each has gained or lost against the reference (below 0: likelier now); and `drift`, the mean of |v - r|^2.

    Args:
        teacher: the folder of the run that is the reference.
        beta: how far a preference may lead away from the reference; a large one stays near.
        beta_end, anneal: beta goes to `beta_end` over the first `anneal` steps, linearly.
        cap: a pair with a larger margin is settled and pulls no more.
        max_drift: a pair at which the network has drifted further than this from the reference pulls no more.
        drift_weight: of the drift in the loss.
        predicts: what the network says; that of the run.
        max_ratio: the most that an error of what is predicted is multiplied by to be one of the velocity.
        weights, noise_levels: of several streams, see `FlowMatching`.
    """

    teacher: str
    beta: Positive = 2000.0
    beta_end: Positive | None = None
    anneal: Count | None = None
    cap: Positive | None = None
    max_drift: Positive | None = None
    drift_weight: NonNegative = 0.0
    path: Paths = field(default_factory=Linear)
    times: Times | Mapping[str, Times] = field(default_factory=Uniform)
    coupling: Coupling = field(default_factory=Independent)
    shift: Shifts = 1.0
    predicts: Prediction | dict[str, Prediction] = "velocity"
    max_ratio: Positive = 20.0
    weights: dict[str, NonNegative] | None = None
    noise_levels: Literal["shared", "independent"] | dict[str, str] = "shared"
    reference: Flow | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.coupling, Independent):
            raise ValueError("both clips of a pair get the same noise: leave the coupling independent")
        if (self.beta_end is None) != (self.anneal is None):
            raise ValueError("beta_end goes with anneal, the steps that it takes to get there: give both or neither")
        _ = self.matching  # refuses what it does not take

    @cached_property
    def matching(self) -> FlowMatching:
        """What measures the error of each clip, in velocity."""
        return FlowMatching(
            self.path,
            self.times,
            Independent(),
            self.shift,
            self.predicts,
            "velocity",
            self.max_ratio,
            weights=self.weights,
            noise_levels=self.noise_levels,
        )

    def check_limits(self) -> None:
        self.matching.check_limits()

    def flow(self, network: Callable[..., State]) -> Flow:
        return self.matching.flow(network)

    def streams_named(self) -> dict[str, Collection[str]]:
        """The streams that options name, by option."""
        return self.matching.streams_named()

    def with_teacher(self, flow: Flow, null: Cond) -> FlowDPO:
        """The loss with its reference. ValueError: its network predicts something else, or that on another path."""
        own = flow.flow if isinstance(flow, Shifted) else flow  # asked at the times of each stream, not by a clock
        if isinstance(own, NetworkFlow) and isinstance(own.network, Preconditioned):
            raise ValueError("flow-dpo wants a run whose network makes its prediction itself, and edm preconditions it")
        theirs, ours = alike(own.path, self.path)
        if theirs != ours:
            raise ValueError(
                f"the reference was trained on the path {own.path}, and this is on {self.path}; take its own"
            )
        theirs, ours = alike(own.predicts, self.predicts)
        if theirs != ours:
            raise ValueError(
                f"the reference predicts {own.predicts}, and this {self.predicts}; give the loss its predicts"
            )
        other = replace(self)
        object.__setattr__(other, "reference", own)
        return other

    def rejected(self, cond: Cond) -> tuple[State, State | None]:
        if REJECTED not in cond:
            raise ValueError(
                "flow-dpo compares pairs and got no rejected clips: train it on data: {type: preferences, ...}"
            )
        return cond[REJECTED]["x"], cond[REJECTED].get(MASK)

    def beta_at(self, step: int) -> float:
        """Beta in a step of training, counted from 0."""
        if self.beta_end is None or self.anneal is None:
            return self.beta
        return self.beta + (self.beta_end - self.beta) * min(max(step, 0) / self.anneal, 1.0)

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        if self.reference is None:
            raise ValueError("FlowDPO asks a trained run: call with_teacher first")
        lost, lost_mask = self.rejected(cond)
        self.check_limits()
        shown = {name: value for name, value in cond.items() if name not in (MASK, REJECTED)}
        masks = [{} if mask is None else {MASK: mask} for mask in (cond.get(MASK), lost_mask)]
        preferred, rejected = (
            self._side(network, self.reference, x, {**shown, **mask}, random, known)
            for x, mask in zip((x1, lost), masks, strict=True)
        )
        margin = -self.beta_at(random.step) / 2 * (preferred.gained - rejected.gained)
        drift = (preferred.drift + rejected.drift) / 2
        total = F.softplus(-(margin if self.cap is None else margin.clamp(max=self.cap)))
        if self.max_drift is not None:
            total = torch.where(drift > self.max_drift, total.detach(), total)
        parts = {
            "margin": margin,
            "accuracy": 0.5 * (1 + margin.detach().sign()),
            "preferred": preferred.gained,
            "rejected": rejected.gained,
            "drift": drift,
        }
        return LossOutput(total + self.drift_weight * drift, preferred.t, {}, parts)

    def _side(
        self,
        network: Callable[..., State],
        reference: Flow,
        x1: State,
        cond: Cond,
        random: Randomness,
        known: State | None,
    ) -> _Side:
        """One clip of each pair. The same `random` gives both the same noise and times."""
        check_named(self.streams_named(), x1)
        x0, t, times, cond = draw(x1, cond, random, known, self.times, self.coupling, self.shift, self.noise_levels)
        xt, target = self.matching.pair(x1, x0, t)
        if known is not None:
            xt = interpolate(self.path, x1, x0, times)
        xt = unpadded(xt, cond.get(MASK))
        with torch.no_grad():
            theirs = reference(xt, times, cond).read(self.predicts)
        ours = network(xt, times, cond)
        check_output(ours, xt)
        counts = valid_in(cond, known, x1)

        def error(said: State, target: State) -> Tensor:
            return output(self.matching.errors(said, target, t, counts), t, None, self.weights).total

        return _Side(error(ours, target) - error(theirs, target), error(ours, self.matching.compared(theirs, t)), t)


class _Side(NamedTuple):
    """Of one clip of each pair: what its error has gained against the reference [B], the drift [B] and the times."""

    gained: Tensor
    drift: Tensor
    t: Any
