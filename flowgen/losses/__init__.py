"""Training objectives. A loss returns a value for every sample, so that logging and averaging happen outside it."""

from flowgen.losses.base import Loss, LossOutput
from flowgen.losses.edm import EDM, Preconditioned
from flowgen.losses.likelihood import Likelihood
from flowgen.losses.matching import FlowMatching
from flowgen.losses.presets import ddpm, rectified_flow, score_matching
from flowgen.losses.uncertainty import Uncertainty

__all__ = [
    "EDM",
    "FlowMatching",
    "Likelihood",
    "Loss",
    "LossOutput",
    "Preconditioned",
    "Uncertainty",
    "ddpm",
    "rectified_flow",
    "score_matching",
]
