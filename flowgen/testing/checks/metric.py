"""A metric measures clips, and can tell that they are bad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from flowgen.core.random import seed_of
from flowgen.core.tree import leaves, tree_map
from flowgen.errors import FlowgenError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents
from flowgen.testing.contract import COMPONENT_CHECKS, NotApplicable, NotBuilt, checks_for
from flowgen.testing.part import Part, touches_global_generators

_CLIPS = 24

check = checks_for("metric", COMPONENT_CHECKS)


def _metric(p: Part) -> Any:
    s = p.medium
    try:
        return p.new(modality=s.modality, dataset=s.dataset, encoder=s.encoder)
    except FlowgenError as error:
        raise NotBuilt(f"it does not take {s.config.data.type!r} of {s.config.name}: {error}") from None


def _real(p: Part, part: int) -> list[Clip]:
    """Held-out clips of one of three parts, made again at each call."""
    held_out = p.medium.dataset.validation()
    if len(held_out) < 3:
        raise NotApplicable("the data set holds out fewer than 3 clips")
    n = min(_CLIPS, len(held_out) // 3)
    return [held_out.clip(i, seed_of(0, "metric check", i)) for i in range(part, 3 * n, 3)]


def _noise(p: Part, asked: Sequence[Clip]) -> list[Clip]:
    """What the encoder makes of noise, under the conditions of real clips."""
    s = p.medium
    latents = s.encode(asked)
    g = torch.Generator().manual_seed(5)
    x = tree_map(lambda leaf: torch.randn(leaf.shape, generator=g), latents.x)
    return [
        replace(made, conditions=clip.conditions)
        for made, clip in zip(s.decode(Latents(x, latents.mask)), asked, strict=True)
    ]


@check("measure gives at least one figure, each a finite number under a name", see="metrics")
def metric_is_finite(p: Part) -> str | None:
    metric, clips, reference = _metric(p), _real(p, 0), _real(p, 1)
    for what, given in (("real clips", clips), ("noise", _noise(p, clips))):
        figures = metric.measure(given, reference)
        if what == "real clips" and not figures:
            return "of real clips it gives no figure"
        for name, value in figures.items():
            if not isinstance(name, str) or not isinstance(value, int | float):
                return f"of {what} it gives {name!r}: {type(value).__name__}; expected a name and a number"
            if math.isnan(value) or (what == "real clips" and math.isinf(value)):
                return f"of {what} the figure {name!r} is {value}"
    return None


@check(
    "it is a function of clips and reference: the same again, no global random numbers, and clips are left as they are",
    see="metrics",
    needs=(metric_is_finite,),
)
def metric_is_pure(p: Part) -> str | None:
    metric, clips, reference = _metric(p), _real(p, 0), _real(p, 1)
    kept = [(tree_map(torch.clone, clip.data), dict(clip.conditions)) for clip in (*clips, *reference)]
    figures: dict[str, float] = {}
    if touches_global_generators(lambda: figures.update(metric.measure(clips, reference))):
        return "it changes the state of a global generator (random, numpy.random or torch)"
    for clip, (data, conditions) in zip((*clips, *reference), kept, strict=True):
        if any(not torch.equal(a, b) for a, b in zip(leaves(clip.data), leaves(data), strict=True)):
            return "it changes the clips in place"
        if dict(clip.conditions) != conditions:
            return "it changes the conditions of clips"
    for name, again in metric.measure(clips, reference).items():
        if abs(again - figures.get(name, math.nan)) > 1e-6 * (1 + abs(again)) or name not in figures:
            return f"measured twice, {name!r} is {figures.get(name)} and {again}"
    return None


@check(
    "it can fail: of noise at least one figure is further from that of real clips than real clips are from one another",
    see="metrics",
    needs=(metric_is_pure,),
)
def metric_can_fail(p: Part) -> str | None:
    metric, clips, others, reference = _metric(p), _real(p, 0), _real(p, 1), _real(p, 2)
    real, again, noise = (metric.measure(c, reference) for c in (clips, others, _noise(p, clips)))
    for name, value in real.items():
        spread, off = abs(value - again.get(name, value)), abs(value - noise.get(name, value))
        if off > 2 * spread and off > 1e-9:
            return None
    return f"of real clips it gives {_words(real)} and {_words(again)}, of noise {_words(noise)}"


def _words(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in figures.items()) or "nothing"
