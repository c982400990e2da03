"""Normalising flows for flowgen, the ancestors of flow matching. Nothing heavy is imported here."""

from pathlib import Path

from flowgen import Component, hookimpl

FLOWGEN_API = 2


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component(
            "network", "coupling", "flowgen_nflows.networks:Coupling", "half of the channels moves the other half"
        ),
        Component(
            "network", "autoregressive", "flowgen_nflows.networks:Autoregressive", "splines, channel after channel"
        ),
        Component("network", "residual", "flowgen_nflows.residual:Residual", "contractive residual blocks"),
        Component("loss", "normalising-flow", "flowgen_nflows.loss:NormalisingFlow", "exact maximum likelihood"),
    ]


@hookimpl
def flowgen_recipes() -> Path:
    return Path(__file__).parent / "recipes"
