"""Autoguidance by the weights of a run folder."""

from __future__ import annotations

from typing import Any, Literal

from flowgen.core.guidance import AutoGuidance
from flowgen.core.interfaces import Cond
from flowgen.core.ranges import Real, Share
from flowgen.core.tree import State, first_leaf
from flowgen.media.encoder import Encoder
from flowgen.runs.teacher import load_frozen


def autoguidance(
    run: str,
    encoder: Encoder | None = None,
    weights: Literal["ema", "raw"] = "raw",
    scale: Real = 2.0,
    start: Share = 0.0,
    end: Share = 1.0,
) -> AutoGuidance:
    """`AutoGuidance` by the newest checkpoint of a run folder: an early or small run, or the raw weights of the same one.

    Both see the same latents and conditions. ValueError: the run has another encoder, or cannot be loaded.
    """
    weak = load_frozen(run, encoder, weights)

    def network(x: State, t: Any, cond: Cond) -> State:
        return weak.network.to(first_leaf(x).device)(x, t, cond)

    return AutoGuidance(weak.experiment.flow(network), scale, start, end)
