"""The data sets keep flowgen's contracts, with the modalities they are for."""

from flowgen.testing import ModalityConformance


class TestDoom(ModalityConformance):
    config = "doom/small"
    overrides = ("modality.frames=6", "network.width=32", "network.depth=2", "network.heads=2")


class TestDoomSound(ModalityConformance):
    config = "doom/sound"
    overrides = ("modality.duration_s=0.5", "network.width=32", "network.depth=2", "network.heads=2")
    batch_tolerance = 1e-2  # Griffin-Lim amplifies rounding
    round_trip_tolerance = 0.5  # mel bands say little of phases
