"""A loss against the oracle: what it leads a network to is the field of its path, and nothing else decides that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowgen.config.components import options_model
from flowgen.core.flow_map import MapFlow
from flowgen.core.interfaces import (
    END_TIME,
    MASK,
    REJECTED,
    SOURCE,
    STREAM_LOSSES,
    Flow,
    Loss,
    LossOutput,
    LossWithAverage,
    LossWithBalance,
    LossWithGroups,
    LossWithInputs,
    LossWithPairs,
    LossWithTeacher,
    SourceCoupling,
)
from flowgen.core.random import Randomness, generator
from flowgen.core.tree import left
from flowgen.testing.contract import COMPONENT_CHECKS, NotApplicable, checks_for
from flowgen.testing.oracle import GaussianMixture
from flowgen.testing.part import SMOOTH, Part, normal, shaken, touches_global_generators
from flowgen.testing.subject import distance

_POINT: Any = GaussianMixture(
    torch.tensor([[0.8]], dtype=torch.float64), *torch.tensor([[0.0], [1.0]], dtype=torch.float64)
)
"""All data are one clip: from x_t follow noise and data, so that a regression on the exact field has no error."""
_NUMBER = 1024
_ERRORS = 5.0
"""How many standard errors of the mean count as different."""

Net = Callable[..., Any]
check = checks_for("loss", COMPONENT_CHECKS)


def _ready(p: Part, target: Any = SMOOTH) -> Loss:
    """The loss with the teacher and the average that it asks for: the exact field."""
    made: Any = p.new()
    loss: Any = made
    if isinstance(loss, LossWithTeacher):
        loss = loss.with_teacher(target.flow(made.path), {})
    if isinstance(loss, LossWithAverage):
        loss = loss.with_average(exact_network(made, target))
    try:
        _call(loss, exact_network(loss, SMOOTH), normal(2, 1).float(), Randomness(0, 0, 2))
    except ValueError as error:
        if "network" in str(error):
            raise NotApplicable(f"it refuses a function as a network: {error}") from None
        raise
    return loss


def exact_network(loss: Loss, target: Any) -> Net:
    """The network that `loss.flow` reads as the exact flow of `target` on the loss's path (its exact flow map, if it is one).

    What `flow` makes of a network may be any function that is affine in the network's input and output, such as a
    preconditioning: it is found out by asking.
    """
    field: Any = MapFlow(target.map(loss.path)) if _is_map(loss) else target.flow(loss.path)

    def network(seen: Tensor, t: Tensor, cond: Any) -> Tensor:
        own = {k: v for k, v in cond.items() if k == END_TIME}

        def assembled(x: Tensor, out: float) -> tuple[Tensor, Any]:
            inputs = []

            def constant(x: Tensor, t: Tensor, cond: Any) -> Tensor:
                inputs.append(x)
                return torch.full_like(x, out)

            estimate = loss.flow(constant)(x, t, own)
            return inputs[0], estimate

        zero = torch.zeros_like(seen)
        offset, _ = assembled(zero, 0.0)
        scale = assembled(zero + 1, 0.0)[0] - offset
        x = (seen - offset) / scale
        without, with_one = (assembled(x, out)[1] for out in (0.0, 1.0))
        exact = field(x, t, own).read(without.prediction)
        return (exact - without.value) / (with_one.value - without.value)

    return network


def _is_map(loss: Any) -> bool:
    """Whether it trains a flow map."""
    return isinstance(loss, LossWithInputs) and any(given.name == END_TIME for given in loss.inputs)


def _call(loss: Loss, network: Net, x1: Tensor, random: Randomness, cond: Any = None, known: Any = None) -> LossOutput:
    return loss(network, x1, _with_source(loss, cond or {}, x1), random, known)


def _with_source(loss: Loss, cond: dict[str, Any], x1: Tensor) -> dict[str, Any]:
    coupling = vars(loss).get("coupling")
    if isinstance(loss, LossWithPairs):
        cond = {**cond, REJECTED: {"x": -x1, MASK: cond.get(MASK)}}
    return {**cond, SOURCE: normal(*x1.shape, seed=9).to(x1)} if isinstance(coupling, SourceCoupling) else cond


def _at_times(loss: Loss) -> bool:
    """Whether it is taken at times of the path, as a regression is."""
    out = _call(loss, exact_network(loss, SMOOTH), normal(8, 1).float(), Randomness(0, 0, 8))
    return not isinstance(out.t, Tensor) or bool(out.t.any())


def _regresses(loss: Loss) -> None:
    if isinstance(loss, LossWithPairs):
        raise NotApplicable("it compares two clips: it does not regress on a field")
    if not _at_times(loss):
        raise NotApplicable("it is taken at no times: it does not regress on a field")


def _mean(x: Tensor) -> tuple[float, float]:
    """The mean, and its standard error."""
    return float(x.mean()), float(x.std()) / len(x) ** 0.5


def _slopes(loss: Loss, exact: Net, way: Net, at: float, x1: Tensor, random: Randomness) -> Tensor:
    each = torch.full((len(x1), 1), at, requires_grad=True)  # one for each sample: their gradients come apart
    through = not _at_times(loss)  # a likelihood asks for the divergence of the field

    def network(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        with torch.set_grad_enabled(through):
            field, push = exact(x, t, cond), way(x, t)
        return field + each * push

    total = _call(loss, network, x1, random).total.sum()
    return torch.autograd.grad(total, each)[0][:, 0]


@check(
    "a loss gives one finite number a sample, and the times it was taken at; path and prediction are its flow's",
    see="losses",
)
def loss_is_per_sample(p: Part) -> str | None:
    loss = _ready(p)
    out = _call(loss, exact_network(loss, SMOOTH), normal(6, 1).float(), Randomness(0, 0, 6))
    if out.total.shape != (6,) or not bool(torch.isfinite(out.total).all()):
        return f"total of 6 samples has shape {list(out.total.shape)}, or is not finite"
    flow = loss.flow(lambda x, t, cond: x)
    if not isinstance(flow, Flow) or flow.path != loss.path or flow.predicts != loss.predicts:
        return "its flow has another path or prediction than the loss itself"
    if isinstance(loss, LossWithGroups) and isinstance(loss, torch.nn.Module):
        own = {name for name, _ in (*loss.named_modules(), *loss.named_parameters())}
        for name in loss.groups():
            if name not in own:
                return f"groups() names {name!r}, which is no module or parameter of it"
    return None


@check(
    "everything random about a loss comes from its Randomness: seed and step decide it, no global generator",
    see="random-numbers",
    needs=(loss_is_per_sample,),
)
def loss_draws_from_its_randomness(p: Part) -> str | None:
    loss = _ready(p)
    x1, exact = normal(8, 1).float(), exact_network(loss, SMOOTH)

    def total(seed: int = 0, step: int = 0) -> Tensor:
        return _call(loss, lambda x, t, cond: exact(x, t, cond) + 0.1, x1, Randomness(seed, step, 8)).total.detach()

    with shaken(1):
        first = total()
    with shaken(2):
        again = total()
    if not torch.equal(first, again):
        return "with another global seed the same Randomness gives another loss"
    if touches_global_generators(total):
        return "it changes the state of a global generator (random, numpy.random or torch)"
    _regresses(loss)
    if torch.equal(total(seed=1), first) or torch.equal(total(step=1), first):
        return "another seed or step gives the same loss: it does not draw from Randomness"
    return None


@check(
    "the loss of a sample is a function of its number in the global batch, whatever the number of ranks",
    see="random-numbers",
    needs=(loss_draws_from_its_randomness,),
)
def loss_is_the_same_on_any_ranks(p: Part) -> str | None:
    loss = _ready(p)
    x1, exact = normal(8, 1).float(), exact_network(loss, SMOOTH)

    def total(rows: Tensor) -> Tensor:
        return _call(loss, exact, x1[rows], Randomness(0, 0, 8, rows)).total.detach()

    rows = torch.arange(8)
    whole, halves = total(rows), torch.cat([total(rows[:4]), total(rows[4:])])
    off = float((whole - halves).abs().max())
    return (
        f"8 samples at once, and 4 and 4, differ by {off:.2g}" if off > 1e-5 * (1 + float(whole.abs().max())) else None
    )


@check(
    "where x_t tells noise and data, the exact field (or flow map) has no loss",
    see="losses",
    needs=(loss_draws_from_its_randomness,),
)
def loss_is_zero_at_the_exact_field(p: Part) -> str | None:
    loss = _ready(p, _POINT)
    _regresses(loss)
    x1, random = torch.full((256, 1), 0.8), Randomness(0, 0, 256)
    exact = _call(loss, exact_network(loss, _POINT), x1, random).total.detach()
    zero = _call(loss, lambda x, t, cond: torch.zeros_like(x), x1, random).total.detach()
    least, size = float(exact.abs().mean()), float(zero.abs().mean())
    if not least < 1e-3 * size:
        return f"all data being one point, the loss of the exact field is {least:.3g}; that of a network of zeros is {size:.3g}"
    return None


@check(
    "its gradient at the oracle's field is zero, and beside it leads back: that field is what training finds",
    see="losses",
    needs=(
        loss_draws_from_its_randomness,
        loss_is_zero_at_the_exact_field,
    ),
)
def loss_leads_to_the_exact_field(p: Part) -> str | None:
    loss = _ready(p)
    if isinstance(loss, LossWithPairs):
        raise NotApplicable("it compares two clips: where it leads depends on the pairs")
    number = _NUMBER // 4 if _is_map(loss) else _NUMBER  # an exact map is found by bisection
    x1 = SMOOTH.sample(number, generator("conformance", "loss")).float()
    if isinstance(vars(loss).get("coupling"), SourceCoupling):
        raise NotApplicable("its pairs are given: the field depends on them")
    exact = exact_network(loss, SMOOTH)
    ways: dict[str, Net] = {
        "a constant": lambda x, t: torch.ones_like(x),
        "the state": lambda x, t: x,
        "the time": lambda x, t: left(t, x).expand_as(x) - 0.5,
    }
    for step, (name, way) in enumerate(ways.items()):
        # the gradient along a way for each sample, at the field and a little above it
        slopes = [_slopes(loss, exact, way, at, x1, Randomness(0, step, number)) for at in (0.0, 0.3)]
        (pull, error), (back, error_back) = (_mean(d) for d in (slopes[0], slopes[1] - slopes[0]))
        if abs(pull) > _ERRORS * error and abs(pull) > 0.05 * abs(back):
            return f"at the exact field it pulls by {pull:.3g} (standard error {error:.2g}) along {name}"
        if back < _ERRORS * error_back:
            return (
                f"training does not take away {name} that is added to the exact field: from it to 0.3 above it the slope of "
                f"the loss rises by {back:.3g} (standard error {error_back:.2g})"
            )
    return None


@check(
    "a position that is masked out carries no loss, and one that is not does",
    see="losses",
    needs=(loss_draws_from_its_randomness,),
)
def loss_respects_the_mask(p: Part) -> str | None:
    loss = _ready(p)
    x1, mask = normal(4, 6, 1).float(), torch.arange(6).expand(4, 6) < 4

    def total(x1: Tensor, push: Tensor) -> Tensor:
        return _call(loss, lambda x, t, cond: 0.3 * x + push, x1, Randomness(0, 0, 4), {MASK: mask}).total.detach()

    nothing = torch.zeros(4, 6, 1)
    try:
        first = total(x1, nothing)
    except ValueError as error:
        raise NotApplicable(f"it refuses masks: {error}") from None
    if not torch.allclose(total(torch.where(mask[..., None], x1, 9.0), nothing), first, atol=1e-6):
        return "another content of what is masked out changes the loss"
    if not torch.allclose(total(x1, torch.where(mask[..., None], nothing, 7.0)), first, atol=1e-6):
        return "what the network says where the mask is off changes the loss"
    real = total(x1, torch.where(mask[..., None], nothing + 7.0, 0.0))
    return "what the network says of real positions changes nothing" if torch.allclose(real, first) else None


@check(
    "known positions are shown to the network as they are, at t = 1, and carry no loss",
    see="losses",
    needs=(loss_draws_from_its_randomness,),
)
def loss_respects_known_positions(p: Part) -> str | None:
    loss = _ready(p)
    x1, known = normal(4, 6, 1).float(), torch.arange(6).expand(4, 6) < 2
    shown: list[tuple[Tensor, Tensor]] = []

    def total(push: Tensor) -> Tensor:
        def network(x: Tensor, t: Tensor, cond: Any) -> Tensor:
            shown.append((x.detach(), t))
            return 0.3 * x + push

        return _call(loss, network, x1, Randomness(0, 0, 4), known=known).total.detach()

    try:
        first = total(torch.zeros(4, 6, 1))
    except ValueError as error:
        raise NotApplicable(f"it refuses known regions: {error}") from None
    x, t = shown[0]
    if t.shape != (4, 6) or not bool((t[known] == 1).all()):
        return f"the network is shown times of shape {list(t.shape)}; expected [4, 6] with t = 1 at known positions"
    scale = (x[known] / x1[known]).median()  # a preconditioning may scale the state
    if distance(x[known], scale * x1[known]) > 0.1:
        return "the network is not shown the clip at known positions"
    if not torch.allclose(total(torch.where(known[..., None], 7.0, 0.0)), first, atol=1e-6):
        return "what the network says of known positions changes the loss"
    return None


@check(
    "with the option `balance` each stream is divided by the average that it is shown, which the network does not see",
    see="losses",
    needs=(loss_is_the_same_on_any_ranks, loss_leads_to_the_exact_field),
)
def loss_balances_streams(p: Part) -> str | None:
    if not isinstance(p.built, LossWithBalance) or "balance" not in options_model(p.kind, p.name).model_fields:
        raise NotApplicable("it has no option `balance`")
    loss: Any = replace(p, options={**p.options, "balance": 0.9}).built
    x1 = {"a": normal(8, 3).float(), "b": 9 * normal(8, 2, seed=1).float()}
    shown: set[str] = set()

    def network(x: Any, t: Any, cond: Any) -> Any:
        shown.update(cond)
        return x

    averages = {"a": torch.full((8,), 2.0), "b": torch.full((8,), 5.0)}
    plain = loss(network, x1, {}, Randomness(0, 0, 8))
    out = loss(network, x1, {STREAM_LOSSES: averages}, Randomness(0, 0, 8))
    if shown:
        return f"the network is given {', '.join(sorted(shown))} beside the conditions"
    if distance(out.by_stream["a"], plain.by_stream["a"]) > 1e-6:
        return "the losses by stream, which are logged as they are, are divided, too"
    if not torch.allclose(out.total, sum(plain.by_stream[name] / averages[name] for name in x1) / 2, rtol=1e-4):
        return "its total is not the mean of the losses of the streams, each divided by its average"
    return None
