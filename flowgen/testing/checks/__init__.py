"""The battery: what every modality, data set, encoder and network must keep, one check a sentence of the contract."""

from flowgen.testing.checks import registration, modality, dataset, encoder, network, run  # isort: skip
from flowgen.testing.contract import CHECKS

__all__ = ["CHECKS", "dataset", "encoder", "modality", "network", "registration", "run"]
