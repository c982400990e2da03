"""Probability paths x_t = alpha(t) x1 + sigma(t) x0 from noise (t = 0) to data (t = 1).

A path is four functions of t and nothing else; everything that depends on them (targets, conversions, solvers) asks here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import ClassVar

import torch
from torch import Tensor

from flowgen.core.interfaces import BoundsVelocity, Coefficients, Path, Paths
from flowgen.core.ranges import NonNegative, Positive
from flowgen.core.tree import State, left, lincomb, tree_map


@dataclass(frozen=True)
class Linear:
    """alpha = t, sigma = 1 - t: rectified flow (Liu et al. 2022, eq. 1)."""

    velocity_bounded: ClassVar[bool] = True

    def __call__(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)

    def time_of_snr(self, rho: Tensor) -> Tensor:
        return 1 / (1 + 1 / rho)  # rho/(1+rho), finite at rho = inf


@dataclass(frozen=True)
class CondOT:
    """alpha = t, sigma = 1 - (1 - sigma_min) t: conditional optimal transport (Lipman et al. 2022, eq. 20)."""

    sigma_min: NonNegative = 1e-4
    velocity_bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise ValueError(f"sigma_min must lie in [0, 1), got {self.sigma_min}")

    def __call__(self, t: Tensor) -> Coefficients:
        k, one = 1 - self.sigma_min, torch.ones_like(t)
        return Coefficients(t, 1 - k * t, one, -k * one)

    def time_of_snr(self, rho: Tensor) -> Tensor:
        return 1 / (1 / rho + (1 - self.sigma_min))


@dataclass(frozen=True)
class Cosine:
    """alpha = sin(pi t/2), sigma = cos(pi t/2): unit variance throughout (Albergo et al. 2023, "GVP" in SiT)."""

    velocity_bounded: ClassVar[bool] = True

    def __call__(self, t: Tensor) -> Coefficients:
        h = math.pi / 2
        # cos(h t) as a sine, which is exactly 0 at t = 1
        alpha, sigma = torch.sin(h * t), torch.sin(h * (1 - t))
        return Coefficients(alpha, sigma, h * sigma, -h * alpha)

    def time_of_snr(self, rho: Tensor) -> Tensor:
        return torch.atan(rho) * (2 / math.pi)


@dataclass(frozen=True)
class VP:
    """Variance preserving: DDPM's linear schedule in continuous time (Song et al. 2020, eq. 33; t runs the other way).

    alpha = exp(-T/2), sigma = sqrt(1 - exp(-T)), T = (1-t)^2 (beta_max - beta_min)/2 + (1-t) beta_min. Its prior is not
    quite a unit normal, alpha(0) = 0.0066 by default; dsigma is -inf at t = 1.
    """

    beta_min: NonNegative = 0.1
    beta_max: Positive = 20.0
    velocity_bounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"expected 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

    def __call__(self, t: Tensor) -> Coefficients:
        slope, back = self.beta_max - self.beta_min, 1 - t
        exponent = back * (back * slope / 2 + self.beta_min)
        alpha, sigma = torch.exp(-exponent / 2), torch.sqrt(-torch.expm1(-exponent))
        dalpha = (back * slope + self.beta_min) / 2 * alpha
        return Coefficients(alpha, sigma, dalpha, -alpha * dalpha / sigma)

    def time_of_snr(self, rho: Tensor) -> Tensor:
        exponent, b = torch.log1p(rho**-2), self.beta_min
        # the root of the quadratic that does not cancel
        return 1 - 2 * exponent / (b + torch.sqrt(b * b + 2 * (self.beta_max - b) * exponent))


@dataclass(frozen=True)
class VE:
    """Variance exploding: alpha = 1, sigma = sigma_max (sigma_min/sigma_max)^t (Song et al. 2020, eq. 31; t reversed).

    Sampling starts from noise of standard deviation sigma_max, see `flowgen.core.sampler.prior`.
    """

    sigma_min: Positive = 0.01
    sigma_max: Positive = 50.0
    velocity_bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def __call__(self, t: Tensor) -> Coefficients:
        rate = math.log(self.sigma_min / self.sigma_max)
        sigma = self.sigma_max * torch.exp(rate * t)
        return Coefficients(torch.ones_like(t), sigma, torch.zeros_like(t), rate * sigma)

    def time_of_snr(self, rho: Tensor) -> Tensor:
        return torch.log(self.sigma_max * rho) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class AffinePath:
    """Any path, from two functions alpha(t) and sigma(t) of a tensor of times, elementwise.

    Derivatives are taken by forward-mode differentiation where they are not given. Either way they are compared with
    differences of the functions when the path is built, and the signal-to-noise ratio must rise throughout. ValueError
    names the function and the time at which that fails.
    """

    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    dalpha: Callable[[Tensor], Tensor] | None = None
    dsigma: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        h, t = 1e-5, torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
        c = self(t)
        for name, value in zip(c._fields, c, strict=True):
            if not isinstance(value, Tensor) or value.shape != t.shape or not bool(value.isfinite().all()):
                raise ValueError(f"{name}(t) must be finite and of the shape of t inside (0, 1)")
        for name, function, given in (("alpha", self.alpha, c.dalpha), ("sigma", self.sigma, c.dsigma)):
            difference = (function(t + h) - function(t - h)) / (2 * h)
            gap = (given - difference).abs() / (1 + difference.abs())
            if float(gap.max()) > 1e-5:
                i = int(gap.argmax())
                raise ValueError(
                    f"d{name}({float(t[i]):.2f}) is {float(given[i]):.6g}, but differences of {name} give "
                    f"{float(difference[i]):.6g}; correct it, or leave it out to have it derived"
                )
        if not bool((c.det > 0).all() and (c.alpha >= 0).all() and (c.sigma >= 0).all()):
            i = int(torch.minimum(c.det, torch.minimum(c.alpha, c.sigma)).argmin())
            raise ValueError(
                f"alpha and sigma must be positive and alpha/sigma must rise from noise (t = 0) to data (t = 1); "
                f"at t = {float(t[i]):.2f} "
                f"alpha = {float(c.alpha[i]):.3g}, sigma = {float(c.sigma[i]):.3g}, D = {float(c.det[i]):.3g}"
            )

    def __call__(self, t: Tensor) -> Coefficients:
        (alpha, dalpha), (sigma, dsigma) = (
            _with_derivative(t, *pair) for pair in ((self.alpha, self.dalpha), (self.sigma, self.dsigma))
        )
        return Coefficients(alpha, sigma, dalpha, dsigma)

    @cached_property
    def velocity_bounded(self) -> bool:
        """As measured at both ends."""
        c = self(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return bool(c.dalpha.isfinite().all() and c.dsigma.isfinite().all())

    def time_of_snr(self, rho: Tensor) -> Tensor:
        low, high = torch.zeros_like(rho), torch.ones_like(rho)
        for _ in range(60):  # bisection to the last bit of float64
            middle = (low + high) / 2
            # alpha against rho sigma, not the quotient: no division where sigma = 0
            below = self.alpha(middle) < rho * self.sigma(middle)
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def affine_path(alpha: str, sigma: str) -> AffinePath:
    """`AffinePath` from import strings "package.module:function", as a config gives them."""
    found = []
    for target in (alpha, sigma):
        module, _, attribute = target.partition(":")
        try:
            found.append(getattr(import_module(module), attribute))
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"expected an importable 'package.module:function', got {target!r}: {error}") from error
    return AffinePath(*found)


def _with_derivative(
    t: Tensor, function: Callable[[Tensor], Tensor], derivative: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor]:
    if derivative is not None:
        return function(t), derivative(t)
    return torch.func.jvp(function, (t,), (torch.ones_like(t),))  # type: ignore[return-value]


def velocity_bounded(path: Path) -> bool:
    """Whether the velocity is bounded, as the path declares; one that does not is taken to be."""
    return path.velocity_bounded if isinstance(path, BoundsVelocity) else True


def coefficients(path: Path, t: Tensor) -> Coefficients:
    """`path(t)`, as Python numbers where t is a single host time: arithmetic on those costs nothing beside a tensor's."""
    c = path(t)
    if t.ndim or t.requires_grad or c.alpha.requires_grad or not t.is_cpu:
        return c
    return Coefficients(c.alpha.item(), c.sigma.item(), c.dalpha.item(), c.dsigma.item())


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


def noised(path: Paths, x1: State, x0: State, t: Tensor | dict[str, Tensor]) -> tuple[State, State]:
    """x_t and dx_t/dt together, in the fewest passes over memory."""
    if isinstance(path, Linear) and isinstance(t, Tensor) and isinstance(x1, Tensor):
        difference = x1 - x0  # type: ignore[operator]
        return torch.addcmul(x0, left(t.to(x1.dtype), x1), difference), difference  # type: ignore[arg-type]
    return interpolate(path, x1, x0, t), velocity(path, x1, x0, t)
