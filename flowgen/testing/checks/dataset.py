"""A data set gives clips by index, and nothing but index and seed decides which."""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from typing import Any

import numpy as np
import torch

from flowgen.core.random import seed_of
from flowgen.core.tree import leaves
from flowgen.data.order import fill_buckets, has_buckets
from flowgen.media.clip import Clip
from flowgen.media.conditions import NumberCondition, encode_conditions
from flowgen.media.interfaces import Keyed, Labelled, TimedModality
from flowgen.testing.contract import NotApplicable, checks_for
from flowgen.testing.subject import Subject, shapes

_COMPARED, _KEYS = 512, 50_000
"""Clips whose content is compared, and items whose keys are."""
_PATIENCE_S = 3.0
_CHANCE = 0.02
"""The share of held-out clips that may be those of the training part by chance: a game makes the same sound twice."""

check = checks_for("dataset")


def equal(a: Clip, b: Clip) -> bool:
    """The same clip, bit for bit."""
    return (
        shapes(a.data) == shapes(b.data)
        and all(torch.equal(x, y) for x, y in zip(leaves(a.data), leaves(b.data), strict=True))
        and dict(a.conditions) == dict(b.conditions)
    )


def _shake(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@check(
    "clip(index, seed) is a function of its arguments alone: of no state, no order and no global generator",
    see="data-set",
    basic=True,
)
def clip_is_a_function_of_index_and_seed(s: Subject) -> str | None:
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    places = [(i, seed_of(i, "place")) for i in range(min(len(s.dataset), 4))]
    try:
        _shake(1)
        first = [s.dataset.clip(*place) for place in places]
        _shake(2)
        again = [s.dataset.clip(*place) for place in reversed(places)][::-1]
        other = [Subject(s.written).dataset.clip(*place) for place in places]
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
    for i, (a, b, c) in enumerate(zip(first, again, other, strict=True)):
        if not equal(a, b):
            return f"clip({i}, seed) asked for twice, in another order and with another global seed, gives two clips"
        if not equal(a, c):
            return f"clip({i}, seed) of two data sets of the same options differs"
    return None


@check(
    "every clip carries the conditions that the data set declares, and their values are valid",
    see="data-set",
    basic=True,
)
def conditions_are_what_is_declared(s: Subject) -> str | None:
    declared = s.dataset.conditions
    for clip in s.many:
        for name in declared:
            if clip.conditions.get(name) is None:
                return f"{clip.source or 'a clip'} has no {name!r}; the data set declares {', '.join(declared)}"
        extra = clip.conditions.keys() - declared.keys()
        if extra:
            return f"{clip.source or 'a clip'} carries {sorted(extra)[0]!r}, which the data set does not declare"
        encode_conditions(s.conditioners, [{k: clip.conditions[k] for k in s.conditioners}])
    if not declared:
        raise NotApplicable("the data set declares no conditions")
    return None


@check(
    "validation() is a held-out part of the same kind: not empty, and none of its clips is trained on", see="data-set"
)
def validation_is_held_out(s: Subject) -> str | None:
    held_out = s.dataset.validation()
    if not len(held_out):
        return "validation() is empty"
    if dict(held_out.conditions) != dict(s.dataset.conditions):
        return "validation() declares other conditions than the training part"
    deadline = time.monotonic() + _PATIENCE_S
    theirs: dict[bytes, int] = {}
    for i in range(min(len(s.dataset), _COMPARED)):
        theirs.setdefault(_hash(s.dataset.clip(i, 0)), i)  # of one seed: a crop is the same crop
        if time.monotonic() > deadline:
            break
    looked, found = 0, list[str]()
    for i in range(min(len(held_out), _COMPARED)):
        looked += 1
        j = theirs.get(_hash(held_out.clip(i, 0)))
        if j is not None:
            found.append(f"clip {i} of the held-out part is clip {j} of the training part")
        if time.monotonic() > deadline + _PATIENCE_S:
            break
    return found[0] if len(found) > _CHANCE * looked else None


def _hash(clip: Clip) -> bytes:
    """Of the data of a clip."""
    total = hashlib.blake2b(digest_size=16)
    for leaf in leaves(clip.data):
        total.update(str(tuple(leaf.shape)).encode() + leaf.contiguous().numpy().tobytes())
    return total.digest()


@check(
    "key(index) is the identity of an item: no two items of a part have one key, none of the held-out part has that of a "
    "training item, and a data set made again has the same",
    see="data-set",
)
def keys_tell_items_apart(s: Subject) -> str | None:
    training, held_out = s.dataset, s.dataset.validation()
    if not isinstance(training, Keyed) or not isinstance(held_out, Keyed):
        raise NotApplicable(
            "its items have no key(index); with one, leaks and duplicates are found whatever is cropped"
        )
    parts = {"the training part": training, "the held-out part": held_out}
    owners: dict[str, str] = {}
    for part, dataset in parts.items():
        for i in range(min(len(dataset), _KEYS)):
            key = dataset.key(i)
            if key in owners:
                return f"item {i} of {part} has the key {key!r}, as has {owners[key]}"
            owners[key] = f"item {i} of {part}"
    again = Subject(s.written).dataset
    places = range(min(len(training), 64))
    if isinstance(again, Keyed) and any(again.key(i) != training.key(i) for i in places):
        return "two data sets of the same options give one item two keys"
    return None


@check(
    "what is said of a clip is true of what was cropped and augmented: labels(index) and lengths are those of the clip",
    see="data-set",
    needs=(conditions_are_what_is_declared,),
)
def labels_are_those_of_the_clip(s: Subject) -> str | None:
    looked = False
    if isinstance(s.dataset, Labelled):
        looked = True
        for i in range(min(len(s.dataset), 16)):
            told, clip = s.dataset.labels(i), s.dataset.clip(i, seed_of(i, "labels"))
            for name, value in told.items():
                if clip.conditions.get(name) != value:
                    return f"labels({i}) says {name}={value!r}, and the clip {clip.conditions.get(name)!r}"
    lengths = [n for n, c in s.conditioners.items() if isinstance(c, NumberCondition) and c.seconds]
    if lengths and isinstance(s.modality, TimedModality):
        looked = True
        for clip in s.many:
            for name in lengths:
                said, seconds = float(clip.conditions.get(name, math.nan)), s.modality.seconds(clip)
                if abs(said - seconds) > 0.02 + 0.02 * seconds:
                    return f"{clip.source or 'a clip'} is {seconds:.3g} s long, and its {name} says {said:.3g}"
    if not looked:
        raise NotApplicable("it has no labels(index), and no condition that tells the length")
    return None


@check(
    "buckets, where there are any, have a positive cost; each clip is in one of them, and those in one are encoded together",
    see="data-set",
)
def buckets_hold_every_clip(s: Subject) -> str | None:
    data = s.new_dataset()
    if not has_buckets(data):
        raise NotApplicable("the data set has no buckets")
    room = math.ceil(max(data.buckets.values()))
    for bucket in fill_buckets(data, max(room, 1), 1):
        s.encode([data.clip(index, seed_of(0, "bucket", index)) for index in bucket.clips[:3]])
    return None


@check("describe() gives plain values by name, for a person to read", see="data-set")
def description_is_plain(s: Subject) -> str | None:
    facts = s.dataset.describe()
    if not facts:
        return "describe() is empty"
    json.dumps(facts)
    return None


@check("nothing draws from a global generator or reseeds it", see="random-numbers")
def global_generators_are_left_alone(s: Subject) -> str | None:
    def state() -> tuple[object, ...]:
        numpy: Any = np.random.get_state()
        return random.getstate(), numpy[0], numpy[1].tobytes(), numpy[2:], torch.get_rng_state().numpy().tobytes()

    steps = {
        "building the data set": lambda: Subject(s.written).dataset,
        "clip": lambda: [s.dataset.clip(i % len(s.dataset), i) for i in range(4)],
        "building the encoder": s.new_encoder,
        "fit": lambda: s.new_encoder().fit(s.many),
        "encode": lambda: s.encode(s.clips),
        "decode": lambda: s.decode(s.latents),
        "building the network": s.new_network,
    }
    for name, step in steps.items():
        before = state()
        step()
        if state() != before:
            return f"{name} changed the state of a global generator (random, numpy.random or torch)"
    return None
