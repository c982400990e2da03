"""Other runs that a run asks: loaded frozen, by the code that loads a generator to sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from flowgen.core.interfaces import Cond, Loss, LossWithTeacher
from flowgen.core.tree import State, tree_map
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.conditions import null_conditions
from flowgen.media.encoder import Encoder
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator, Weights


class Frozen:
    """A network that is asked and not trained. It is no module, so that whoever holds it has no parameters of it."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __call__(self, x: State, t: Any, cond: Cond) -> State:
        return self.network(x, t, cond)


def load_frozen(run: str, encoder: Encoder | None, weights: Weights, device: torch.device | str = "cpu") -> Generator:
    """The newest checkpoint of a run. ValueError: it cannot be loaded, or was trained behind another encoder than this one."""
    try:
        found = Generator.load(run, weights=weights, device=str(device))
    except FlowgenError as error:
        raise ValueError(f"the model cannot be loaded from {run}: {error}") from error
    if encoder is not None and found.encoder.identity != encoder.identity:
        raise ValueError(
            f"the run {run} was trained behind another encoder (identity {found.encoder.identity}, here {encoder.identity}); "
            f"take one with the same encoder section and data"
        )
    return found


def taught(loss: Loss, experiment: Experiment, device: torch.device) -> Loss:
    """The loss with its teacher, where it asks for one. UsageError: the teacher does not fit this run."""
    if not isinstance(loss, LossWithTeacher):
        return loss
    try:
        found = load_frozen(loss.teacher, experiment.encoder, "ema", device)
    except ValueError as error:
        raise UsageError(f"loss.teacher: {error}") from error
    own, theirs = (_conditions(e) for e in (experiment, found.experiment))
    if own != theirs:
        raise UsageError(
            f"loss.teacher: the run {loss.teacher} takes the conditions {theirs}, and this one {own}; "
            f"give both the same conditions"
        )
    null = tree_map(lambda v: v.to(device), null_conditions(experiment.conditioners, 1))
    try:
        return loss.with_teacher(found.experiment.flow(Frozen(found.network)), null)
    except ValueError as error:
        raise UsageError(f"loss.teacher: {error}") from error


def _conditions(experiment: Experiment) -> dict[str, Any]:
    return {name: {"type": c.type, **c.options} for name, c in (experiment.config.conditions or {}).items()}
