"""A known region says which positions are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowgen.media.streams import Axis
from flowgen.testing.contract import COMPONENT_CHECKS, checks_for
from flowgen.testing.part import Part, touches_global_generators

_ROWS = 64

check = checks_for("region", COMPONENT_CHECKS)


def _axes(p: Part) -> Sequence[Axis]:
    common = {"time": Axis("time", 16, 8.0), "height": Axis("height", 12), "width": Axis("width", 12)}
    return [*common.values(), *(Axis(name, 12) for name in p.built.along if name not in common)]


def _drawn(p: Part, sizes: Any = None, built: Any = None) -> Tensor:
    axes = _axes(p)
    full = torch.tensor([axis.size for axis in axes]).repeat(_ROWS, 1)
    if sizes is not None:
        full[:, 0] = sizes
    u = torch.rand(_ROWS, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (built or p.built)(axes, full, u)


@check(
    "a region gives bool [B, *axes], along axes that it names, with a probability in [0, 1]; something is known in it "
    "and, unless it has no axes (a whole stream), something is not",
    see="regions",
)
def region_is_a_mask(p: Part) -> str | None:
    if not 0 <= p.built.probability <= 1:
        return f"its probability is {p.built.probability}"
    known, shape = _drawn(p), (_ROWS, *(axis.size for axis in _axes(p)))
    if known.dtype != torch.bool or known.shape != shape:
        return f"it gives {known.dtype} {list(known.shape)}; expected bool {list(shape)}"
    share = known.flatten(1).double().mean(1)
    if not (share > 0).all() or (p.built.along and not (share < 1).all()):
        return f"the share of known positions goes from {float(share.min()):.3g} to {float(share.max()):.3g}"
    return None


@check(
    "in a clip that is shorter than the batch something of its own is known, and something is not",
    see="regions",
    needs=(region_is_a_mask,),
)
def region_fits_short_clips(p: Part) -> str | None:
    if _axes(p)[0].name not in p.built.along:
        return None
    size = 5
    share = _drawn(p, size)[:, :size].flatten(1).double().mean(1)
    if not (share > 0).all() or not (share < 1).all():
        return (
            f"of clips of {size} steps among 16 the share of known positions goes from {float(share.min()):.3g} to "
            f"{float(share.max()):.3g}"
        )
    return None


@check("a region is a function of axes, sizes and u: it draws nothing itself", see="regions", needs=(region_is_a_mask,))
def region_is_drawn_by_u(p: Part) -> str | None:
    if touches_global_generators(lambda: _drawn(p)):
        return "it draws from a global generator; the uniform numbers are u"
    return None if torch.equal(_drawn(p), _drawn(p, built=p.new())) else "the same numbers give two regions"
