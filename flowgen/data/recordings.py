"""Recordings of any medium as a data set: surveyed once, split, labelled, reported, and read clip by clip.

A modality brings `examine` (what is in this file), `judge` (what becomes of it) and `decode` (these seconds of it).

Options are read from signatures, so this module does without postponed annotations.
"""

import copy
import hashlib
import sys
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar

import torch

from flowgen.core.random import generator, seed_of
from flowgen.core.ranges import Share
from flowgen.data.facts import cached
from flowgen.data.items import Found, HeldOut, Item, Kind, check_held_out, lacking, named, number, split, typed
from flowgen.data.remote import absolute
from flowgen.data.shards import Source, located
from flowgen.errors import BadData, FlowgenError, UsageError, unknown
from flowgen.media.clip import Clip

_INSTEAD = 32
"""Other clips that are tried in place of one that cannot be decoded."""
Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Use:
    """What becomes of an item: kept, cropped, padded or left out, and why."""

    status: str
    why: str = ""
    clips: int = 1
    bucket: str = ""

    @property
    def left_out(self) -> bool:
        return self.status == "left out"


@dataclass(eq=False, repr=False)
class Recordings(ABC):
    """The part of a data set of files that is the same for every medium and every source."""

    modality: Any
    columns: dict[str, Kind] | None = field(default=None, kw_only=True)
    held_out: HeldOut = field(default=0.1, kw_only=True)
    max_bad_share: Share = field(default=0.05, kw_only=True)
    buckets: Any = field(default=None, init=False)
    """By name, what a clip costs relative to one of the modality's full size; none in a part of full size."""
    locations: ClassVar[tuple[str, ...]] = ()
    """The options that say where the data lie."""
    version: str = field(default="", init=False)
    """Names the cache of what `examine` finds, and all that it depends on."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_share <= 1:
            raise UsageError(f"data.max_bad_share: expected a share from 0 to 1, got {self.max_bad_share:g}")
        self.found = self.find()
        self.origin = self.found.origin
        self.kinds: dict[str, Kind] = dict(self.found.usual if self.columns is None else self.columns)
        for name in self.kinds:
            if name not in self.found.columns:
                raise UsageError(f"data.columns: {unknown(f'column of {self.origin}', name, self.found.columns)}")
        check_held_out(self.found.items, self.held_out, self.found.columns, self.origin)
        typed(self.found.items, self.kinds, self.origin)
        self.part = "training"
        self.bucketed = True
        self.failed: dict[str, str] = {}
        self._uses: dict[bool, dict[str, Use]] = {True: {}, False: {}}
        self._shared_uses: dict[Use, Use] = {}

    @abstractmethod
    def find(self) -> Found:
        """The items (see `flowgen.data.sources`)."""

    @abstractmethod
    def examine(self, path: Source) -> dict[str, Any]:
        """What is in a file as JSON values, or {"problem": why it cannot be used}."""

    @abstractmethod
    def judge(self, item: Item, facts: Facts, bucketed: bool) -> Use:
        """What becomes of an item; `bucketed`: where training clips may be of several sizes."""

    def measured(self, item: Item, facts: Facts) -> dict[str, Any]:
        """What a report says of an item, used or not."""
        return {}

    @abstractmethod
    def decode(self, item: Item, window: int, rng: torch.Generator | None) -> Clip:
        """A clip of an item, cropped by `rng`, or in a fixed place. FlowgenError: it cannot be decoded."""

    @abstractmethod
    def decode_whole(self, path: Source) -> None:
        """Decode a file from its beginning to its end. FlowgenError: it cannot be."""

    def prepare(self) -> None:
        """What rests on the training items; called once, after the survey."""
        return None

    @cached_property
    def facts(self) -> dict[Source, Facts]:
        """Of every file; of one that has not changed since from the cache in the user's cache folder."""
        paths = (item.path for item in self.found.items if not item.problem)
        return cached(self.version, paths, self.examine, what="look at files")

    @cached_property
    def parts(self) -> dict[str, list[Item]]:
        """The items of training and validation as they were found, before any file is looked into."""
        return dict(zip(("training", "validation"), split(self.found.items, self.held_out, self.origin), strict=True))

    @cached_property
    def survey(self) -> tuple[list[Item], list[Item]]:
        """The usable items of training and validation. BadData: more cannot be used than may."""
        items = self.found.items
        uses = [self._use(item, True) for item in items]
        self.left_out = [(item, use) for item, use in zip(items, uses, strict=True) if use.left_out]
        good = [item for item, use in zip(items, uses, strict=True) if not use.left_out]
        self.usable: tuple[list[Item], list[Item]] = good, []
        if not good or len(self.left_out) > self.max_bad_share * len(items):
            kinds = Counter(use.why.split(":")[0] for _, use in self.left_out)
            total = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
            first = "; ".join(f"{item.key} ({use.why})" for item, use in self.left_out[:20])
            raise BadData(
                f"{self.origin}: {len(self.left_out)} of {len(items)} recordings cannot be used, more than "
                f"data.max_bad_share={self.max_bad_share:g} allows: {total}: {first}",
                [self._row(item, use, "") for item, use in self.left_out]
                + [self._row(i, self._use(i, True)) for i in good],
            )
        self.usable = split(good, self.held_out, self.origin)
        self.prepare()
        return self.usable

    @cached_property
    def items(self) -> list[Item]:
        """Of this part, those that make clips."""
        found = self.survey[self.part == "validation"]
        return [item for item in found if not self._use(item, self.bucketed).left_out]

    @cached_property
    def _starts(self) -> "_Starts":
        """The item and the window of each clip."""
        return _Starts(self._use(item, self.bucketed).clips for item in self.items)

    @cached_property
    def conditions(self) -> dict[str, dict[str, Any]]:
        return {name: self.condition(name, kind) for name, kind in self.kinds.items()}

    def condition(self, name: str, kind: Kind) -> dict[str, Any]:
        """What a column offers to the network. UsageError: a number that is the same everywhere."""
        items = self.found.items
        present = [item.values[name] for item in items if item.values.get(name) is not None]
        if kind == "class":
            return {"type": "class", "names": tuple(sorted({str(value) for value in present}))}
        if kind == "text":
            return {"type": "text", "max_bytes": max(len(str(value).encode()) for value in present)}
        numbers = [number(value, name, items[0], self.origin) for value in present]
        if min(numbers) == max(numbers):
            raise UsageError(f"{self.origin}: the number {name!r} is {numbers[0]:g} everywhere; leave it out")
        return {"type": "number", "low": min(numbers), "high": max(numbers)}

    def values(self, item: Item) -> dict[str, Any]:
        """The conditions of the clips of an item."""
        return {
            name: number(item.values[name], name, item, self.origin)
            if kind == "number" and isinstance(item.values.get(name), str)
            else item.values.get(name)
            for name, kind in self.kinds.items()
        }

    def __len__(self) -> int:
        _ = self.survey
        return len(self._starts)

    def clip(self, index: int, seed: int) -> Clip:
        """Clip `index`. One that cannot be decoded is named and counted, and another takes its place: a function of `seed`."""
        clip = self.attempt(index, seed)
        self.count_failed(dict(clip.instead_of))
        return clip

    def attempt(self, index: int, seed: int) -> Clip:
        """As `clip`, without counting: what it replaces depends on nothing that was met before. FlowgenError: all fail."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        chosen = index
        failed: list[tuple[str, str]] = []
        for attempt in range(_INSTEAD):
            which, window = self._starts[chosen]
            try:
                return replace(self.clip_of(self.items[which], window, chosen, seed), instead_of=tuple(failed))
            except FlowgenError as error:
                failed.append((self.items[which].key, str(error)))
            chosen = self._instead(index, seed, attempt)
        key, why = failed[-1]
        raise BadData(
            f"{self.origin}: {_INSTEAD} clips in a row cannot be decoded, the last of them {key} ({why}); look with: flowgen "
            f"data check --deep"
        )

    def clip_of(self, item: Item, window: int, index: int, seed: int) -> Clip:
        """Clip `index`, which is this window of this item."""
        rng = generator("crop", seed_of(seed)) if self.part == "training" else None
        return self.decode(item, window, rng)

    def _instead(self, index: int, seed: int, attempt: int) -> int:
        """A clip of the same bucket."""
        alike = self._by_bucket[self.bucket_of(index)] if self.buckets else range(len(self._starts))
        return alike[int(torch.randint(len(alike), (), generator=generator(seed, "instead", attempt)))]

    @cached_property
    def _by_bucket(self) -> dict[str, list[int]]:
        """The clips of each bucket."""
        found: dict[str, list[int]] = {}
        for index in range(len(self._starts)):
            found.setdefault(self.bucket_of(index), []).append(index)
        return found

    def count_failed(self, failed: Mapping[str, str], say: bool = True) -> None:
        """Count items that the survey passed. BadData: too many are left out by now."""
        new = {key: why for key, why in failed.items() if key not in self.failed}
        for key, why in new.items():
            self.failed[key] = why
            if say:
                print(f"left out: {key} ({why}); another clip takes its place", file=sys.stderr, flush=True)
        bad = len(self.left_out) + len(self.failed)
        if new and bad > self.max_bad_share * len(self.found.items):
            key, why = next(reversed(new.items()))
            raise BadData(
                f"{self.origin}: {bad} of {len(self.found.items)} recordings cannot be used, more than data.max_bad_share="
                f"{self.max_bad_share:g} allows, the last of them {key} ({why}); look with: flowgen data check --deep",
                self.report(),
            )

    def validation(self) -> "Recordings":
        """The held-out part. UsageError: nothing is held out."""
        if not self.survey[1]:
            one = len(self.survey[0]) == 1
            raise UsageError(
                f"{self.origin}: nothing is held out"
                + (", for there is one recording; add others, or set" if one else "; set data.held_out, or")
                + " train.validation.every=0 and train.preview.every=0"
            )
        return self.of_part("validation")

    def of_part(self, part: str) -> "Recordings":
        """A part with clips of the modality's own size."""
        _ = self.survey
        other = copy.copy(self)
        other.part, other.bucketed, other.buckets = part, False, {}
        for name in ("items", "_starts", "_by_bucket"):
            other.__dict__.pop(name, None)
        return other

    def bucket_of(self, index: int) -> str:
        return self._use(self.items[self._starts[index][0]], self.bucketed).bucket

    def _use(self, item: Item, bucketed: bool) -> Use:
        if item.problem:
            return Use("left out", item.problem, 0)
        found = self._uses[bucketed].get(item.key)
        if found is None:
            facts = self.facts[item.path]
            bad = facts.get("problem")
            use = Use("left out", bad, 0) if bad else self.judge(item, facts, bucketed)
            # most of a million items are used alike, and share one
            found = self._uses[bucketed][item.key] = self._shared_uses.setdefault(use, use)
        return found

    def forget_uses(self) -> None:
        """Judge every item again, with what `prepare` found."""
        for found in self._uses.values():
            found.clear()

    def _row(self, item: Item, use: Use, part: str = "training") -> dict[str, Any]:
        columns = {} if item.problem else self.measured(item, self.facts[item.path])
        row = {"file": item.key, **located(item.path), **columns}
        row |= {"part": part, "status": use.status, "why": use.why, "clips": use.clips}
        return row | ({"bucket": use.bucket} if use.bucket else {})

    def report(self) -> list[dict[str, Any]]:
        """What becomes of each item of this part; the training part lists what is left out, too."""
        found = self.survey[self.part == "validation"]
        rows = [self._row(item, self._use(item, self.bucketed), self.part) for item in found]
        for row in rows:
            if row["file"] in self.failed:
                row.update(status="left out", why=self.failed[row["file"]], clips=0)
        if self.part == "training" and self.bucketed:
            rows += [self._row(item, use, "") for item, use in self.left_out]
        return rows

    def describe(self) -> dict[str, Any]:
        training, held_out = self.survey
        out: dict[str, Any] = {
            "clips": len(self),
            "recordings": f"{len(self.items)} of {len(self.found.items)} in {self.origin}",
            **self.sizes(),
        }
        statuses = Counter(self._use(item, self.bucketed).status for item in self.items)
        out |= {status: count for status, count in sorted(statuses.items())}
        for name, kind in self.kinds.items():
            if kind == "class":
                out[f"clips by {name}"] = _counts(item.values.get(name) for item in self.items)
        out |= {f"without {name}": text for name, text in lacking(training + held_out, self.kinds).items()}
        if self.buckets:
            counts = Counter(self.bucket_of(i) for i in range(len(self)))
            out["buckets"] = ", ".join(f"{name} ({counts[name]})" for name in self.buckets)
        out["held out"] = len(held_out)
        out["left out"] = "none"
        if self.left_out:
            out["left out"] = named([f"{item.key} ({use.why})" for item, use in self.left_out], 20)
        if self.found.notes:
            out["not read"] = "; ".join(self.found.notes)
        return out

    def sizes(self) -> dict[str, Any]:
        """What a person would like to know of lengths and formats."""
        return {}

    def full_size(self) -> "Recordings":
        """The training clips that fill the modality's own size, in that size."""
        return self.of_part("training") if self.buckets else self

    def key(self, index: int) -> str:
        """What clip `index` is: the item, and which of its windows."""
        which, window = self._starts[index]
        return f"{self.items[which].key}#{window}" if window else self.items[which].key

    def labels(self, index: int) -> dict[str, Any]:
        """The conditions of clip `index`, without decoding it."""
        return self.values(self.items[self._starts[index][0]])

    def damaged(self) -> dict[str, str]:
        """Decode the whole of every usable item: what is wrong with which. Their rows say so from now on."""
        good = [item for part in self.survey for item in part]

        def look(path: Source) -> str:
            try:
                self.decode_whole(path)
            except FlowgenError as error:
                return f"damaged: {error}"
            return ""

        found = cached(f"whole-{self.version}", (item.path for item in good), look, what="decode whole files")
        self.failed |= {item.key: found[item.path] for item in good if found[item.path]}
        return dict(self.failed)

    @property
    def identity(self) -> str:
        """A hash of what the clips are made of: files, values, options."""
        prints = self.fingerprints()
        content = [(item.key, prints[item.key]) for item in self.items]
        options = {name: repr(value) for name, value in vars(self).items() if name in type(self).__dataclass_fields__}
        for name in self.locations:
            del options[name]
        return hashlib.sha256(repr((content, sorted(options.items()))).encode()).hexdigest()[:16]

    def fingerprints(self) -> dict[str, str]:
        """What training rests on, by item: its values and what its file holds, as a hash. Where it lies plays no part."""
        out: dict[str, str] = {}
        for item in [*self.survey[0], *self.survey[1]]:
            content = (self.facts[item.path], self.values(item), item.start_s, item.duration_s, out.get(item.key))
            out[item.key] = hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()
        return out

    @property
    def places(self) -> dict[str, str]:
        """The options that say where the data lie, as absolute paths."""
        given = {name: getattr(self, name) for name in self.locations}
        return {name: absolute(value) for name, value in given.items() if value}


class _Starts:
    """The item and the window of each clip, of items that make so many clips each; 8 bytes an item."""

    def __init__(self, counts: Iterable[int]) -> None:
        self._ends = array("q", accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> tuple[int, int]:
        item = bisect_right(self._ends, index)
        return item, index - (self._ends[item - 1] if item else 0)


def _counts(values: Any) -> str:
    counted = Counter("(none)" if value is None else str(value) for value in values).most_common()
    shown = ", ".join(f"{name} ({count})" for name, count in sorted(counted[:30]))
    return shown + (f" and {len(counted) - 30} more" if len(counted) > 30 else "")
