"""Negative controls: sets of clips that are wrong in a known way, which metrics that prove something tell from real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from flowgen.config import ComponentConfig
from flowgen.core.tree import leaves, tree_map
from flowgen.errors import FlowgenError
from flowgen.evaluation.pool import training_clips
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents
from flowgen.media.interfaces import Dataset, Endless
from flowgen.runs.generator import Generator
from flowgen.runs.requests import request_like

CONTROLS = {
    "one_step": "one Euler step without guidance: a flow gives the mean of all clips that were asked for",
    "copies": "training clips as they are",
    "repeats": "one real clip for each condition, as often as it is asked for",
    "noise": "noise, decoded",
    "round_trip": "real clips, encoded and decoded: what the encoder loses",
}
"""By name, what their clips are."""


def control_clips(
    generator: Generator, dataset: Dataset, real: Sequence[Clip], asked: Sequence[Mapping[str, Any]], seed: int
) -> tuple[dict[str, list[Clip]], dict[str, str]]:
    """The clips of each control but the round trip, as many as there are real ones; and why a control could not be made."""
    clips = {"noise": _noise(generator, asked, seed)}
    missing = {}
    try:
        clips["one_step"] = _one_step(generator, real, asked, seed)
    except FlowgenError as error:  # such as a network that predicts the noise: it has no velocity at t = 0
        missing["one_step"] = str(error)
    if isinstance(dataset, Endless) and dataset.endless:
        missing["copies"] = "the data are endless: training sees no clip twice"
    elif len(dataset) >= len(real):
        clips["copies"] = [like_asked(clip, asked[0]) for clip in training_clips(dataset, len(real))]
    else:
        missing["copies"] = f"there are {len(dataset)} training clips, fewer than {len(real)}"
    first: dict[str, Clip] = {}
    repeats = [
        replace(first.setdefault(repr(sorted(wanted.items())), clip), conditions=wanted)
        for clip, wanted in zip(real, asked, strict=True)
    ]
    if len(first) < len(real):
        clips["repeats"] = repeats
    else:
        missing["repeats"] = "no condition is asked for twice"
    return {name: clips[name] for name in CONTROLS if name in clips}, missing


def like_asked(clip: Clip, asked: Mapping[str, Any]) -> Clip:
    """A real clip of which no more conditions are known than those that a generator is asked for."""
    return replace(clip, conditions={name: clip.conditions.get(name) for name in asked})


def _one_step(generator: Generator, real: Sequence[Clip], asked: Sequence[Mapping[str, Any]], seed: int) -> list[Clip]:
    one = {"steps": 1, "solver": ComponentConfig(type="euler"), "guidance": None, "grid": "uniform"}
    request = request_like(real, asked, seed=seed)
    return generator.sample(replace(request, settings=generator.config.sample.model_copy(update=one)))


def lossless(decoded: Sequence[Clip], real: Sequence[Clip]) -> bool:
    """Whether clips went through an encoder and back unchanged, up to rounding."""
    pairs = [
        pair
        for new, old in zip(decoded, real, strict=True)
        for pair in zip(leaves(new.data), leaves(old.data), strict=True)
    ]
    return all(
        a.shape == b.shape and torch.allclose(a.double().cpu(), b.double().cpu(), rtol=1e-4, atol=1e-4)
        for a, b in pairs
    )


@torch.no_grad()
def _noise(generator: Generator, asked: Sequence[Mapping[str, Any]], seed: int) -> list[Clip]:
    noise, size = generator.noise(len(asked), seed), generator.config.sample.batch_size
    decoded: list[Clip] = []
    for start in range(0, len(asked), size):
        decoded += generator.encoder.decode(Latents(tree_map(lambda x: x[start : start + size], noise)))  # noqa: B023
    return [replace(clip, conditions=wanted) for clip, wanted in zip(decoded, asked, strict=True)]
