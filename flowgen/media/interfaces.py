"""What a plugin brings: the protocols of the modality-bound components, in one place.

The mathematical ones stand beside their implementations: `flowgen.core.interfaces.Path`, `flowgen.core.interfaces.Times`,
`flowgen.core.interfaces.Coupling`, `flowgen.core.interfaces.Loss`, `flowgen.core.interfaces.Solver`, `flowgen.core.interfaces.Guidance`,
`flowgen.media.conditions.Conditioner`; encoders derive from `flowgen.media.encoder.Encoder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from flowgen.core.tree import State
from flowgen.media.clip import Clip


class Modality(Protocol):
    """A medium and its physical format (sample rate, frame rate, size): the `modality` section of a config.

    Data sets and encoders are built with the modality as their first argument, so that the format has one owner.
    """

    formats: Mapping[str, str]
    """Media type by file extension that `write` makes, as in {".wav": "audio/wav"}; the first is the default."""
    clips_per_file: int | None
    """1 where a file holds one clip; None where one file shows all clips together (a scatter plot)."""

    def read(self, path: Path) -> Clip:
        """A clip in this format, converted from whatever the file holds. FlowgenError: the file cannot be read."""

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write a playable file with `metadata` (JSON values) embedded in it."""

    def sheet(self, clips: Sequence[Clip], path: Path, captions: Sequence[str] = ()) -> None:
        """One PNG that shows all clips at a glance: spectrograms, frames, a scatter plot."""

    # A medium that has a length also offers these, and its generators then continue, animate and inpaint files:
    #   seconds(clip) -> float                    how long a clip is
    #   cut(clip, start_s, end_s) -> Clip         the part between two times
    #   join(clips) -> Clip                       clips one after the other
    #   compare_continuations(made, truth, given_s) -> dict[str, float]    for `flowgen eval --continue`: figures on how what
    #                                             follows the first given_s seconds agrees with the truth
    # One whose samples are points of a plane offers animate(frames, path, metadata), the way from noise to data, and
    # field(velocity, path), arrows of velocity(clips, t).


class Dataset(Protocol):
    """Clips by index. Built as `Dataset(modality, **options)`, the options being its section of the config."""

    conditions: Mapping[str, Mapping[str, Any]]
    """What its clips carry, as config of the fitting conditioner: {"pitch": {"type": "class", "names": [...]}}."""

    def __len__(self) -> int: ...

    def clip(self, index: int, seed: int) -> Clip:
        """Clip `index`; `seed` feeds whatever is random about it (synthesis, crop), so that it is a pure function of both.

        Its `start` says what its flow starts from, for the coupling `given-pairs`.
        """

    def validation(self) -> Dataset:
        """The held-out part, of the same kind."""

    def describe(self) -> dict[str, Any]:
        """What a person would like to know: how many, how long, which classes. Plain values by name."""

    # These are optional:
    #   clips(indices, seeds) -> list[Clip]   many at once, worth having where clips are very small
    #   buckets: Mapping[str, float]          clips that differ in length or size are batched with those of their bucket only;
    #                                         by name, what a clip of it costs relative to one of the modality's full size
    #   bucket_of(index) -> str
    #   full_size() -> Dataset                where the clips of a bucket have its size: those that fill the modality's own
    #   report() -> list[dict]                for `flowgen data check`: a row for each file or segment that was looked at, kept
    #                                         or not (columns below), whatever part of the data it is in
    #   max_bad_share: float                  the share of its rows that may be left out
    # Columns of a report: file, part ("training", "validation"), status ("kept", "trimmed", "filled", "left out") and why;
    # where known seconds, frames, rate, channels, size, peak, bucket, clips and hash (of the content); and others.


class Network(Protocol):
    """A velocity network: an `nn.Module` built as `Network(spec, conditions, **options)`.

    One that can be shown more (the second time of a flow map) takes `inputs: Sequence[NetworkInput]` as well, and finds
    them by name in `cond`. The layers that they reach it through start at zero, in modules named by `neutral_at_start`, so
    that it can start from weights without them.
    """

    def __call__(self, x: State, t: Tensor, cond: Mapping[str, Any]) -> State:
        """A prediction of the structure of x [B, *axes, C] at times t [B] or [B, ...] (left-aligned with x)."""


@runtime_checkable
class Extensible(Protocol):
    """A network that can start from weights that lack some of its modules."""

    neutral_at_start: ClassVar[tuple[str, ...]]
    """Names of modules that change nothing as they are made, such as embeddings whose last layer is zero."""


class Metric(Protocol):
    """A measure of generated clips. Built as `Metric(modality, dataset, encoder, **options)`, of which it takes what it needs."""

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        """Figures by name for `clips` (whose `conditions` say what was asked), against real clips where it needs them."""
