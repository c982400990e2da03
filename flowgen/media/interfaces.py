"""What a plugin brings: the protocols of the modality-bound components, in one place.

The mathematical ones stand beside their implementations: `flowgen.core.interfaces.Path`, `flowgen.core.interfaces.Times`,
`flowgen.core.interfaces.Coupling`, `flowgen.core.interfaces.Loss`, `flowgen.core.interfaces.Solver`, `flowgen.core.interfaces.Guidance`,
`flowgen.media.conditions.Conditioner`; encoders derive from `flowgen.media.encoder.Encoder`.

Below the contracts stand the optional abilities. A component offers one by having its members: as methods, properties, or
attributes that its class declares (`buckets: dict[str, float]`). flowgen asks by `isinstance`, `flowgen plugins show` lists
them as offered or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from flowgen.core.tree import State
from flowgen.media.clip import Clip

if TYPE_CHECKING:
    from flowgen.nn.parallel import SequenceGroup


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


class Network(Protocol):
    """A velocity network: an `nn.Module` built as `Network(spec, conditions, **options)`.

    One that can be shown more (the second time of a flow map) takes `inputs: Sequence[NetworkInput]` as well, and finds
    them by name in `cond`. The layers that they reach it through start at zero, in modules named by `neutral_at_start`, so
    that it can start from weights without them.
    """

    def __call__(self, x: State, t: Tensor, cond: Mapping[str, Any]) -> State:
        """A prediction of the structure of x [B, *axes, C] at times t [B] or [B, ...] (left-aligned with x)."""


class Metric(Protocol):
    """A measure of generated clips. Built as `Metric(modality, dataset, encoder, **options)`, of which it takes what it needs."""

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        """Figures by name for `clips` (whose `conditions` say what was asked), against real clips where it needs them."""


Better: TypeAlias = Literal["higher", "lower", "real"]
"""Which way a figure is better: the more, the less, or the nearer to that of real clips."""


# Abilities of a modality


@runtime_checkable
class TimedModality(Protocol):
    """Clips have a length: its generators continue, interpolate and inpaint files in time."""

    def seconds(self, clip: Clip) -> float:
        """How long a clip is."""

    def cut(self, clip: Clip, start_s: float, end_s: float) -> Clip:
        """The part between two times; parts that meet share no step and lose none."""

    def join(self, clips: Sequence[Clip]) -> Clip:
        """Clips one after the other: what `cut` took apart."""


@runtime_checkable
class WritesGrowing(Protocol):
    """Files that grow while their clip is made and play from the beginning: `flowgen serve` sends long clips so."""

    growing: Mapping[str, str]
    """Media type by extension; the first is the default."""

    def write_growing(self, parts: Iterator[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the parts of a clip as they come; each is in the file before the next is asked for."""


@runtime_checkable
class ComparesContinuations(Protocol):
    """`flowgen eval --continue` has measures of the medium's own."""

    def compare_continuations(self, made: Sequence[Clip], truth: Sequence[Clip], given_s: float) -> dict[str, float]:
        """Figures on how what follows the first given_s seconds agrees with the truth."""


@runtime_checkable
class ComparesReconstructions(Protocol):
    """`flowgen eval` of an autoencoder has distances of the medium's own."""

    def compare_reconstructions(self, made: Sequence[Clip], truth: Sequence[Clip]) -> dict[str, float]:
        """Figures on how near clips that were given back are to what they were."""


@runtime_checkable
class Animated(Protocol):
    """`flowgen sample --animate` shows the way from noise to data."""

    def animate(self, frames: Sequence[tuple[float, Sequence[Clip]]], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write an animation (.mp4 or .gif) of the clips at each time."""


@runtime_checkable
class DrawsField(Protocol):
    """`flowgen sample --field` draws the velocity field as arrows, for samples that are points of a plane."""

    def field(self, velocity: Callable[[Sequence[Clip], float], Tensor], path: Path) -> None:
        """Write a picture of velocity(clips, t)."""


@runtime_checkable
class Levelled(Protocol):
    """Clips have a loudness: `flowgen sample --normalise`, and a warning where a sample is clipped."""

    def normalise(self, clip: Clip) -> Clip:
        """The clip scaled to a peak of -1 dB of full scale; silence stays silence."""

    def at_full_scale(self, clip: Clip) -> float:
        """The share of its samples that are at full scale."""


@runtime_checkable
class HasLevel(Protocol):
    """Clips have a level: `flowgen sample` warns where samples are louder or quieter than the clips trained on."""

    def level(self, clip: Clip) -> float:
        """Root mean square in dB of full scale; minus infinity for silence."""


@runtime_checkable
class ReadsMany(Protocol):
    """`flowgen likelihood` takes files of many clips, such as points."""

    def read_all(self, path: Path) -> list[Clip]:
        """Every clip of a file. FlowgenError: it cannot be read."""


@runtime_checkable
class WritesSequences(Protocol):
    """`flowgen sample -o clip.png` writes the folder `clip` of numbered pictures, for each clip one."""

    sequences: Mapping[str, str]
    """Media type by file extension of what a folder is made of."""

    def write_sequence(self, clip: Clip, folder: Path, suffix: str, metadata: Mapping[str, Any]) -> None:
        """Write the folder whole, with `metadata` in it; one of earlier pictures is replaced. FlowgenError: it cannot be."""


@runtime_checkable
class SplitsRecordings(Protocol):
    """`flowgen data split` cuts long recordings into segments."""

    def segments(self, path: Any, **options: float) -> list[list[float]]:
        """[from, to] in seconds of each scene, or of what lies between silences. The options are keyword arguments."""


@runtime_checkable
class MeasuresRecordings(Protocol):
    """`flowgen data filter` writes a table with what is measured of each recording."""

    def measure(self, path: Any, start_s: float, duration_s: float | None) -> tuple[dict[str, float], list[float]]:
        """A number for each column, and an outline: a vector that correlates by more than 0.99 with that of a copy."""


@runtime_checkable
class ShowsRecordings(Protocol):
    """`flowgen data caption` shows recordings to a captioner."""

    shows_pictures: ClassVar[bool]
    """Whether what is shown are pictures, not sound."""

    def shown(self, path: Any, start_s: float, duration_s: float | None, count: int) -> Any:
        """`count` pictures, or {"raw": mono samples, "sampling_rate": of them} of a sound: what `flowgen.media.captioner` takes."""


@runtime_checkable
class SeveralStreams(Protocol):
    """Clips of several streams, each a medium by itself: the encoder `streams` has one encoder for each, and
    `flowgen sample --given STREAM=FILE` takes files of each."""

    streams: Mapping[str, Modality]
    """The medium of each stream, with which its encoder is built."""

    def stream_of(self, clip: Clip, name: str) -> Clip | None:
        """One stream of a clip, as a clip of the medium of that stream; None: the clip lacks it."""

    def combined(self, parts: Mapping[str, Clip]) -> Clip:
        """The clip of some or all streams: what `stream_of` took apart."""


# Abilities of a metric


@runtime_checkable
class Resampled(Protocol):
    """Its figures are functions of what is found in each clip, so that `flowgen eval` gives them intervals by resampling.

    `figures(features(clips), features(reference))` is `measure(clips, reference)`.
    """

    def features(self, clips: Sequence[Clip]) -> Mapping[str, Tensor]:
        """What is found in each clip: tensors [N, ...] by name."""

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        """Figures by name, of the rows of `found` and of those of real clips (no rows where it compares with none)."""

    @property
    def compares(self) -> bool:
        """Whether the figures depend on the reference."""


@runtime_checkable
class Graded(Protocol):
    """Its figures say which way is better: `flowgen eval --controls` counts a control as told apart by them alone."""

    @property
    def better(self) -> Mapping[str, Better]:
        """By the name of the figure; what is not named here is information only."""


@runtime_checkable
class Judging(Protocol):
    """Some of its figures are shares of clips in which a recogniser finds what was asked; where it fails on real clips, they
    are void.
    """

    @property
    def judged(self) -> tuple[str, ...]:
        """The names of those figures."""


@runtime_checkable
class DrawsFound(Protocol):
    """It can draw what it finds in a clip: the report shows that picture below the player."""

    def draw(self, clip: Clip, path: Path) -> None:
        """Write a PNG, whole or not at all."""


# Abilities of a data set


@runtime_checkable
class ManyClips(Protocol):
    """Many clips at once, worth having where clips are very small."""

    def clips(self, indices: Sequence[int], seeds: Sequence[int]) -> list[Clip]:
        """The clips that `clip` gives one by one."""


@runtime_checkable
class Endless(Protocol):
    """Clips are drawn from a density: `flowgen eval --controls` has no copies of training clips to measure."""

    endless: ClassVar[bool]
    """Whether training sees no clip twice."""


@runtime_checkable
class Keyed(Protocol):
    """Items have an identity: the kit proves that the splits share none and that none is there twice."""

    def key(self, index: int) -> str:
        """What item `index` is: the same for one item in every split, order and process, another for another item.

        Such as the file with the start of the segment, whatever is cropped or augmented afterwards.
        """


@runtime_checkable
class CropsRecordings(Protocol):
    """Training clips are cropped at random: a latent cache holds all that a clip may be cropped from, and training crops
    its latents.
    """

    def uncropped(self, index: int) -> Clip | None:
        """What clip `index` is a random part of in time; None: nothing is drawn."""


@runtime_checkable
class Bucketed(Protocol):
    """Clips that differ in length or size are batched with those of their bucket only. Empty `buckets`: as they come."""

    buckets: Mapping[str, float]
    """By name, what a clip of it costs relative to one of the modality's full size."""

    def bucket_of(self, index: int) -> str:
        """The bucket of a clip."""


@runtime_checkable
class FullSize(Protocol):
    """Where clips of a bucket have its size, or are no recordings, metrics compare with real clips of the modality's own size."""

    def full_size(self) -> Dataset:
        """The real clips that fill the modality's own size."""


@runtime_checkable
class Reports(Protocol):
    """`flowgen data check` has a row for each file or segment that was looked at, kept or not."""

    def report(self) -> list[dict[str, Any]]:
        """Rows of this part, with the columns file, part ("training", "validation"), status and why.

        Status is "kept", "cropped", "padded" or "left out". Where known also seconds, frames, rate, channels, size, peak,
        bucket, clips and hash (of the content); and others.
        """


@runtime_checkable
class ToleratesBad(Protocol):
    """Some of its files may be left out; by default none."""

    max_bad_share: float
    """The share of the rows of its report that may be left out."""


@runtime_checkable
class ReplacesFailed(Protocol):
    """A clip that cannot be decoded in training is replaced by another; what failed is counted over all ranks together."""

    failed: Mapping[str, str]
    """By key, the items that could not be decoded so far, and why."""

    def attempt(self, index: int, seed: int) -> Clip:
        """The clip that `clip` gives: a function of index and seed alone. What it replaces (`Clip.instead_of`) is not counted yet.

        FlowgenError: no clip can be decoded.
        """

    def count_failed(self, failed: Mapping[str, str], say: bool = True) -> None:
        """Add to `failed`, naming what is new. BadData: more is left out by now than may be."""


@runtime_checkable
class Fingerprinted(Protocol):
    """A resume over changed data is refused with what changed, and one over data that have moved is not."""

    def fingerprints(self) -> dict[str, str]:
        """By key of an item, a hash of what training takes from it. Where the data lie plays no part."""

    @property
    def places(self) -> dict[str, str]:
        """The options that say where the data lie, as absolute paths."""


@runtime_checkable
class Labelled(Protocol):
    """Previews, validation and sheets show the classes equally often."""

    def labels(self, index: int) -> dict[str, Any]:
        """The conditions of clip `index`, without decoding it."""


@runtime_checkable
class DecodesWhole(Protocol):
    """`flowgen data check --deep` decodes the whole of every file."""

    def damaged(self) -> dict[str, str]:
        """By key, what is wrong with the items that the survey passed; their rows say so from now on."""


@runtime_checkable
class Identified(Protocol):
    """What is measured on the data set is cached under its identity."""

    @property
    def identity(self) -> str:
        """A hash of the content and options."""


# Abilities of an encoder


@runtime_checkable
class KnownLengths(Protocol):
    """A clip may have another length than the one trained on: `flowgen sample --seconds`."""

    def latent_shape(self, seconds: float) -> Any:
        """The shape [*axes, C] of the latents of a clip of that length (by stream, where there are several)."""


@runtime_checkable
class SeesBeyondCuts(Protocol):
    """Latents next to a cut depend on what lies beyond it; those of a given part are not held there."""

    context: int | Mapping[str, int]
    """How many steps next to a cut; 0: none. By stream, where there are several."""


@runtime_checkable
class HadOtherDefaults(Protocol):
    """A run that was trained with another default of an earlier version is refused with what to write in its config."""

    def earlier(self, state: Mapping[str, Tensor]) -> str | None:
        """The option, as in "stereo: separate", with which what was measured on the data fits; None: it is not that."""


@runtime_checkable
class MarksMasks(Protocol):
    """`flowgen sample --inpaint FILE --mask MASK`: a clip in black and white says what is sampled."""

    def marked(self, mask: Clip) -> Any:
        """The positions at which a mask is light, bool [*axes] (by stream, where there are several; the others are kept)."""


# Abilities of a network


@runtime_checkable
class RepeatedBlocks(Protocol):
    """Like blocks are recomputed (`train.activation_checkpointing`), compiled (`train.compile`) and, under an adapter, swapped
    (`network.swap_blocks`) one by one."""

    repeated_blocks: tuple[str, ...]
    """Names of the `nn.ModuleList`s whose members are alike."""


@runtime_checkable
class KeepsFloat32(Protocol):
    """Some modules stay in float32 when weights are exported in half precision."""

    keep_float32: tuple[str, ...]
    """Their names."""


@runtime_checkable
class Patched(Protocol):
    """Several steps of an axis make one token."""

    patch: tuple[int, ...] | Mapping[str, tuple[int, ...]]
    """Steps a token spans on each axis; by stream, where there are several."""


@runtime_checkable
class ShardsSequence(Protocol):
    """`train.sequence_parallel`: several ranks share the tokens of each clip."""

    def shard_sequence(self, group: SequenceGroup) -> None:
        """Divide tokens among the group from now on. ValueError: they do not divide."""


@runtime_checkable
class Extensible(Protocol):
    """A network that can start from weights that lack some of its modules."""

    neutral_at_start: ClassVar[tuple[str, ...]]
    """Names of modules that change nothing as they are made, such as embeddings whose last layer is zero."""


# Abilities of a region


@runtime_checkable
class NamesStream(Protocol):
    """Of several streams, a region may hold for one alone."""

    stream: str | None
    """Its name; None: every stream that has the axes of the region."""


@runtime_checkable
class OwnTimes(Protocol):
    """`sample.grid: model`: it is sampled at times of its own, as a pretrained model is at those of its scheduler."""

    def sampling_times(self, steps: int, x: State) -> Tensor:
        """steps + 1 increasing times to 1, from 0 or from where its noise begins, float64 on the CPU, for latents like x."""


# Abilities of a logger


@runtime_checkable
class Rewinds(Protocol):
    """A run that is resumed leaves one line a step: what was logged of the steps that are done again is forgotten."""

    def rewind(self, step: int) -> None:
        """Forget what was logged after this step."""


# Abilities of a conditioner


@runtime_checkable
class Resolves(Protocol):
    """Options that are found out once, when a run begins, and then stand in its config."""

    def resolve(self) -> dict[str, Any]:
        """The values of those options (the revision of a pretrained model, say)."""


@runtime_checkable
class BringsEmbedder(Protocol):
    """It brings the module that embeds its values; the built-in conditioners have theirs in `flowgen.nn`."""

    def embedder(self, width: int) -> nn.Module:
        """A module from batched values to [B, width], or to [B, L, width] with a mask [B, L] for the role "sequence"."""


@runtime_checkable
class TakesFile(Protocol):
    """Its values are files. A server takes them as uploads alone, never as paths; a page offers an upload."""

    file_kind: str
    """What the file holds: audio, video or image."""


@runtime_checkable
class ReadsText(Protocol):
    """`flowgen sample --prompt` speaks to it. Without this, to a conditioner whose role is "sequence"."""

    is_text: bool
    """Whether its values are sentences."""
