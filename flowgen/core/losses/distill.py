"""Few evaluations from a trained run: flow maps of its flow, guidance folded in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from flowgen.core.couplings import Independent
from flowgen.core.estimate import Estimate
from flowgen.core.flow import check_output
from flowgen.core.flow_map import MapFlow, NetworkFlowMap, check_prediction
from flowgen.core.guidance.base import branches, for_batch
from flowgen.core.guidance.folded import FoldedFlow
from flowgen.core.interfaces import (
    END_TIME,
    GUIDANCE_SCALE,
    MASK,
    SECOND_TIME,
    Cond,
    Flow,
    LossOutput,
    NetworkInput,
    Paths,
    Predictions,
    Times,
)
from flowgen.core.losses.base import draw, mean_error, output, refuse_by_stream, refuse_infinite, valid_in
from flowgen.core.losses.spans import along_end, held, span, unmoved, unpadded
from flowgen.core.paths import Linear, interpolate
from flowgen.core.random import Randomness
from flowgen.core.ranges import Count, Positive, Real, Share
from flowgen.core.sampler import sample
from flowgen.core.solvers.multistep import DPMSolverPP2M
from flowgen.core.times import Shift, Uniform, shift_factor, uniform_grid
from flowgen.core.tree import State, first_leaf, left, lincomb, tree_map


@dataclass(frozen=True)
class Teacher:
    """A trained flow that is asked, under classifier-free guidance with a scale for each clip."""

    flow: Flow
    null: Cond

    def __call__(self, x: State, t: Any, cond: Cond, scale: Tensor) -> Estimate:
        """Its guided estimate. x [B, ...], scale [B]; where all scales are 1, or there are no conditions, one branch."""
        if not self.null or bool((scale == 1).all()):
            return self.flow(x, t, cond)
        c, u = branches(self.flow, x, t, [cond, {**cond, **for_batch(self.null, x)}])
        value = tree_map(lambda c, u: torch.lerp(u, c, left(scale, c).to(c)), c.value, u.value)
        return replace(c, value=value)


@dataclass(frozen=True)
class _Student:
    """What every distillation shares."""

    teacher: str
    scales: Sequence[Real] = (1.0,)
    guided: Sequence[Share] = (0.0, 1.0)
    path: Paths = field(default_factory=Linear)
    shift: Shift = 1.0
    predicts: Literal["velocity", "data"] = "velocity"
    asked: Teacher | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        refuse_by_stream(name, shift=self.shift)
        if not 1 <= len(self.scales) <= 2 or list(self.scales) != sorted(self.scales):
            raise ValueError(f"scales is [one] or [lowest, highest] guidance scale, got {list(self.scales)}")
        if len(self.guided) != 2 or not self.guided[0] < self.guided[1]:
            raise ValueError(f"guided is the first and the last time that guidance counts at, got {list(self.guided)}")
        check_prediction(self.predicts, self.path)

    @property
    def inputs(self) -> tuple[NetworkInput, ...]:
        return (SECOND_TIME, GUIDANCE_SCALE) if len(self.scales) == 2 else (SECOND_TIME,)

    def with_teacher(self: S, flow: Flow, null: Cond) -> S:
        other = replace(self)
        object.__setattr__(other, "asked", Teacher(flow, null))
        return other

    def _flow(self, network: Callable[..., State], end: float) -> Flow:
        flow: Flow = MapFlow(NetworkFlowMap(network, self.path, self.predicts, end))
        return FoldedFlow(flow, (self.scales[0], self.scales[1])) if len(self.scales) == 2 else flow

    def _scales(self, random: Randomness, like: Tensor) -> Tensor:
        low, high = self.scales[0], self.scales[-1]
        return (low + (high - low) * random.uniform("guidance scale")).to(like.device, torch.float32)

    def _scale_at(self, t: Tensor, scale: Tensor) -> Tensor:
        """The scale that counts at these times, [B]."""
        return torch.where((self.guided[0] <= t) & (t <= self.guided[1]), scale, 1.0)

    def _shown(self, cond: Cond, scale: Tensor) -> dict[str, Any]:
        return {**cond, GUIDANCE_SCALE.name: scale} if len(self.scales) == 2 else dict(cond)

    @property
    def _teacher(self) -> Teacher:
        if self.asked is None:
            raise ValueError(f"{type(self).__name__} asks a trained run: call with_teacher first")
        return self.asked


S = TypeVar("S", bound=_Student)


@dataclass(frozen=True)
class Distillation(_Student):
    """The flow map of a trained run: d/ds X_{t->s}(x) = v(X_{t->s}(x), s), v being the run's guided velocity.

    Lagrangian distillation (Boffi et al. 2024, eq. 3.8) with v held fixed and the gradient going through the derivative in s,
    which is what keeps it stable. With `predicts: data` the identity is multiplied by (1 - s), so that it is one of data
    estimates: F + (1 - s)(s - t)/(1 - t) dF/ds = D(X_{t->s}(x), s), X_{t->s}(x) = x + (s - t)/(1 - t) (F - x).

    Start from the run's own weights (`--init-from`): the first sample is the run's, one Euler step at a time.

    Args:
        teacher: the folder of the run.
        scales: its guidance scale; or the lowest and the highest, drawn for each clip and shown to the network, so that
            sampling takes `guidance: {type: folded, scale: ...}` at one evaluation.
        guided: the first and the last time that guidance counts at (Kynkäänniemi et al. 2024).
        predicts: what the network says; that of the run, where its weights are the start.
        still: the share of samples with s = t, which learn the guided velocity itself.
        from_noise, to_end: the shares that begin at t = 0, and that end at `end`.
        end: the last time that is trained; from there on the data estimate is taken.
        derivative: in s, by a central "difference" of width 2 `epsilon`, or "jvp": exact, and what bfloat16 needs.
    """

    times: Times = field(default_factory=Uniform)
    still: Share = 0.125
    from_noise: Share = 0.45
    to_end: Share = 0.2
    end: Share = 0.95
    derivative: Literal["difference", "jvp"] = "difference"
    epsilon: Positive = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_by_stream("distill", times=self.times)

    def check_limits(self) -> None:
        if self.end == 1:
            refuse_infinite(self.path, self.predicts, None, "let `end` be below 1, as 0.95")

    def flow(self, network: Callable[..., State]) -> Flow:
        return self._flow(network, self.end)

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        self.check_limits()
        x0, a, _, cond = draw(x1, cond, random, None, self.times, Independent(), self.shift)
        shares = {"still": self.still, "from_noise": self.from_noise, "to_end": self.to_end, "end": self.end}
        t, s = span(a, x1, cond, random, self.times, self.shift, **shares)
        scale = self._scales(random, a)
        begin, there = (held(time, known) for time in (t, s))
        x = interpolate(self.path, x1, x0, begin)
        shown = self._shown(cond, scale)

        def at(s: Tensor) -> State:
            value = network(x, begin, {**shown, END_TIME: held(s, known)})
            check_output(value, x)
            return value

        said, slope = along_end(at, t, s, None if self.derivative == "jvp" else self.epsilon)
        with torch.no_grad():
            landed = unpadded(tree_map(self._landed, x, said, begin, there), cond.get(MASK))
            target = self._teacher(landed, there, cond, self._scale_at(s, scale)).read(self.predicts)
            target = unmoved(target, known)  # given positions stand still, where a velocity may be infinite
        met = tree_map(lambda f, df, t, s: lincomb((1.0, f), (self._reach(t, s, f), df)), said, slope, begin, there)
        counts = valid_in(cond, known, x1)
        return output(tree_map(mean_error, met, target, counts), t, counts if known is not None else None)

    def _landed(self, x: Tensor, said: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = left(s, x) - left(t, x)
        return x + h * said if self.predicts == "velocity" else x + h / _rest(left(t, x)) * (said - x)

    def _reach(self, t: Tensor, s: Tensor, like: Tensor) -> Tensor:
        """What the derivative counts."""
        t, s = left(t, like), left(s, like)
        return s - t if self.predicts == "velocity" else (1 - s) * (s - t) / _rest(t)


@dataclass(frozen=True)
class TrajectoryDistillation(_Student):
    """Regression on jumps between the states of a trained run's own trajectories, made as they are needed.

    No derivative, and the target is what the run's solver makes; a network that cannot follow says the mean of what it
    confuses (Luhman and Luhman 2021). Start from the run's own weights (`--init-from`).

    Args:
        teacher: the folder of the run.
        scales: its guidance scale, or the lowest and the highest, see `Distillation`.
        guided: the first and the last time that guidance counts at.
        predicts: what the network says; that of the run, where its weights are the start.
        steps: of DPM-Solver++(2M) on the sampling grid, for each trajectory.
        jumps: of each trajectory in one training step; the first goes from noise to data.
    """

    steps: Count = 8
    jumps: Count = 4

    def flow(self, network: Callable[..., State]) -> Flow:
        return self._flow(network, 1.0)

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        if known is not None:
            raise ValueError("trajectories are made without known regions: leave `known` out, or use the loss distill")
        x0 = random.normal(x1)
        scale = self._scales(random, first_leaf(x1))
        flow = _AtScale(self._teacher, lambda t: self._scale_at(t, scale))
        states: list[State] = [x0]
        grid = uniform_grid(self.steps, shift_factor(self.shift, x1))
        sample(flow, x0, grid, solver=DPMSolverPP2M(), cond=cond, on_step=lambda i, t, x: states.append(x))
        counts, total, t = valid_in(cond, None, x1), [], torch.zeros_like(scale)
        for k in range(self.jumps):
            begin, end = (at.to(scale.device) for at in self._pair(k, random))
            t, s = (grid.float().to(scale.device)[at] for at in (begin, end))
            x, there = _picked(states, begin), _picked(states, end)
            said = network(x, t, {**self._shown(cond, scale), END_TIME: s})
            check_output(said, x)
            target = tree_map(lambda x, y, t=t, s=s: self._said(x, y, t, s), x, there)
            found = output(tree_map(mean_error, said, target, counts), t)
            total.append(found.total)
        return found._replace(total=torch.stack(total).mean(0))

    def _pair(self, jump: int, random: Randomness) -> tuple[Tensor, Tensor]:
        """Which states of its trajectory each sample jumps from and to, [B] each."""
        n = self.steps
        u, v = random.uniform(f"from {jump}"), random.uniform(f"to {jump}")
        begin = torch.zeros(len(u)) if jump == 0 else (u * n).floor()
        end = torch.full((len(u),), float(n)) if jump == 0 else begin + 1 + (v * (n - begin)).floor()
        return begin.long(), end.clamp(max=n).long()

    def _said(self, x: Tensor, y: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """What the network is to say for X_{t->s}(x) = y."""
        u = (y - x) / (left(s, x) - left(t, x))
        return u if self.predicts == "velocity" else x + (1 - left(t, x)) * u


@dataclass(frozen=True)
class _AtScale:
    """The teacher as a flow, at its scale for each clip."""

    teacher: Teacher
    scale: Callable[[Tensor], Tensor]

    @property
    def path(self) -> Paths:
        return self.teacher.flow.path

    @property
    def predicts(self) -> Predictions:
        return self.teacher.flow.predicts

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        return self.teacher(x, t, cond or {}, self.scale(torch.as_tensor(first_leaf(t))))


def _rest(t: Tensor) -> Tensor:
    """1 - t, and 1 at given positions, which go nowhere."""
    return torch.where(t < 1, 1 - t, 1.0)


def _picked(states: Sequence[State], which: Tensor) -> State:
    """Of each sample the state of its own number."""
    return tree_map(lambda *x: torch.stack(x)[which, torch.arange(len(which), device=x[0].device)], *states)
