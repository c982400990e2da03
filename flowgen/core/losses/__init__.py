"""Training objectives. A loss returns a value for every sample, so that logging and averaging happen outside it."""

from flowgen.core.interfaces import Loss, LossOutput
from flowgen.core.losses.consistency import Consistency
from flowgen.core.losses.distill import Distillation, TrajectoryDistillation
from flowgen.core.losses.edm import EDM, Preconditioned
from flowgen.core.losses.flow_map import FlowMapMatching
from flowgen.core.losses.likelihood import Likelihood
from flowgen.core.losses.matching import FlowMatching
from flowgen.core.losses.preferences import FlowDPO
from flowgen.core.losses.presets import ddpm, rectified_flow, score_matching
from flowgen.core.losses.uncertainty import Uncertainty

__all__ = [
    "Consistency",
    "Distillation",
    "EDM",
    "FlowDPO",
    "FlowMapMatching",
    "FlowMatching",
    "Likelihood",
    "Loss",
    "LossOutput",
    "Preconditioned",
    "TrajectoryDistillation",
    "Uncertainty",
    "ddpm",
    "rectified_flow",
    "score_matching",
]
