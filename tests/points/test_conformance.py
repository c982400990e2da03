"""The points modality keeps the contracts that plugins keep."""

from flowgen.testing import ModalityConformance


class TestCheckerboard(ModalityConformance):
    modality = "points"
    dataset = "checkerboard"
    encoder = "points"
    network = {"type": "mlp", "width": 64, "depth": 2}


class TestRing(ModalityConformance):
    modality = "points"
    dataset = "ring"
    encoder = "points"
    network = {"type": "mlp", "width": 64, "depth": 2}
