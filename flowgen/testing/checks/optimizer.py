"""An optimizer steps the weights, by the rate that the schedule sets, and goes on where it was saved."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.config import options_model
from flowgen.core.interfaces import Group
from flowgen.testing.contract import COMPONENT_CHECKS, checks_for
from flowgen.testing.part import Part
from flowgen.training.optimizers import Part as Trained

check = checks_for("optimizer", COMPONENT_CHECKS)


class _Problem:
    """Least squares of a small network, in two parts that are trained at different rates."""

    def __init__(self, p: Part) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network, known = (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)) for _ in range(2))
            self.x = torch.randn(64, 4)
            self.y = known(self.x).detach()
        first, second = (list(self.network[i].parameters()) for i in (0, 2))
        parts = [Trained(first, Group()), Trained(second, Group(rate=0.5))]
        self.optimizer: Any = p.new(parts=parts)
        rate = float(p.options.get("lr", 0.01))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)

    def step(self, n: int = 1) -> list[float]:
        losses = []
        for _ in range(n):
            self.optimizer.zero_grad()
            loss = (self.network(self.x) - self.y).square().mean()
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.network.parameters()])


@check(
    "it has the option `lr`, and groups with `rate` and `start` that hold every parameter once",
    see="optimizers",
)
def optimizer_groups_hold_every_parameter(p: Part) -> str | None:
    if "lr" not in options_model(p.kind, p.name).model_fields:
        return "it has no option 'lr', on which the schedule rests"
    problem = _Problem(p)
    for group in problem.optimizer.param_groups:
        if "rate" not in group or "start" not in group:
            return "a group lacks the key 'rate' or 'start' (flowgen.training.optimizers.groups makes them)"
    held = [id(q) for group in problem.optimizer.param_groups for q in group["params"]]
    wanted = [id(q) for q in problem.network.parameters()]
    return (
        None if sorted(held) == sorted(wanted) else f"its groups hold {len(held)} parameters; there are {len(wanted)}"
    )


@check("steps lower the loss of least squares", see="optimizers", needs=(optimizer_groups_hold_every_parameter,))
def optimizer_lowers_the_loss(p: Part) -> str | None:
    losses = _Problem(p).step(100)
    if not losses[-1] < 0.5 * losses[0]:
        return f"100 steps take it from {losses[0]:.3g} to {losses[-1]:.3g}"
    return None


@check(
    "a group whose lr is 0 stays where it is: the schedule alone decides how fast weights move",
    see="optimizers",
    needs=(optimizer_lowers_the_loss,),
)
def optimizer_follows_the_schedule(p: Part) -> str | None:
    problem = _Problem(p)
    for group in problem.optimizer.param_groups:
        group["lr"] = 0.0
    before = problem.weights()
    problem.step(3)
    off = float((problem.weights() - before).abs().max())
    return f"at lr 0 the weights move by {off:.2g}" if off else None


@check(
    "loaded from its state_dict it goes on as if it had not stopped, and that state is tensors and numbers by parameter",
    see="optimizers",
    needs=(optimizer_lowers_the_loss,),
)
def optimizer_survives_saving(p: Part) -> str | None:
    one, other = _Problem(p), _Problem(p)
    one.step(5)
    kept = copy.deepcopy((one.network.state_dict(), one.optimizer.state_dict()))
    one.step(5)
    other.network.load_state_dict(kept[0])
    other.optimizer.load_state_dict(kept[1])
    other.step(5)
    off = float((one.weights() - other.weights()).abs().max())
    if off > 1e-6:
        return f"5 steps more differ by {off:.2g} when it is saved and loaded between"
    for parameter, state in one.optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.numel() not in (1, parameter.numel()):
                return f"its state {name!r} of a parameter {list(parameter.shape)} has shape {list(value.shape)}"
            if not isinstance(value, Tensor | int | float):
                return f"its state {name!r} is a {type(value).__name__}"
    return None
