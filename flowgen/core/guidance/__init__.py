"""Guidance: wrappers that take a Flow and are a Flow, so they chain.

Combinations with constant weights (`CFG`, `MultiCFG`, `CrossStream`, `AutoGuidance`) are the same in every parameterisation and are made
in the network's own. The others depend on the space in which they measure, and each says which that is.
"""

from flowgen.core.guidance.auto import AutoGuidance
from flowgen.core.guidance.base import Guided
from flowgen.core.guidance.cfg import CFG, MultiCFG
from flowgen.core.guidance.cross import CrossStream
from flowgen.core.guidance.folded import Folded, FoldedFlow, check_folded
from flowgen.core.guidance.measured import APG, CFGRescale, CFGZeroStar
from flowgen.core.interfaces import Guidance

__all__ = [
    "APG",
    "CFG",
    "AutoGuidance",
    "CFGRescale",
    "CFGZeroStar",
    "CrossStream",
    "Folded",
    "FoldedFlow",
    "Guidance",
    "Guided",
    "MultiCFG",
    "check_folded",
]
