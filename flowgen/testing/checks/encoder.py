"""An encoder goes between clips and latents, the same way every time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgen.core.tree import State, first_leaf, leaves, tree_map
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.interfaces import KnownLengths, TimedModality
from flowgen.media.streams import Spec, StreamSpec
from flowgen.testing.checks.dataset import equal
from flowgen.testing.contract import NotApplicable, checks_for
from flowgen.testing.subject import Subject, copied, distance, finite, first_changed, rows, same, shapes

check = checks_for("encoder")


def streams(spec: Spec, x: State) -> list[tuple[str, StreamSpec, Tensor]]:
    """Spec and tensor of each stream."""
    if isinstance(spec, StreamSpec):
        return [("the latents", spec, first_leaf(x))]
    return [(f"stream {name!r}", one, x[name]) for name, one in spec.items()]  # type: ignore[index]


@check(
    "encode leaves clips as they are, and decode leaves latents: both may be kept and used again",
    see="encoder",
    basic=True,
)
def coding_leaves_its_input_alone(s: Subject) -> str | None:
    clips = [copied(clip) for clip in s.clips]
    latents = s.encode(clips)
    if changed := first_changed(clips, s.clips):
        return f"encode changes {changed} in place"
    kept = tree_map(torch.clone, latents.x)
    s.decode(latents)
    if any(not torch.equal(a, b) for a, b in zip(leaves(latents.x), leaves(kept), strict=True)):
        return "decode changes the latents in place"
    return None


@check(
    "spec says what encode gives: streams, axes in order, sizes and channels; float32; a mask [B, ...] of bool",
    see="encoder",
    basic=True,
)
def spec_matches_the_latents(s: Subject) -> str | None:
    x, mask = s.latents
    if isinstance(s.spec, StreamSpec) != isinstance(x, Tensor):
        return f"spec is {s.spec} and the latents are {shapes(x)}"
    if not isinstance(s.spec, StreamSpec) and set(s.spec) != set(x):
        return f"spec has the streams {sorted(s.spec)} and the latents {sorted(x)}"
    for what, spec, leaf in streams(s.spec, x):
        if leaf.dtype != torch.float32 or not finite(leaf):
            return f"{what} are {leaf.dtype}, or not finite; expected finite float32"
        if len(leaf) != len(s.clips) or leaf.ndim != len(spec.axes) + 2 or leaf.shape[-1] != spec.channels:
            return f"{what} of {len(s.clips)} clips have shape {tuple(leaf.shape)}; spec says {spec.shape} for each"
        fixed = leaf.shape[2 if mask is not None else 1 : -1]
        expected = tuple(axis.size for axis in spec.axes[1 if mask is not None else 0 :])
        if tuple(fixed) != expected:
            return f"{what} have shape {tuple(leaf.shape[1:])}; spec says {spec.shape}"
    for leaf in leaves(mask) if mask is not None else ():
        if leaf.dtype != torch.bool or leaf.shape[0] != len(s.clips):
            return f"the mask is {leaf.dtype} {tuple(leaf.shape)}; expected bool [{len(s.clips)}, ...]"
    return None


@check(
    "latents of real clips have about unit variance after fit: noise of unit variance is what they are mixed with",
    see="encoder",
)
def latents_have_unit_scale(s: Subject) -> str | None:
    for what, _, leaf in streams(s.spec, s.encode(s.many).x):
        mean, deviation = float(leaf.mean()), float(leaf.std())
        if not 0.15 < deviation < 3 or abs(mean) > 2:
            return f"{what} have mean {mean:.3g} and deviation {deviation:.3g}; expected a deviation of 0.15 to 3"
    return None


@check(
    "decode undoes encode: clips of the same form and rate, whose latents are those they were decoded from",
    see="encoder",
)
def decode_undoes_encode(s: Subject) -> str | None:
    decoded = s.decode(s.latents)
    if len(decoded) != len(s.clips):
        return f"{len(s.clips)} clips are decoded as {len(decoded)}"
    for clip, back in zip(s.clips, decoded, strict=True):
        a, b = shapes(clip.data), shapes(back.data)
        if (s.latents.mask is None and a != b) or first_leaf(clip.data).dtype != first_leaf(back.data).dtype:
            return f"a clip of {first_leaf(clip.data).dtype} {a} is decoded as {first_leaf(back.data).dtype} {b}"
        if back.rate != clip.rate:
            return f"a clip at rate {clip.rate} is decoded at rate {back.rate}"
        if any(leaf.device.type != "cpu" for leaf in leaves(back.data)):
            return "decoded clips are not on the CPU"
    again = s.encode(decoded)
    if shapes(again.x) != shapes(s.latents.x):
        return f"latents {shapes(s.latents.x)} decoded and encoded again are {shapes(again.x)}"
    off = distance(again.x, s.latents.x)
    if off > s.tolerances.round_trip:
        return (
            f"latents decoded and encoded again are off by {off:.3f} of their size (at most {s.tolerances.round_trip})"
        )
    return None


@check("encode and decode are deterministic", see="encoder", basic=True)
def coding_is_deterministic(s: Subject) -> str | None:
    if not same(s.encode(s.clips).x, s.latents.x):
        return "encoding the same clips twice gives different latents"
    if not all(equal(a, b) for a, b in zip(s.decode(s.latents), s.decode(s.latents), strict=True)):
        return "decoding the same latents twice gives different clips"
    return None


@check("what is encoded or decoded of a clip does not depend on the others in the batch", see="encoder")
def coding_does_not_leak_across_the_batch(s: Subject) -> str | None:
    decoded = s.decode(s.latents)
    for i, clip in enumerate(s.clips):
        alone = s.encode([clip])
        cut = tree_map(lambda leaf, one, i=i: leaf[i : i + 1, : one.shape[1]], s.latents.x, alone.x)
        off = distance(cut, alone.x)
        if off > s.tolerances.batch:
            return f"clip {i} encoded alone and among {len(s.clips)} differs by {off:.2g} of its size"
        mine = Latents(alone.x, alone.mask)
        if not _alike(s.decode(mine), decoded[i : i + 1], s.tolerances.batch):
            return f"clip {i} decoded alone and among {len(s.clips)} differs"
    return None


def _alike(a: Sequence[Clip], b: Sequence[Clip], tolerance: float = 1e-3) -> bool:
    return all(
        shapes(x.data) == shapes(y.data) and distance(x.data, y.data) < tolerance for x, y in zip(a, b, strict=True)
    )


@check("all that an encoder measured is in its state_dict: a new one that loads it is the same encoder", see="encoder")
def encoder_survives_saving(s: Subject) -> str | None:
    fresh = s.new_encoder()
    fresh.load_state_dict(_through_safetensors(s.encoder.state_dict()))
    if fresh.identity != s.encoder.identity:
        return "its identity changes when its state_dict is saved and loaded"
    with torch.no_grad():
        off = distance(fresh.encode(s.clips).x, s.latents.x)
        if off > 1e-5:
            return f"its latents change by {off:.2g} of their size when its state_dict is saved and loaded"
        if not _alike(fresh.decode(s.latents), s.decode(s.latents)):
            return "it decodes the same latents differently once its state_dict is saved and loaded"
    return None


@check(
    "the axis 'time' of spec has as many steps a second as there are: its size over its rate is the length of a clip",
    see="encoder",
    needs=(spec_matches_the_latents,),
)
def spec_rate_is_the_clips(s: Subject) -> str | None:
    if not isinstance(s.modality, TimedModality):
        raise NotApplicable("the modality does not say how long a clip is")
    seen = 0
    for i, clip in enumerate(s.clips):
        seconds, latents = s.modality.seconds(clip), s.encode([clip])
        for what, spec, leaf in streams(s.spec, latents.x):
            if not spec.axes or spec.axes[0].name != "time":
                continue
            seen += 1
            told = leaf.shape[1] / spec.axes[0].rate
            step = 1 / spec.axes[0].rate
            if abs(told - seconds) > 0.25 * seconds + step:
                return (
                    f"clip {i} is {seconds:.3g} s long; of {what} it has {leaf.shape[1]} steps at a rate of "
                    f"{spec.axes[0].rate:g}, that is {told:.3g} s"
                )
    if not seen:
        raise NotApplicable("no stream has the axis 'time'")
    return None


@check(
    "latent_shape(seconds) is the shape that encode gives a clip of that length",
    see="encoder",
    needs=(spec_matches_the_latents,),
)
def latent_shape_is_what_encode_gives(s: Subject) -> str | None:
    if not isinstance(s.encoder, KnownLengths) or not isinstance(s.modality, TimedModality):
        raise NotApplicable("the encoder does not tell the shape of other lengths, or the modality has none")
    whole = s.modality.seconds(s.clips[0])
    half = s.modality.cut(s.clips[0], 0.0, whole / 2)
    twice = s.modality.join([s.clips[0], s.clips[0]])
    for clip in (s.clips[0], half, twice):
        seconds = s.modality.seconds(clip)
        told = s.encoder.latent_shape(seconds)
        made = tree_map(lambda leaf: tuple(leaf.shape[1:]), s.encode([clip]).x)
        if tree_map(tuple, told) != made:
            return f"for {seconds:.4g} s it tells {told}, and encode gives {made}"
    return None


@check(
    "identity changes with the weights, so that a network is never used with an encoder it was not trained with",
    see="encoder",
)
def identity_follows_the_weights(s: Subject) -> str | None:
    changed: Encoder = s.new_encoder()
    changed.load_state_dict(s.encoder.state_dict())
    tensors = [t for t in changed.state_dict().values() if t.is_floating_point() and t.numel()]
    if not tensors:
        raise NotApplicable("the encoder has no weights and no statistics")
    with torch.no_grad():
        tensors[0].add_(1.0)
    return None if changed.identity != s.encoder.identity else "its identity stays when a weight changes"


@check("in a batch of clips of different lengths, the latents past a clip's end are zero", see="padding")
def padding_is_zero(s: Subject) -> str | None:
    clips = [*s.clips, *_of_other_lengths(s)]
    x, mask = s.encode(clips)
    if mask is None:
        raise NotApplicable("the clips are of one length")
    for leaf, real in zip(leaves(x), leaves(mask), strict=True):
        padded = leaf * ~real.reshape(real.shape + (1,) * (leaf.ndim - real.ndim))
        if padded.abs().max() > 1e-6:
            return f"latents where the mask says padding reach {float(padded.abs().max()):.2g}"
    decoded = s.decode(Latents(x, mask))
    for i, clip in enumerate(clips):
        if not _alike(s.decode(s.encode([clip])), decoded[i : i + 1], s.tolerances.batch):
            return f"clip {i} decoded from a padded batch is not what it is alone"
    return None


def _of_other_lengths(s: Subject) -> list[Clip]:
    """Clips of another length among many, where the data set has some."""
    sizes = {str(shapes(c.data)) for c in s.clips}
    return [c for c in s.many if str(shapes(c.data)) not in sizes][:2]


def _through_safetensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    from safetensors.torch import load, save

    return load(save({k: v.contiguous() for k, v in tensors.items()})) if tensors else {}


__all__ = ["rows", "streams"]
