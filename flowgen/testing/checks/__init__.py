"""The checks: what every component must keep, one check a sentence of the contract, a file for each kind or group of kinds."""

from flowgen.testing.checks import registration, modality, dataset, encoder, network, run  # isort: skip
from flowgen.testing.checks import (
    bottleneck,
    conditioner,
    guidance,
    logger,
    loss,
    mathematics,
    metric,
    optimizer,
    region,
    solver,
    writer,
)
from flowgen.testing.contract import CHECKS, COMPONENT_CHECKS, checks_of

__all__ = [
    "CHECKS",
    "COMPONENT_CHECKS",
    "bottleneck",
    "checks_of",
    "conditioner",
    "dataset",
    "encoder",
    "guidance",
    "logger",
    "loss",
    "mathematics",
    "metric",
    "modality",
    "network",
    "optimizer",
    "region",
    "registration",
    "run",
    "solver",
    "writer",
]
