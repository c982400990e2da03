"""Guidance: wrappers that take a Flow and are a Flow, so they chain.

Combinations with constant weights (`CFG`, `MultiCFG`, `AutoGuidance`) are the same in every parameterisation and are made
in the network's own. The others depend on the space in which they measure, and each says which that is.
"""

from flowgen.guidance.auto import AutoGuidance, autoguidance
from flowgen.guidance.base import Guidance, Guided
from flowgen.guidance.cfg import CFG, MultiCFG
from flowgen.guidance.measured import APG, CFGRescale, CFGZeroStar

__all__ = [
    "APG",
    "CFG",
    "AutoGuidance",
    "CFGRescale",
    "CFGZeroStar",
    "Guidance",
    "Guided",
    "MultiCFG",
    "autoguidance",
]
