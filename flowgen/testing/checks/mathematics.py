"""Paths, training times and couplings: what the mathematics asks of them."""

from __future__ import annotations

import torch

from flowgen.core.interfaces import Coefficients, DrawsPairs, LeavesOutEnds, SourceCoupling
from flowgen.core.paths import velocity_bounded
from flowgen.core.random import Randomness
from flowgen.core.tree import leaves
from flowgen.testing.contract import COMPONENT_CHECKS, NotApplicable, checks_for
from flowgen.testing.part import Part, normal, touches_global_generators

_INSIDE = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)

path = checks_for("path", COMPONENT_CHECKS)
times = checks_for("times", COMPONENT_CHECKS)
coupling = checks_for("coupling", COMPONENT_CHECKS)


@path("a path gives alpha, sigma and their derivatives at times of any shape, in their precision", see="paths")
def path_takes_any_times(p: Part) -> str | None:
    for t in (torch.tensor(0.3, dtype=torch.float64), torch.rand(3), torch.rand(2, 5)):
        c = p.built(t)
        if len(tuple(c)) != 4:
            return f"it gives {len(tuple(c))} values; expected Coefficients(alpha, sigma, dalpha, dsigma)"
        for name, value in zip(Coefficients._fields, c, strict=True):
            if value.shape != t.shape or value.dtype != t.dtype:
                return f"{name} of times {t.dtype} {list(t.shape)} is {value.dtype} {list(value.shape)}"
    return None


@path(
    "it goes from noise to data: alpha/sigma rises, D = dalpha sigma - alpha dsigma > 0",
    see="paths",
    needs=(path_takes_any_times,),
)
def path_goes_from_noise_to_data(p: Part) -> str | None:
    c = Coefficients(*p.built(_INSIDE))
    if not all(bool(torch.isfinite(part).all()) for part in c):
        return "its coefficients are not finite between 0 and 1"
    if not (c.det > 0).all():
        return f"D is {float(c.det.min()):.3g} at t = {float(_INSIDE[c.det.argmin()]):.2f}"
    start, end = (p.built(torch.tensor(t, dtype=torch.float64)) for t in (0.0, 1.0))
    if float(start[0]) > 0.1 * float(start[1]) or float(end[1]) > 0.1 * float(end[0]):
        return (
            f"alpha/sigma goes from {float(start[0]):.3g}/{float(start[1]):.3g} at t = 0 to "
            f"{float(end[0]):.3g}/{float(end[1]):.3g} at t = 1; expected nearly all noise, then nearly all data"
        )
    return None


@path("dalpha and dsigma are the derivatives of alpha and sigma", see="paths", needs=(path_takes_any_times,))
def path_derivatives_are_right(p: Part) -> str | None:
    h, c = 1e-5, p.built(_INSIDE)
    after, before = p.built(_INSIDE + h), p.built(_INSIDE - h)
    for name, i in (("dalpha", 0), ("dsigma", 1)):
        slope = (after[i] - before[i]) / (2 * h)
        off = float(((c[i + 2] - slope).abs() / (1 + slope.abs())).max())
        if off > 1e-4:
            return f"{name} is off by {off:.2g} from the difference quotient"
    return None


@path(
    "a path whose velocity is infinite at an end says so: `velocity_bounded`",
    see="paths",
    needs=(path_takes_any_times,),
)
def path_says_whether_its_velocity_is_bounded(p: Part) -> str | None:
    c = Coefficients(*p.built(torch.tensor([0.0, 1.0], dtype=torch.float64)))
    bounded = all(bool(torch.isfinite(torch.as_tensor(slope)).all()) for slope in (c.dalpha, c.dsigma))
    if bounded == velocity_bounded(p.built):
        return None
    return (
        f"dalpha is {c.dalpha.tolist()} and dsigma {c.dsigma.tolist()} at t = 0 and 1; "
        f"declare velocity_bounded = {bounded}"
    )


@path("time_of_snr(alpha/sigma) is t", see="paths", needs=(path_goes_from_noise_to_data,))
def path_time_of_snr_inverts(p: Part) -> str | None:
    off = float((p.built.time_of_snr(Coefficients(*p.built(_INSIDE)).snr) - _INSIDE).abs().max())
    return f"it is off by {off:.2g}" if not off < 1e-5 else None


@times("times increase with the quantile, lie in [0, 1] and have its shape and precision", see="paths")
def times_are_quantiles(p: Part) -> str | None:
    u = torch.linspace(1e-6, 1 - 1e-6, 1001, dtype=torch.float64)
    t = p.built(u)
    if t.shape != u.shape or t.dtype != u.dtype:
        return f"quantiles {u.dtype} {list(u.shape)} give times {t.dtype} {list(t.shape)}"
    if not (t.diff() > 0).all():
        return "they do not increase"
    if not (float(t.min()) >= 0 and float(t.max()) <= 1):
        return f"they go from {float(t.min()):.3g} to {float(t.max()):.3g}"
    return None


@times("times that say that they leave out both ends become rare there", see="paths", needs=(times_are_quantiles,))
def times_that_leave_out_ends_do(p: Part) -> str | None:
    said = isinstance(p.built, LeavesOutEnds) and p.built.leaves_out_ends
    if not said:
        raise NotApplicable("they may reach 0 and 1")
    t = p.built(torch.tensor([1e-6, 2e-6, 1 - 2e-6, 1 - 1e-6], dtype=torch.float64)).diff()
    density = 1e-6 / torch.stack([t[0], t[2]])
    return f"near 0 and 1 their density is {density.tolist()}" if bool((density > 0.1).any()) else None


@times("times are a function of the quantile alone", see="paths")
def times_draw_nothing(p: Part) -> str | None:
    u = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    if touches_global_generators(lambda: p.built(u)):
        return "it draws from a global generator"
    return None if torch.equal(p.built(u), p.new()(u)) else "the same quantile gives two times"


@coupling("a coupling gives a permutation of the noise [B], or None; noise and data stay as they are", see="couplings")
def coupling_permutes(p: Part) -> str | None:
    x0, x1 = normal(12, 3), normal(12, 3, seed=1)
    kept = x0.clone(), x1.clone()
    order = p.built(x0, x1)
    if not (torch.equal(x0, kept[0]) and torch.equal(x1, kept[1])):
        return "it changes noise or data in place"
    if order is None:
        return None
    if order.dtype != torch.int64 or order.shape != (12,):
        return f"it gives {order.dtype} {list(order.shape)}; expected int64 [12]"
    return None if torch.equal(order.sort().values, torch.arange(12)) else "some noise is taken twice: no permutation"


@coupling(
    "only samples of one group are permuted with one another: noise must be normal under every condition",
    see="couplings",
    needs=(coupling_permutes,),
)
def coupling_stays_within_groups(p: Part) -> str | None:
    group = torch.arange(12) % 3
    order = p.built(normal(12, 3), normal(12, 3, seed=1), group)
    if order is not None and not torch.equal(group[order], group):
        return "noise of one group goes to data of another"
    return None


@coupling("it is a function of noise and data, of several streams too", see="couplings", needs=(coupling_permutes,))
def coupling_is_a_function(p: Part) -> str | None:
    x0 = {"a": normal(8, 2), "b": normal(8, 3, 1, seed=1)}
    x1 = {"a": normal(8, 2, seed=2), "b": normal(8, 3, 1, seed=3)}
    if touches_global_generators(lambda: p.built(x0, x1)):
        return "it draws from a global generator"
    first, again = p.built(x0, x1), p.new()(x0, x1)
    if (first is None) != (again is None) or (first is not None and not torch.equal(first, again)):
        return "the same noise and data are paired in two ways"
    return None


@coupling("a coupling whose sources are given hands them on as they are", see="couplings")
def coupling_hands_on_its_sources(p: Part) -> str | None:
    from flowgen.core.interfaces import SOURCE

    if not isinstance(p.built, SourceCoupling):
        raise NotApplicable("its noise is drawn")
    if p.built.start not in ("noise", "clips"):
        return f"start is {p.built.start!r}; expected 'noise' or 'clips'"
    given = normal(4, 3)
    source = p.built.source({SOURCE: given})
    if any(leaf.shape != given.shape for leaf in leaves(source)):
        return f"sources of shape {list(given.shape)} are handed on as {[list(v.shape) for v in leaves(source)]}"
    return None


@coupling(
    "a coupling that draws its pairs takes sources of like conditions, the same for the same numbers", see="couplings"
)
def coupling_draws_its_pairs(p: Part) -> str | None:
    if not isinstance(p.built, DrawsPairs):
        raise NotApplicable("its pairs are given")
    x0, x1 = normal(16, 2), normal(16, 2, seed=1)
    group, random = torch.arange(16) % 2, Randomness(0, 0, 16)
    order, weight = p.built.draw_pairs(x0, x1, group, random)  # first: a library that is imported here may draw
    if touches_global_generators(lambda: p.built.draw_pairs(x0, x1, group, random)):
        return "it draws from a global generator, and not from the random numbers it is given"
    again = p.new().draw_pairs(x0, x1, group, random)
    if order.shape != (16,) or order.dtype != torch.int64 or not bool(((order >= 0) & (order < 16)).all()):
        return f"order is {list(order.shape)} of {order.dtype}; expected int64 [16] of rows"
    if not torch.equal(group[order], group):
        return "a clip gets a source of other conditions"
    if not torch.equal(order, again.order):
        return "the same clips and numbers are paired in two ways"
    if (weight is not None) != p.built.weighted:
        return f"it says weighted={p.built.weighted}, and gives {'weights' if weight is not None else 'none'}"
    if weight is not None and (weight.shape != (16,) or not bool((torch.isfinite(weight) & (weight >= 0)).all())):
        return f"weights are {list(weight.shape)}; expected 16 finite numbers of 0 or more"
    return None
