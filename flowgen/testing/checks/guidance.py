"""Guidance wraps a flow and is a flow."""

from __future__ import annotations

from typing import Any

import torch

from flowgen.core.interfaces import Flow
from flowgen.core.paths import Linear
from flowgen.core.times import uniform_grid
from flowgen.core.tree import leaves
from flowgen.testing.contract import COMPONENT_CHECKS, NotApplicable, checks_for
from flowgen.testing.oracle import GaussianMixture
from flowgen.testing.part import Part, normal, solved, touches_global_generators

_MIXTURE: Any = GaussianMixture.random(3, 2, seed=1)
_ROWS = 6

check = checks_for("guidance", COMPONENT_CHECKS)


def _guided(p: Part) -> Any:
    return p.built(_MIXTURE.flow(), _MIXTURE.null(_ROWS))


@check("a guided flow is a flow on the path of the flow it wraps", see="guidance")
def guidance_is_a_flow(p: Part) -> str | None:
    guided = _guided(p)
    if not isinstance(guided, Flow):
        return f"it gives a {type(guided).__name__} without `path` and `predicts`"
    return None if guided.path == Linear() else f"its path is {guided.path}, that of the flow {Linear()}"


@check(
    "it is a function of its arguments: no random numbers, nothing changed in place, and samples do not see each other",
    see="guidance",
    needs=(guidance_is_a_flow,),
)
def guidance_is_pure(p: Part) -> str | None:
    x, t, cond = normal(_ROWS, 2), torch.tensor(0.5, dtype=torch.float64), _MIXTURE.only(1, _ROWS)
    kept = x.clone(), {k: v.clone() for k, v in cond.items()}
    first = _guided(p)(x, t, cond).velocity
    if not torch.equal(x, kept[0]) or any(not torch.equal(cond[k], v) for k, v in kept[1].items()):
        return "it changes the state or the conditions in place"
    if touches_global_generators(lambda: _guided(p)(x, t, cond)):
        return "it draws from a global generator"
    if not torch.equal(_guided(p)(x, t, cond).velocity, first):
        return "the same arguments give two estimates"
    alone = p.built(_MIXTURE.flow(), _MIXTURE.null(1))(x[2:3], t, {k: v[2:3] for k, v in cond.items()}).velocity
    off = max(float((a[2:3] - b).abs().max()) for a, b in zip(leaves(first), leaves(alone), strict=True))
    return f"a sample alone and among others differs by {off:.2g}" if off > 1e-9 else None


@check(
    "with the null conditions there is nothing to push away from: it is the plain flow",
    see="guidance",
    needs=(guidance_is_pure,),
)
def guidance_of_nothing_is_the_flow(p: Part) -> str | None:
    x, t = normal(_ROWS, 2), torch.tensor(0.5, dtype=torch.float64)
    null = _MIXTURE.null(_ROWS)
    off = float((_guided(p)(x, t, null).velocity - _MIXTURE.flow()(x, t, null).velocity).abs().max())
    return f"it differs from the flow by {off:.2g}" if off > 1e-6 else None


@check("with its options it changes what is sampled, and the end is finite", see="guidance", needs=(guidance_is_pure,))
def guidance_guides(p: Part) -> str | None:
    x, cond = normal(_ROWS, 2), _MIXTURE.only(1, _ROWS)
    flow = _MIXTURE.flow()
    if p.built(flow, _MIXTURE.null(_ROWS)) is flow:
        raise NotApplicable("with these options it leaves the flow as it is; check it with others")
    end = solved(_guided(p), x, uniform_grid(8), cond=cond)
    plain = solved(_MIXTURE.flow(), x, uniform_grid(8), cond=cond)
    if not bool(torch.isfinite(end).all()):
        return "sampling with it gives values that are not finite"
    return "sampling with it and without gives the same" if torch.allclose(end, plain) else None


@check(
    "guidances chain: the conditions of a guidance further out are repeated with the batch",
    see="guidance",
    needs=(guidance_is_pure,),
)
def guidance_chains(p: Part) -> str | None:
    from flowgen.core.guidance import CFG

    null: Any = _MIXTURE.null(_ROWS)
    chained: Any = CFG(scale=1.5)(_guided(p), null)
    estimate: Any = chained(normal(_ROWS, 2), torch.tensor(0.5, dtype=torch.float64), _MIXTURE.only(1, _ROWS))
    return None if bool(torch.isfinite(estimate.velocity).all()) else "under another guidance it is not finite"
