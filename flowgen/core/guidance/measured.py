"""Guidance that depends on sizes and angles, and therefore on the space in which it measures them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate, reading
from flowgen.core.guidance.base import Guided, branches, check_interval, for_batch, inner, quotient
from flowgen.core.interfaces import Cond, Flow, Path, Prediction
from flowgen.core.paths import coefficients
from flowgen.core.ranges import NonNegative, Real, Share
from flowgen.core.tree import State, left, lincomb, tree_map


@dataclass(frozen=True)
class CFGZeroStar:
    """(1 - scale) s u + scale c with s = <c, u>/|u|^2 in velocity space (Fan et al. 2025, eq. 6 and 7).

    s is the least-squares fit of the unconditional velocity to the conditional one, one number a sample and stream. Before
    `zero_until` the velocity is zero: an early, badly learned push is worse than none.
    """

    scale: Real = 2.0
    start: Share = 0.0
    end: Share = 1.0
    zero_until: Share = 0.0

    def __post_init__(self) -> None:
        check_interval(self.start, self.end)
        if not 0 <= self.zero_until < 1:
            raise ValueError(f"zero_until must lie in [0, 1), got {self.zero_until}")

    def __call__(self, flow: Flow, null: Cond) -> Flow:
        def rule(x: State, t: Any, cond: Cond) -> tuple[Estimate, Estimate]:
            c, u = branches(flow, x, t, [cond, {**cond, **for_batch(null, x)}])

            def leaf(c: Tensor, u: Tensor, t: Tensor) -> Tensor:
                s = quotient(inner(c, u), inner(u, u), 1.0)
                v = lincomb(((1 - self.scale) * s, u), (self.scale, c))
                moves = (t >= self.zero_until).to(c.device)
                return torch.where(left(moves, c), v, 0.0)  # type: ignore[arg-type]

            return c, replace(c, prediction="velocity", value=tree_map(leaf, c.velocity, u.velocity, t))

        return Guided(flow, self.start, self.end, rule, "velocity")


@dataclass(frozen=True)
class CFGRescale:
    """CFG whose result gets back the standard deviation of the conditional estimate, by the share `rescale` (Lin et al. 2023, eq. 15, 16).

    Measured for each sample and stream in `space`. In data space the guided estimate has no velocity at t = 1, where the
    solvers of `flowgen.core.solvers.ode` therefore do not evaluate.
    """

    scale: Real = 2.0
    rescale: Share = 0.7
    space: Prediction = "data"
    start: Share = 0.1
    end: Share = 1.0

    def __post_init__(self) -> None:
        check_interval(self.start, self.end)
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale is a share from 0 to 1, got {self.rescale}")

    def __call__(self, flow: Flow, null: Cond) -> Flow:
        if not null:
            return flow

        def rule(x: State, t: Any, cond: Cond) -> tuple[Estimate, Estimate]:
            c, u = branches(flow, x, t, [cond, {**cond, **for_batch(null, x)}])

            def leaf(c: Tensor, u: Tensor) -> Tensor:
                guided = lincomb((self.scale, c), (1 - self.scale, u))
                ratio = quotient(_spread(c), _spread(guided), 1.0)  # type: ignore[arg-type]
                return lincomb((self.rescale * ratio + (1 - self.rescale), guided))  # type: ignore[return-value]

            value = tree_map(leaf, c.read(self.space), u.read(self.space))
            return c, replace(c, prediction=self.space, value=value)

        return Guided(flow, self.start, self.end, rule, self.space)


@dataclass(frozen=True)
class APG:
    """Adaptive projected guidance (Sadat et al. 2024, algorithm 1): the push without its part along the estimate.

    c + (scale - 1) (orthogonal + parallel * along) of the push c - u, which is shortened to `norm` first (0: never). Angles
    and lengths are those of `space`, for each sample and stream. Without the paper's momentum over steps, which no
    function of (x, t) has.
    """

    scale: Real = 4.0
    parallel: Real = 0.0
    norm: NonNegative = 0.0
    space: Prediction = "data"
    start: Share = 0.1
    end: Share = 1.0

    def __post_init__(self) -> None:
        check_interval(self.start, self.end)
        if self.norm < 0:
            raise ValueError(f"norm must be positive, or 0 for no limit, got {self.norm}")

    def __call__(self, flow: Flow, null: Cond) -> Flow:
        if not null:
            return flow

        def rule(x: State, t: Any, cond: Cond) -> tuple[Estimate, Estimate]:
            c, u = branches(flow, x, t, [cond, {**cond, **for_batch(null, x)}])

            def leaf(c_own: Tensor, u_own: Tensor, along: Tensor, path: Path, t: Tensor, said: Prediction) -> State:
                # pushes in different spaces are proportional, so the result stays regular where the space is not
                push, ratio = c_own - u_own, reading(coefficients(path, t), said, self.space)[1]
                if self.norm:
                    seen = push * left(torch.as_tensor(ratio, dtype=push.dtype, device=push.device), push)
                    square = inner(seen, seen)
                    long = torch.where(square > self.norm**2, square, self.norm**2)
                    push = lincomb((self.norm / long.sqrt(), push))  # type: ignore[assignment]
                share = quotient(inner(push, along), inner(along, along), 0.0)
                return lincomb(
                    (1.0, c_own), (self.scale - 1, push), ((self.scale - 1) * (self.parallel - 1) * share, along)
                )

            value = tree_map(leaf, c.value, u.value, c.read(self.space), c.path, t, c.prediction)
            return c, replace(c, value=value)

        return Guided(flow, self.start, self.end, rule)


def _spread(x: Tensor) -> Tensor:
    """The standard deviation within each sample [B]; 0 for a single number."""
    return x.flatten(1).std(1, correction=0)
