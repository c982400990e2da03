"""Guidance away from a worse version of the model itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from flowgen.encoder import Encoder
from flowgen.errors import FlowgenError
from flowgen.estimate import Estimate
from flowgen.flow import Cond, Flow
from flowgen.guidance.base import Guided, check_interval
from flowgen.tree import State, first_leaf, lincomb


@dataclass(frozen=True)
class AutoGuidance:
    """w + scale (c - w) with w from a smaller or less trained flow under the same conditions (Karras et al. 2024, eq. 4).

    Both flows are on one path; `flowgen.flow.OnPath` brings another one there. Both may predict what they like.
    """

    weak: Flow
    scale: float = 2.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        check_interval(self.start, self.end)

    def __call__(self, flow: Flow, null: Cond) -> Flow:
        ours, theirs = getattr(flow, "path", None), getattr(self.weak, "path", None)
        if ours is not None and theirs is not None and ours != theirs:
            raise ValueError(
                f"the weaker flow is on {theirs}, this one on {ours}; bring it there with flowgen.flow.OnPath"
            )

        def rule(x: State, t: Any, cond: Cond) -> tuple[Estimate, Estimate]:
            strong = flow(x, t, cond)
            weak = self.weak(x, t, cond).read(strong.prediction)
            value = lincomb((self.scale, strong.value), (1 - self.scale, weak))
            return strong, replace(strong, value=value)

        return Guided(flow, self.start, self.end, rule)


def autoguidance(
    run: str,
    encoder: Encoder | None = None,
    weights: Literal["ema", "raw"] = "raw",
    scale: float = 2.0,
    start: float = 0.0,
    end: float = 1.0,
) -> AutoGuidance:
    """`AutoGuidance` by the newest checkpoint of a run folder: an early or small run, or the raw weights of the same one.

    Both see the same latents and conditions. ValueError: the run has another encoder, or cannot be loaded.
    """
    from flowgen.generator import Generator

    try:
        weak = Generator.load(run, weights=weights, device="cpu")
    except FlowgenError as error:
        raise ValueError(f"the weaker model cannot be loaded from {run}: {error}") from error
    if encoder is not None and weak.encoder.identity != encoder.identity:
        raise ValueError(
            f"the run {run} was trained behind another encoder (identity {weak.encoder.identity}, here {encoder.identity}); "
            f"take one with the same encoder section and data"
        )

    def network(x: State, t: Any, cond: Cond) -> State:
        return weak.network.to(first_leaf(x).device)(x, t, cond)

    return AutoGuidance(weak.loss.flow(network), scale, start, end)
