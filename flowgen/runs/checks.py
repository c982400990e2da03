"""Whether the settings of a run can be sampled at all, before anything is trained or computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flowgen.core.sampler import refuse_singular
from flowgen.core.transports import check_motion
from flowgen.core.tree import tree_map
from flowgen.errors import FlowgenError
from flowgen.media.conditions import null_conditions
from flowgen.runs.sampling import sampled_flow

if TYPE_CHECKING:
    from flowgen.runs.generator import Generator


def check_sampling(generator: Generator) -> None:
    """Take solver, grid and guidance of `sample` to the flow that is trained, on zeros.

    An autoencoder is not sampled. FlowgenError: the solver asks the network's prediction where it is singular.
    """
    if generator.experiment.reconstructs:
        return
    settings = generator.config.sample
    x = tree_map(lambda stream: torch.zeros(1, *stream.shape), generator.encoder.spec)
    try:
        with generator.refusals():
            grid = generator.grid(settings, x)
            null = null_conditions(generator.conditioners, 1)
            flow, _ = sampled_flow(generator, settings, grid, null, (), x, x, range(1))
            solver = generator.solver(settings)
            check_motion(generator.experiment.coupling, solver)
            refuse_singular(flow, grid, solver)
    except FlowgenError as error:
        raise FlowgenError(
            f"{error}; it would train and never be sampled: change sample.solver, sample.grid, sample.guidance or loss.predicts"
        ) from None
