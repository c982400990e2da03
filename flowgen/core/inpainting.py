"""Inpainting with a flow that never saw a region: guided by its own gradient, and corrected by particles."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowgen.core.flow_map import MapFlow
from flowgen.core.interfaces import Coefficients, Cond, Flow, FlowMap, Noise
from flowgen.core.sampler import check_grid, checked_flow, prior
from flowgen.core.solvers.base import at
from flowgen.core.tree import State, batch_size, leaves, lincomb, tree_map


def inpaint(
    flow: Flow | FlowMap,
    x1: State,
    known: State,
    noise: State,
    grid: Tensor,
    *,
    particles: int = 16,
    cond: Cond | None = None,
    draws: Noise | None = None,
    on_step: Callable[[int, float, State], None] | None = None,
) -> State:
    """Complete x1 where it is not known (twisted diffusion sampler, Wu et al. 2023, algorithm 1).

    The data estimate is moved towards what is known by the gradient of log N(x1; E[x1 | x_t], r^2), r^2 = sigma^2 /
    (alpha^2 + sigma^2), over the known positions (PiGDM, Song et al. 2023, for data of unit variance). This is approximate.
    Each sample is made by several particles, which are weighted by what the approximation missed and resampled, so that
    the result tends to the exact conditional distribution with more particles and steps; one particle is PiGDM alone. An
    ancestral step (eta = 1) is the solver: weights want its density.

    Args:
        x1: the known values [B, ...]; anything where they are not known.
        known: bool, left-aligned with the state.
        noise: standard normal, of the structure of x1.
        grid: increasing times with both ends in it.
        particles: for each sample. Memory and time grow with it: a batch holds B * particles states, with gradients.
        draws: what fresh noise comes from, by rows of x1; unseeded by default.
        on_step: as in `flowgen.sample`; it sees one particle of each sample.

    Raises ValueError for a grid that is no grid, and for a flow whose data estimate is singular on it.
    """
    if particles < 1:
        raise ValueError(f"expected at least one particle, got {particles}")
    flow, grid = checked_flow(MapFlow(flow) if isinstance(flow, FlowMap) else flow), check_grid(grid)
    cloud = _Cloud(noise, particles, draws or (lambda x, t, s: tree_map(torch.randn_like, x)))
    x1, known, seen = (tree_map(cloud.repeated, tree) for tree in (x1, known, dict(cond or {})))
    times = list(pairwise(grid))
    x = prior(flow.path, cloud.joined([noise, *cloud.drawn(*times[0], offset=particles)[1:]]))
    look = _look(flow, x, grid[0], x1, known, seen)
    weights = look.twist
    for i, (t, s) in enumerate(times):
        x, proposal = _ancestral(flow, x, look, t, s, partial(cloud.fresh, t, s))
        if proposal is not None:  # at the data there is no noise, and nothing left to weigh
            before, look = look, _look(flow, x, s, x1, known, seen)
            weights = weights + proposal + look.twist - before.twist
            if particles > 1 and bool((poor := cloud.size(weights) < particles / 2).any()):
                rows = cloud.resampled(weights, poor, cloud.uniform(t, s))
                weights = torch.where(poor.repeat(particles), 0.0, weights)
                x, look = tree_map(lambda v, rows=rows: v[rows], x), look.rows(rows)
        if on_step is not None:
            on_step(i, float(s), tree_map(lambda v: v[: cloud.n], x))
    rows = cloud.one(weights, cloud.uniform(*times[-1]))
    return tree_map(lambda v, x1, known: torch.where(_over(known, v), x1.to(v.dtype), v)[rows], x, x1, known)


class _Look(NamedTuple):
    """What the flow says of the data, the same moved towards what is known, and log N(known; plain, r^2) [B]."""

    plain: State
    guided: State
    twist: Tensor

    def rows(self, rows: Tensor) -> _Look:
        plain, guided = (tree_map(lambda v: v[rows], tree) for tree in (self.plain, self.guided))
        return _Look(plain, guided, self.twist[rows])


def _look(flow: Flow, x: State, t: Tensor, x1: State, known: State, cond: Cond) -> _Look:
    now = at(flow.path, t)

    def log(plain: Tensor, x1: Tensor, known: Tensor, c: Coefficients) -> Tensor:
        variance = c.sigma**2 / (c.alpha**2 + c.sigma**2)
        each = -0.5 * ((x1 - plain) ** 2 / variance + math.log(variance))
        return torch.where(_over(known, plain), each, 0.0).flatten(1).sum(1)

    with torch.enable_grad():
        state = tree_map(lambda v: v.detach().requires_grad_(), x)
        plain = flow(state, t, cond).data
        twist: Tensor = sum(leaves(tree_map(log, plain, x1, known, now)))
        slopes = iter(torch.autograd.grad(twist.sum(), list(leaves(state)), allow_unused=True))
    plain = tree_map(Tensor.detach, plain)

    def moved(plain: Tensor, c: Coefficients) -> State:
        slope = next(slopes)  # at alpha = 0 the estimate does not depend on the state
        return plain if c.alpha == 0 or slope is None else lincomb((1.0, plain), (c.sigma**2 / c.alpha, slope))

    return _Look(plain, tree_map(moved, plain, now), twist.detach())


def _ancestral(
    flow: Flow, x: State, look: _Look, t: Tensor, s: Tensor, draw: Callable[[], State]
) -> tuple[State, Tensor | None]:
    """The guided ancestral step to s, and log p(x_s | x_t) - log q(x_s | x_t) [B] of the plain and the guided step."""
    now, then = at(flow.path, t), at(flow.path, s)

    def tau(c: Coefficients, d: Coefficients) -> float:
        return d.sigma * math.sqrt(1 - (c.alpha * d.sigma / (c.sigma * d.alpha)) ** 2) if d.sigma else 0.0

    def mean(x: Tensor, data: Tensor, c: Coefficients, d: Coefficients) -> State:
        kept = math.sqrt(d.sigma**2 - tau(c, d) ** 2) / c.sigma
        return lincomb((kept, x), (d.alpha - kept * c.alpha, data))

    sizes = tree_map(lambda x, c, d: tau(c, d), x, now, then)
    plain, guided = (tree_map(mean, x, data, now, then) for data in (look.plain, look.guided))
    if not all(leaves(sizes)):
        return guided, None
    made = lincomb((1.0, guided), (sizes, draw()))

    def ratio(made: Tensor, plain: Tensor, guided: Tensor, size: float) -> Tensor:
        return ((made - guided) ** 2 - (made - plain) ** 2).flatten(1).sum(1) / (2 * size**2)

    return made, sum(leaves(tree_map(ratio, made, plain, guided, sizes)))


class _Cloud:
    """`k` particles for each of n rows, in the order in which guidance repeats rows: particle 0 of all rows, 1 of all ..."""

    def __init__(self, noise: State, k: int, draws: Noise) -> None:
        self.noise, self.k, self.n, self.draws = noise, k, batch_size(noise), draws

    def repeated(self, v: Any) -> Any:
        return v.repeat(self.k, *[1] * (v.ndim - 1)) if isinstance(v, Tensor) else v

    def drawn(self, t: Tensor, s: Tensor, offset: int = 0) -> list[State]:
        """Noise of each particle. Every draw of a step has a label of its own inside the step."""
        return [self._draw(t, s, offset + i) for i in range(self.k)]

    def fresh(self, t: Tensor, s: Tensor) -> State:
        """Noise of all particles, as one batch."""
        return self.joined(self.drawn(t, s))

    def joined(self, parts: list[State]) -> State:
        return tree_map(lambda *leaf: torch.cat(leaf), *parts)

    def uniform(self, t: Tensor, s: Tensor) -> Tensor:
        """A uniform number for each row [n]."""
        leaf = next(leaves(self._draw(t, s, 2 * self.k)))
        return torch.special.ndtr(leaf.flatten(1)[:, 0].double())

    def _draw(self, t: Tensor, s: Tensor, i: int) -> State:
        return self.draws(self.noise, t + (s - t) * (i / (2 * self.k + 1)), s)

    def shares(self, weights: Tensor) -> Tensor:
        return torch.softmax(weights.double().reshape(self.k, self.n), 0)

    def size(self, weights: Tensor) -> Tensor:
        """The effective number of particles of each row [n]."""
        return 1 / self.shares(weights).square().sum(0)

    def resampled(self, weights: Tensor, poor: Tensor, u: Tensor) -> Tensor:
        """Rows of a new cloud, systematically resampled where it is poor."""
        places = (torch.arange(self.k, device=u.device)[:, None] + u) / self.k
        same = torch.arange(self.k, device=u.device)[:, None].expand(-1, self.n)
        return self._rows(torch.where(poor, self._chosen(weights, places), same)).flatten()

    def one(self, weights: Tensor, u: Tensor) -> Tensor:
        """The row of one particle of each [n]."""
        return self._rows(self._chosen(weights, u[None]))[0]

    def _chosen(self, weights: Tensor, places: Tensor) -> Tensor:
        total = self.shares(weights).cumsum(0).T.contiguous()
        return torch.searchsorted(total, places.T.contiguous()).clamp(max=self.k - 1).T

    def _rows(self, particle: Tensor) -> Tensor:
        return particle * self.n + torch.arange(self.n, device=particle.device)


def _over(known: Tensor, x: Tensor) -> Tensor:
    return known.reshape(known.shape + (1,) * (x.ndim - known.ndim)).expand_as(x)
