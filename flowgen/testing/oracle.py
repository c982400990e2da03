"""A target whose flow is known in closed form: a mixture of isotropic Gaussians.

It pins down conversions, solver orders, likelihoods, guidance and inversion without any training. A condition is a subset
of the modes, `{"modes": bool [B, K]}`, so conditional and guided fields are exact too. Work in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.interfaces import Cond, Path, Paths, Prediction
from flowgen.core.paths import Linear, coefficients
from flowgen.core.tree import State, left


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """sum_k w_k N(m_k, s_k^2 I) over vectors or any latents.

    Args:
        means: [K, *shape], shape being that of one sample.
        stds: [K].
        weights: [K], positive; normalised here.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        k = len(self.means)
        if self.stds.shape != (k,) or self.weights.shape != (k,):
            raise ValueError(f"{k} means want stds and weights [{k}], got {self.stds.shape} and {self.weights.shape}")
        object.__setattr__(self, "weights", self.weights / self.weights.sum())

    @staticmethod
    def random(k: int, *shape: int, spread: float = 2.0, seed: int = 0) -> GaussianMixture:
        """A float64 mixture of k modes with means N(0, spread^2) and standard deviations in [0.2, 0.6]."""
        g = torch.Generator().manual_seed(seed)
        means = spread * torch.randn(k, *shape, generator=g, dtype=torch.float64)
        stds, weights = (torch.rand(k, generator=g, dtype=torch.float64) for _ in range(2))
        return GaussianMixture(means, 0.2 + 0.4 * stds, 0.5 + weights)

    def flow(self, path: Path | None = None, predicts: Prediction = "velocity") -> MixtureFlow:
        """The exact marginal flow on `path` (linear by default), as a network of that prediction would learn it."""
        return MixtureFlow(self, path or Linear(), predicts)

    def sample(self, n: int, generator: torch.Generator, modes: Tensor | None = None) -> Tensor:
        """n exact samples [n, *shape]; `modes` bool [n, K] conditions each."""
        weights = self.weights.expand(n, -1) if modes is None else self.weights * modes
        k = torch.multinomial(weights, 1, generator=generator)[:, 0]
        z = torch.randn((n, *self.means.shape[1:]), generator=generator, dtype=self.means.dtype)
        return self.means[k] + left(self.stds[k], z) * z

    def null(self, n: int) -> dict[str, Tensor]:
        """The condition that says nothing: all modes."""
        return {"modes": torch.ones(n, len(self.stds), dtype=torch.bool)}

    def only(self, k: int | tuple[int, ...], n: int) -> dict[str, Tensor]:
        """The condition 'one of these modes' for n samples."""
        modes = torch.zeros(n, len(self.stds), dtype=torch.bool)
        modes[:, k] = True
        return {"modes": modes}

    def log_prob(
        self, x: Tensor, path: Path | None = None, t: Tensor | float = 1.0, modes: Tensor | None = None
    ) -> Tensor:
        """log p_t(x) [B]; at t = 1 the density of the data."""
        return _posterior(self, path or Linear(), x, torch.as_tensor(t, dtype=x.dtype), modes)[0]

    def map(self, path: Path | None = None) -> MixtureFlowMap:
        """The exact flow map on `path` (linear by default): of one Gaussian of any shape, or a mixture of numbers [B, 1]."""
        return MixtureFlowMap(self, path or Linear())

    def flow_map(self, path: Path, x: Tensor, t: float, s: float) -> Tensor:
        """X_{t->s}(x), exactly (see `map`)."""
        return self.map(path)(x, t, s)


@dataclass(frozen=True)
class MixtureFlow:
    """The exact flow of a mixture. Times may be [], [B], or one for each position [B, ...]."""

    target: GaussianMixture
    path: Path
    predicts: Prediction = "velocity"

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Estimate:
        _, r, pull, alpha, sigma, c = _posterior(self.target, self.path, x, t, (cond or {}).get("modes"))
        means, variances = self.target.means.flatten(1), self.target.stds[:, None] ** 2
        score = -(r * pull).sum(1)

        def data() -> Tensor:
            return (r * (means + alpha * variances * pull)).sum(1)

        match self.predicts:
            case "score":
                value = score
            case "noise":
                value = -sigma[:, 0] * score
            case "data":
                value = data()
            case "v":
                value = -alpha[:, 0] * sigma[:, 0] * score - sigma[:, 0] * data()
            case _:
                dalpha, dsigma = (_columns(d, x)[:, 0] for d in (c.dalpha, c.dsigma))
                value = dalpha * data() - dsigma * sigma[:, 0] * score
        return Estimate(self.path, x, t, self.predicts, value.reshape(x.shape))


@dataclass(frozen=True)
class MixtureFlowMap:
    """The exact flow map of a mixture. Times are [] or [B].

    One Gaussian: X_{t->s}(x) = alpha_s m + sqrt(V_s/V_t) (x - alpha_t m). A mixture of numbers keeps the quantile,
    X_{t->s} = F_s^{-1}(F_t(x)). ValueError for others, which have no closed form.
    """

    target: GaussianMixture
    path: Path

    def __post_init__(self) -> None:
        if len(self.target.stds) > 1 and self.target.means[0].numel() != 1:
            raise ValueError("a mixture's flow map is known in closed form in one dimension only")

    def __call__(self, x: Tensor, t: Any, s: Any, cond: Cond | None = None) -> Tensor:
        if cond:
            raise ValueError("the closed form knows no conditions")
        now, then = (self.path(left(torch.as_tensor(u, dtype=torch.float64), x)) for u in (t, s))
        if len(self.target.stds) == 1:
            mean, std = self.target.means[0], self.target.stds[0]
            before, after = ((c.alpha * std) ** 2 + c.sigma**2 for c in (now, then))
            return then.alpha * mean + torch.sqrt(after / before) * (x - now.alpha * mean)
        return self._same_quantile(x, now, then)

    def average(self, x: Tensor, t: Any, s: Any, cond: Cond | None = None) -> Tensor:
        """u(x, t, s); the velocity where s = t."""
        t, s = (left(torch.as_tensor(u, dtype=torch.float64), x) for u in (t, s))
        still = s == t
        velocity = self.target.flow(self.path)(x, t.flatten() if t.ndim else t).velocity
        return torch.where(still, velocity, (self(x, t, s, cond) - x) / torch.where(still, 1.0, s - t))  # type: ignore[arg-type]

    def _same_quantile(self, x: Tensor, now: Any, then: Any) -> Tensor:
        means, flat = self.target.means.reshape(-1), x.reshape(-1, 1)

        def cdf(y: Tensor, c: Any, side: int) -> Tensor:  # of both tails, so that neither loses its digits
            alpha, sigma = (part.reshape(-1, 1) for part in (c.alpha, c.sigma))
            z = (y - alpha * means) / torch.sqrt((alpha * self.target.stds) ** 2 + sigma**2)
            return torch.logsumexp(torch.special.log_ndtr(side * z) + self.target.weights.log(), -1, keepdim=True)

        lower, upper = cdf(flat, now, 1), cdf(flat, now, -1)
        reach = float(flat.abs().max() + means.abs().max() + 10) * 10
        low, high = torch.full_like(flat, -reach), torch.full_like(flat, reach)
        for _ in range(70):  # of about 100 to the last digit
            y = (low + high) / 2
            below = torch.where(lower < upper, cdf(y, then, 1) < lower, cdf(y, then, -1) > upper)
            low, high = torch.where(below, y, low), torch.where(below, high, y)
        return ((low + high) / 2).reshape(x.shape)


@dataclass(frozen=True)
class FunctionFlow:
    """A function (x, t, cond) -> Estimate as a flow: to watch another flow, or to break one."""

    function: Callable[..., Estimate]
    path: Paths
    predicts: Prediction = "velocity"

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        return self.function(x, t, cond)


def _columns(c: Any, x: Tensor) -> Tensor:
    """A coefficient as [1 or B, 1, 1 or N], to meet [B, K, N]."""
    c = torch.as_tensor(c, dtype=x.dtype)
    if c.ndim == 0:
        return c.reshape(1, 1, 1)
    if c.ndim == 1:
        return c[:, None, None]
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim)).expand(x.shape).flatten(1)[:, None]


def _posterior(
    target: GaussianMixture, path: Path, x: Tensor, t: Tensor, modes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Any]:
    """log p_t(x) [B], responsibilities [B, K, 1], d/V [B, K, N], alpha and sigma as columns, and the coefficients."""
    c = coefficients(path, t)
    alpha, sigma = _columns(c.alpha, x), _columns(c.sigma, x)
    flat, means = x.flatten(1)[:, None], target.means.flatten(1)
    var = alpha**2 * target.stds[:, None] ** 2 + sigma**2
    d = flat - alpha * means
    log = -0.5 * (d * d / var + torch.log(2 * math.pi * var)).sum(-1) + target.weights.log()
    if modes is not None:
        share = (target.weights * modes).sum(1, keepdim=True)  # the weights of the chosen modes sum to 1 again
        log = log.masked_fill(~modes, -math.inf) - share.log()
    total = torch.logsumexp(log, 1)
    return total, torch.exp(log - total[:, None])[..., None], d / var, alpha, sigma, c
