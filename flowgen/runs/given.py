"""Clips that a sample is made around: kept as parts of it, or those that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowgen.core.tree import State, leaves, tree_map
from flowgen.device import send
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.interfaces import MarksMasks, SeesBeyondCuts
from flowgen.media.streams import StreamSpec


@dataclass(frozen=True)
class Given:
    """Clips that are a part of what is sampled (one for all, or one for each): from `at_s` seconds on, or (None) up to the end.

    `hole`, a clip in black and white, says where they are not given after all: where it is light. `streams`: the streams
    that are given, in whole; by default a part in time of all that a clip has.
    """

    clips: Sequence[Clip]
    at_s: float | None = 0.0
    hole: Clip | None = None
    streams: Sequence[str] = ()


def source_states(encoder: Encoder, clips: Sequence[Clip], kind: str, like: State) -> State:
    """What clips start from (`Clip.start`), as states of the structure of `like` [B, ...]: clips encoded, noise as it is.

    Raises UsageError: a clip does not say it, says something else than `kind` ("noise" or "clips"), or it does not fit.
    """
    found = [clip.start for clip in clips]
    for clip, start in zip(clips, found, strict=True):
        if start is None or isinstance(start, Clip) != (kind == "clips"):
            has = "nothing" if start is None else "a clip" if isinstance(start, Clip) else "noise"
            raise UsageError(
                f"a coupling of given sources with start={kind} wants that of each clip, and {clip.source or 'a clip'} comes with "
                f"{has}; data sets that give it are reflow (noise) and pairs (clips)"
            )
    if kind == "clips":
        x = encoder.encode([start for start in found if isinstance(start, Clip)]).x
    else:
        x = tree_map(lambda *parts: torch.stack(parts), *found)
    return tree_map(_fitting, x, like)


def source_latents(encoder: Encoder, clips: Sequence[Clip], n: int) -> State:
    """The latents of n samples of a bridge at t = 0, from a clip for each or one for all. UsageError: their lengths differ."""
    x, mask = encoder.encode(clips)
    if mask is not None and not all(bool(leaf.all()) for leaf in leaves(mask)):
        raise UsageError("clips to start from, in one call, are of one length; give those of each length by themselves")
    return tree_map(lambda x: x.expand(n, *x.shape[1:]), x)


def source_clips(clips: Sequence[Clip]) -> list[Clip]:
    """The clips that clips start from; [] where they start from noise."""
    return [clip.start for clip in clips if isinstance(clip.start, Clip)]


def _fitting(start: Tensor, like: Tensor) -> Tensor:
    if start.shape != like.shape:
        raise UsageError(
            f"latents {tuple(start.shape[1:])} to start from do not fit those to arrive at, {tuple(like.shape[1:])}"
        )
    return send(start, like.device)


def clips_of(clips: Sequence[Clip], rows: range) -> Sequence[Clip]:
    return clips if len(clips) == 1 else clips[rows.start : rows.stop]


def place(encoder: Encoder, given: Sequence[Given], x: State, rows: range) -> tuple[State, State]:
    """The latents of given clips at their places, with the structure of x [B, ...], and where they hold [B, *axes].

    Raises UsageError for a clip that does not fit.
    """
    values = tree_map(torch.zeros_like, x)
    known = tree_map(lambda x: torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device), x)
    for part in given:
        clips = clips_of(part.clips, rows)
        if part.streams:
            _place_whole(encoder.encode(clips), part.streams, clips[0].source or "the given clip", values, known)
        else:
            _place_in_time(encoder, part, clips, values, known)
    return values, known


def _place_whole(latents: Latents, streams: Sequence[str], name: str, values: Any, known: Any) -> None:
    for stream in streams:
        x, mask = latents.x[stream], None if latents.mask is None else latents.mask[stream]  # type: ignore[index]
        if mask is not None and not bool(mask.all()):
            raise UsageError(f"{name} has no {stream}, or too little of it; give one that has")
        if x.shape[1:] != values[stream].shape[1:]:
            raise UsageError(
                f"the {stream} of {name} has latents {tuple(x.shape[1:])}, and the sample {tuple(values[stream].shape[1:])}; "
                f"give one of the same length and size"
            )
        values[stream].copy_(x)
        known[stream].fill_(True)


def _place_in_time(encoder: Encoder, part: Given, clips: Sequence[Clip], values: State, known: State) -> None:
    name, spec = clips[0].source or "the given clip", encoder.spec
    marked = None if part.hole is None else _marked(encoder, part.hole)
    if isinstance(marked, Mapping):
        marked = {stream: marked.get(stream) for stream in spec}  # type: ignore[union-attr]
    if part.hole is not None:
        _check_shades(marked, part.hole)
    # where a part is cut, the encoder's window has seen silence in place of what is to come
    context = encoder.context if isinstance(encoder, SeesBeyondCuts) else 0
    latents = encoder.encode(clips)

    def leaf(
        spec: StreamSpec,
        value: Tensor,
        known: Tensor,
        latent: Tensor,
        mask: Tensor | None,
        edge: int,
        marked: Tensor | None,
    ) -> None:
        has = torch.ones(len(latent), dtype=torch.bool) if mask is None else mask.flatten(1).any(1)
        if not bool(has.any()):
            return  # a stream that the clips lack
        if mask is not None and not bool(mask[has].all()):
            raise UsageError(f"clips that are parts of samples, in one call, are of one length, and {name} has another")
        if not spec.axes or spec.axes[0].name != "time" or latent.shape[2:] != value.shape[2:]:
            raise UsageError(f"{name} cannot be a part: its latents are {tuple(latent.shape[1:])}")
        size, length = value.shape[1], latent.shape[1]
        start = size - length if part.at_s is None else round(part.at_s * spec.axes[0].rate)
        if start < 0 or start + length > size or (length == size and part.hole is None):
            raise UsageError(
                f"{name} takes {length} of {size} steps in time from step {start}; "
                f"give a shorter part, or ask for a longer clip with --seconds"
            )
        first = start + (edge if start > 0 else 0)
        last = start + length - (edge if start + length < size else 0)
        rows = has.to(value.device).expand(len(value))
        value[rows, start : start + length] = latent[has.to(latent.device)].to(value)
        kept: Any = True if marked is None or part.hole is None else ~_fitted(marked, part.hole, known[0, first:last])
        known[rows, first:last] = kept

    tree_map(leaf, spec, values, known, latents.x, latents.mask, context, marked)


def _marked(encoder: Encoder, hole: Clip) -> Any:
    if not isinstance(encoder, MarksMasks):
        raise UsageError(f"the encoder {type(encoder).__name__} has no masks; give a stretch of time instead")
    return encoder.marked(hole)


def _fitted(found: Tensor, hole: Clip, like: Tensor) -> Tensor:
    """Which positions a hole touches, bool of the shape of `like` [*axes]; a hole of one step in time lasts all the time."""
    if found.shape[1:] != like.shape[1:] or found.shape[0] not in (1, like.shape[0]):
        raise UsageError(
            f"the mask {hole.source or ''} has {found.shape[0]} steps in time and the clip {like.shape[0]}; give a picture, or a "
            "mask as long as the clip"
        )
    return found.expand_as(like).to(like.device)


def _check_shades(marked: Any, hole: Clip) -> None:
    """UsageError: a mask leaves nothing to keep or nothing to make. Of several streams one may be kept, or made, as a whole."""
    found = [leaf is not None and bool(leaf.any()) for leaf in leaves(marked)]
    whole = [leaf is not None and bool(leaf.all()) for leaf in leaves(marked)]
    if all(whole) or not any(found):
        raise UsageError(
            f"the mask {hole.source or ''} is all of one shade; what is light in it is generated, the rest kept"
        )
