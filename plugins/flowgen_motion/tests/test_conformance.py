"""Human motion keeps flowgen's contracts."""

from flowgen.testing import ModalityConformance


class TestMotion(ModalityConformance):
    config = "motion/small"
    overrides = ("network.width=32", "network.depth=2")
