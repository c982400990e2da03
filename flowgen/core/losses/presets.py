"""The classics by name: each sets path, prediction and loss together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from flowgen.core.couplings import Independent
from flowgen.core.interfaces import Coupling, Times
from flowgen.core.losses.matching import FlowMatching, Weighting
from flowgen.core.paths import VE, VP, Linear
from flowgen.core.ranges import Decay, NonNegative, Positive, Real
from flowgen.core.times import LogitNormal, Shifts, Uniform

Levels: TypeAlias = Literal["shared", "independent"] | dict[str, str]


def ddpm(
    times: Times | Mapping[str, Times] = Uniform(),
    coupling: Coupling = Independent(),
    shift: Shifts = 1.0,
    beta_min: NonNegative = 0.1,
    beta_max: Positive = 20.0,
    weighting: Weighting = "uniform",
    snr_cap: Positive = 5.0,
    weights: dict[str, NonNegative] | None = None,
    noise_levels: Levels = "shared",
    balance: Decay | None = None,
) -> FlowMatching:
    """Denoising diffusion (Ho et al. 2020, eq. 14, in continuous time): the VP path, noise prediction, squared error."""
    return FlowMatching(
        VP(beta_min, beta_max),
        times,
        coupling,
        shift,
        predicts="noise",
        weighting=weighting,
        snr_cap=snr_cap,
        weights=weights,
        noise_levels=noise_levels,
        balance=balance,
    )


def score_matching(
    times: Times | Mapping[str, Times] = Uniform(),
    coupling: Coupling = Independent(),
    shift: Shifts = 1.0,
    sigma_min: Positive = 0.01,
    sigma_max: Positive = 50.0,
    weights: dict[str, NonNegative] | None = None,
    noise_levels: Levels = "shared",
    balance: Decay | None = None,
) -> FlowMatching:
    """Denoising score matching (Song and Ermon 2019, eq. 6): the VE path, score prediction, weighted by sigma^2."""
    return FlowMatching(
        VE(sigma_min, sigma_max),
        times,
        coupling,
        shift,
        predicts="score",
        space="noise",
        weights=weights,
        noise_levels=noise_levels,
        balance=balance,
    )


def rectified_flow(
    times: Times | Mapping[str, Times] | None = None,
    coupling: Coupling = Independent(),
    shift: Shifts = 1.0,
    mean: Real = 0.0,
    std: Positive = 1.0,
    weights: dict[str, NonNegative] | None = None,
    noise_levels: Levels = "shared",
    balance: Decay | None = None,
) -> FlowMatching:
    """Rectified flow as SD3 trains it (Esser et al. 2024): straight path, velocity, times LogitNormal(mean, std)."""
    times = LogitNormal(mean, std) if times is None else times
    return FlowMatching(Linear(), times, coupling, shift, weights=weights, noise_levels=noise_levels, balance=balance)
