"""The likelihood of data under a flow: log p1(x1) = log p0(x0) - int_0^1 div v dt along the ODE, solved from data to noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.interfaces import Cond, Flow, Path, Paths, Predictions, Solver
from flowgen.core.paths import coefficients, interpolate
from flowgen.core.random import Randomness
from flowgen.core.sampler import Grid, check_grid, checked_flow, solve
from flowgen.core.solvers.adaptive import DormandPrince
from flowgen.core.tree import State, batch_size, first_leaf, leaves, tree_map

_CHUNK = 64  # rows of the Jacobian at a time: each is a copy of the batch


class LogProb(NamedTuple):
    """log p(x1) [B] in nats, and the noise x1 came from."""

    log_prob: Tensor
    noise: State


def log_prob(
    flow: Flow,
    x1: State,
    grid: Grid,
    *,
    solver: Solver | str | None = None,
    cond: Cond | None = None,
    probe: State | None = None,
    noise: State | None = None,
    log_p0: Callable[[State], Tensor] | None = None,
    gradient: bool = False,
) -> LogProb:
    """The log-density of x1 under the ODE of `flow` whose source at grid[0] is N(0, sigma^2), or `log_p0`.

    With `noise` it is a bound from below (in the mean over the noise), for flows whose velocity is singular at t = 1:
    log p(x1) >= E log p_t(alpha x1 + sigma noise) + d log alpha at t = grid[-1] < 1, from the evidence bound with
    p(x1|x_t) = N(x_t/alpha, sigma^2/alpha^2) (Song et al. 2021, "Maximum likelihood training", section 5).

    Args:
        grid: increasing, as for `sample`; two times suffice for an adaptive solver.
        solver: one that reads velocities; adaptive Dormand-Prince by default.
        probe: signs or normal numbers with the structure of x1 for Hutchinson's estimate: one for the whole solve, as a
            new one for every evaluation would make the field rough (`rademacher` makes one). None: the exact trace, at one
            backward pass for each dimension.
        noise: standard normal, of the structure of x1.
        log_p0: the log-density [B] of the state at grid[0], for a source of one's own.
        gradient: keep what it takes to differentiate the result, by x1 or by the network's weights.
    """
    grid = check_grid(grid)
    augmented = _Augmented(checked_flow(flow), probe, gradient)
    seen = x1 if noise is None else interpolate(flow.path, x1, noise, grid[-1])
    start: Any = {
        "x": seen,
        "log": torch.zeros(batch_size(x1), 1, dtype=first_leaf(x1).dtype, device=first_leaf(x1).device),
    }
    end: Any = solve(augmented, start, grid.flip(0), solver or DormandPrince(), cond, gradient=gradient)
    source = end["x"]
    with torch.set_grad_enabled(gradient):
        prior = _normal(flow.path, source, grid[0]) if log_p0 is None else log_p0(source)
    if prior.shape != (batch_size(x1),):
        raise ValueError(f"log_p0 gave {list(prior.shape)} for {batch_size(x1)} samples; expected [{batch_size(x1)}]")
    # solved backwards, the divergence has been integrated from 1 to 0
    total = prior + end["log"][:, 0]
    return LogProb(total if noise is None else total + _volume(flow.path, x1, grid[-1]), source)


def _normal(paths: Paths, x: State, t: Tensor) -> Tensor:
    """log N(x; 0, sigma(t)^2) [B], over all streams."""

    def leaf(x: Tensor, path: Path) -> Tensor:
        sigma = coefficients(path, t).sigma
        return -0.5 * ((x / sigma).square() + math.log(2 * math.pi * sigma**2)).flatten(1).sum(1)

    return torch.stack(list(leaves(tree_map(leaf, x, paths)))).sum(0)


def _volume(paths: Paths, x1: State, t: Tensor) -> float:
    """d log alpha(t), over all streams."""

    def leaf(x: Tensor, path: Path) -> float:
        return x.shape[1:].numel() * math.log(coefficients(path, t).alpha)

    return float(sum(leaves(tree_map(leaf, x1, paths))))


def rademacher(like: State, seed: int) -> State:
    """Signs with the structure of `like`, one independent probe for each sample; a function of the seed and its row."""
    return Randomness(seed, 0, batch_size(like)).rademacher(like)


def bits_per_dim(log_prob: Tensor, dimensions: int, scale: float = 127.5) -> Tensor:
    """-log2 p / dimensions for integers u shown to the flow as (u + U(0, 1))/scale - 1: in bits for each integer."""
    return -log_prob / (dimensions * math.log(2)) + math.log2(scale)


@dataclass(frozen=True)
class _Augmented:
    """The flow of (x, log): the velocity, and its divergence."""

    flow: Flow
    probe: State | None
    gradient: bool

    @property
    def path(self) -> Any:
        return {"x": self.flow.path, "log": next(leaves(self.flow.path))}

    @property
    def predicts(self) -> Predictions:
        """That of the flow: where it has no velocity, there is no divergence either."""
        return self.flow.predicts

    def __call__(self, x: Any, t: Any, cond: Cond | None = None) -> Estimate:
        with torch.enable_grad():
            leaf = x["x"]
            keep = self.gradient
            y = tree_map(lambda v: v if keep and v.requires_grad else v.detach().requires_grad_(), leaf)
            estimate = self.flow(y, t, cond)
            velocity = estimate.velocity
            if self.probe is None:
                each = tree_map(lambda v, y: _trace(v, y, keep), velocity, y)
            else:
                pairs = zip(leaves(velocity), leaves(y), leaves(self.probe), strict=True)
                vs, ys, probes = zip(*pairs, strict=True)
                probes = tuple(p.to(v.dtype) for p, v in zip(probes, vs, strict=True))
                pulled = _pulled(vs, ys, probes, keep)
                each = {str(i): (g * p).flatten(1).sum(1) for i, (g, p) in enumerate(zip(pulled, probes, strict=True))}
            divergence = sum(leaves(each))[:, None]
        if not keep:
            velocity, divergence = tree_map(torch.Tensor.detach, velocity), divergence.detach()
        value: Any = {"x": velocity, "log": divergence}
        return Estimate(self.path, x, t, "velocity", value)


def _pulled(vs: Any, ys: Any, directions: Any, keep: bool, batched: bool = False) -> list[Tensor]:
    """directions^T dv/dy; 0 where the velocity does not depend on the state."""
    depends = [(v, d) for v, d in zip(vs, directions, strict=True) if v.requires_grad]
    found: Any = [None] * len(ys)
    if depends:
        found = torch.autograd.grad(
            *([v for v, _ in depends], ys, [d for _, d in depends]),
            is_grads_batched=batched,
            create_graph=keep,
            retain_graph=keep or batched,
            allow_unused=True,
        )
    return [torch.zeros_like(d) if g is None else g for g, d in zip(found, directions, strict=True)]


def _trace(v: Tensor, y: Tensor, keep: bool) -> Tensor:
    """sum_i dv_i/dy_i [B], for samples that do not see each other."""
    n = v.shape[1:].numel()
    total = torch.zeros(len(v), dtype=v.dtype, device=v.device)
    for start in range(0, n, _CHUNK):
        rows = torch.arange(start, min(start + _CHUNK, n), device=v.device)
        directions = torch.zeros(len(rows), len(v), n, dtype=v.dtype, device=v.device)
        directions[torch.arange(len(rows)), :, rows] = 1.0
        (pulled,) = _pulled([v], [y], [directions.reshape(len(rows), *v.shape)], keep, batched=True)
        picked = pulled.flatten(2)
        total = total + picked[torch.arange(len(rows)), :, rows].sum(0)
    return total
