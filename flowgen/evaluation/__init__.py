"""Measuring a generator: the same metrics on what it makes, on what its encoder keeps, and on real clips."""

from flowgen.evaluation.evaluate import Evaluation, Sets, draw_sets, evaluate, figure, load, save
from flowgen.evaluation.readings import Reads, readings
from flowgen.evaluation.reconstruction import evaluate_autoencoder
from flowgen.evaluation.rows import Row

__all__ = [
    "Evaluation",
    "Reads",
    "Row",
    "Sets",
    "draw_sets",
    "evaluate",
    "evaluate_autoencoder",
    "figure",
    "load",
    "readings",
    "save",
]
