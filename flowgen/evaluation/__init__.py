"""Measuring a generator: the same metrics on what it makes, on what its encoder keeps, and on real clips."""

from flowgen.evaluation.evaluate import Evaluation, Sets, draw_sets, evaluate, figure, load, round_trip, save
from flowgen.evaluation.readings import Reads, readings
from flowgen.evaluation.rows import Row

__all__ = [
    "Evaluation",
    "Reads",
    "Row",
    "Sets",
    "draw_sets",
    "evaluate",
    "figure",
    "load",
    "readings",
    "round_trip",
    "save",
]
