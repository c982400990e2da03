"""Probability paths x_t = alpha(t) x1 + sigma(t) x0 from noise (t = 0) to data (t = 1).

A path is four functions of t and nothing else; everything that depends on them (targets, conversions, solvers) asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from flowgen.tree import State, lincomb, tree_map


class Coefficients(NamedTuple):
    """alpha, sigma and their derivatives at t, each of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    dalpha: Tensor
    dsigma: Tensor

    @property
    def det(self) -> Tensor:
        """D = dalpha sigma - alpha dsigma = sigma^2 d(alpha/sigma)/dt, positive where the signal-to-noise ratio rises."""
        return self.dalpha * self.sigma - self.alpha * self.dsigma


class Path(Protocol):
    """An affine probability path. One path, or a dict of paths with one a stream, goes wherever a path is asked for."""

    def __call__(self, t: Tensor) -> Coefficients:
        """Coefficients at t in [0, 1], any shape."""

    def time_of_snr(self, rho: Tensor) -> Tensor:
        """The t at which alpha/sigma = rho."""


Paths: TypeAlias = Path | Mapping[str, Path]


@dataclass(frozen=True)
class Linear:
    """alpha = t, sigma = 1 - t: rectified flow (Liu et al. 2022, eq. 1)."""

    def __call__(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)

    def time_of_snr(self, rho: Tensor) -> Tensor:
        return 1 / (1 + 1 / rho)  # rho/(1+rho), finite at rho = inf


@dataclass(frozen=True)
class CondOT:
    """alpha = t, sigma = 1 - (1 - sigma_min) t: conditional optimal transport (Lipman et al. 2022, eq. 20)."""

    sigma_min: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise ValueError(f"sigma_min must lie in [0, 1), got {self.sigma_min}")

    def __call__(self, t: Tensor) -> Coefficients:
        k, one = 1 - self.sigma_min, torch.ones_like(t)
        return Coefficients(t, 1 - k * t, one, -k * one)

    def time_of_snr(self, rho: Tensor) -> Tensor:
        return 1 / (1 / rho + (1 - self.sigma_min))


def interpolate(path: Paths, x1: State, x0: State, t: Tensor | dict[str, Tensor]) -> State:
    """x_t = alpha x1 + sigma x0 for noise x0 and data x1."""

    def leaf(x1: Tensor, x0: Tensor, path: Path, t: Tensor) -> State:
        c = path(t)
        return lincomb((c.alpha, x1), (c.sigma, x0))

    return tree_map(leaf, x1, x0, path, t)


def velocity(path: Paths, x1: State, x0: State, t: Tensor | dict[str, Tensor]) -> State:
    """dx_t/dt = dalpha x1 + dsigma x0, the conditional velocity that flow matching regresses on."""

    def leaf(x1: Tensor, x0: Tensor, path: Path, t: Tensor) -> State:
        c = path(t)
        return lincomb((c.dalpha, x1), (c.dsigma, x0))

    return tree_map(leaf, x1, x0, path, t)
