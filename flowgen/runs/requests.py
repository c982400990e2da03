"""What may be asked of a trained run: one type for each way of sampling.

    generator = flowgen.Generator.load("runs/mine")
    generator.sample(FromNoise(conditions=[{"digit": 3}] * 8, seed=1, seconds=2.0))
    generator.sample(Inpaint("speech.wav", start_s=0.3, end_s=0.6))
    generator.sample(Interpolate("a.wav", "b.wav", conditions=[{}] * 5))

The command line, previews and evaluation fill in the same. A clip may be given as a `Clip` or as the file that holds it.
Each type has the fields that its way of sampling uses, so that nothing can be asked that is not done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from flowgen.config.schema import Sample
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.runs.given import Given, source_clips

Media: TypeAlias = Clip | Path | str
"""A clip, or the file that holds it."""


@dataclass(frozen=True)
class Completion:
    """How a run that was not trained with known regions makes what is not given.

    Args:
        method: "replacement" puts the given part, with noise, into what the network sees, and takes any solver;
            "guided" follows the gradient of the network towards it, with steps of its own, see `flowgen.core.inpainting`.
        particles: for guided, tried for each clip; more are nearer to the exact distribution, in proportion slower.
    """

    method: Literal["replacement", "guided"] = "replacement"
    particles: int = 16


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What every way of sampling takes.

    Args:
        conditions: raw condition values, a mapping for each clip; what a mapping leaves out is not conditioned on.
        seed: clip i is a function of (seed, i, its conditions, settings): bit for bit in a batch of the same shape, and up
            to the rounding of matrix kernels (1e-5 in the latent, one step of 16 or 8 bits in a file) whatever else is
            sampled with it. The search for the phases of a spectrogram amplifies that, to some -60 dB of full scale.
        settings: steps, solver and guidance; those of the run's config by default.
        negative: conditions that guidance leads away from; it needs a guidance.
        rows: which of the clips to make (all by default), so that many are made in parts, each as it would be among all.
    """

    way: ClassVar[str]
    """The name of this way of sampling, for metadata and messages."""

    conditions: Sequence[Mapping[str, Any]] = ({},)
    seed: int = 0
    settings: Sample | None = None
    negative: Mapping[str, Any] | None = None
    rows: range | None = None

    def __post_init__(self) -> None:
        n = len(self.conditions)
        if not n:
            raise UsageError("give the conditions of at least one clip: [{}] is one clip without conditions")
        if self.rows is not None and not (self.rows.step == 1 and 0 <= self.rows.start < self.rows.stop <= n):
            raise UsageError(f"rows are a range within the {n} clips asked for, got {self.rows}")

    @property
    def chosen(self) -> range:
        """The rows to make."""
        return range(len(self.conditions)) if self.rows is None else self.rows

    def facts(self) -> dict[str, Any]:
        """What the metadata of a file says of this request, beside settings and conditions: JSON values."""
        negative = {} if self.negative is None else {"negative": dict(self.negative)}
        return {"way": self.way, "seed": self.seed, **negative}


@dataclass(frozen=True, kw_only=True)
class FromNoise(SampleRequest):
    """New clips.

    Args:
        seconds: length of all clips, or of each; by default what a condition says, or else the length trained on.
        given: clips that are parts of the samples, at places of their own; `Animate` and `Inpaint` are the common cases.
        completion: how a run that was not trained with known regions makes what is not given, see `Inpaint`.
        draws: of each clip the seed and the row whose noise it has, in place of `seed`: clips of several samples, made together.
    """

    way = "sample"
    seconds: float | Sequence[float] | None = None
    given: Sequence[Given] = ()
    completion: Completion | None = None
    draws: Sequence[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws is not None and (len(self.draws) != len(self.conditions) or self.seed != 0):
            raise UsageError(f"give draws for each of the {len(self.conditions)} clips, and no seed beside them")
        if self.completion is not None and not self.given:
            raise UsageError("a completion says how to go on from given clips; give some, or leave it out")

    def facts(self) -> dict[str, Any]:
        seconds = self.seconds if self.seconds is None or isinstance(self.seconds, (int, float)) else list(self.seconds)
        return {**super().facts(), **({} if seconds is None else {"seconds": seconds})}


@dataclass(frozen=True)
class Animate(SampleRequest):
    """Clips that begin with `first` and end with `last`: images, or short clips; one of them or both.

    Args:
        seconds: length of the whole; by default the length trained on.
    """

    way = "animate"
    first: Media | None = None
    last: Media | None = None
    _: KW_ONLY
    seconds: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first is None and self.last is None:
            raise UsageError("give the first clip, the last, or both")

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **_named(first=self.first, last=self.last, seconds=self.seconds)}


@dataclass(frozen=True)
class Continue(SampleRequest):
    """The clip and what follows it, `seconds` more; by default as much as fits one window as trained.

    Longer continuations are made window by window, each seeing the half of a window before it.
    """

    way = "continue"
    clip: Media
    _: KW_ONLY
    seconds: float | None = None

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **_named(clip=self.clip, seconds=self.seconds)}


@dataclass(frozen=True)
class Long(SampleRequest):
    """New clips of any length, made window by window: the first from noise, each further one going on from the half of a
    window before it. `Generator.stream` gives the parts as they are made.
    """

    way = "long"
    seconds: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.seconds < math.inf:
            raise UsageError(f"a long clip takes more than 0 s, got {self.seconds:g}")

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "seconds": self.seconds}


@dataclass(frozen=True)
class Inpaint(SampleRequest):
    """The clip with a part regenerated and the rest kept: from `start_s` to `end_s` (the beginning and the end of the clip by
    default), or where `mask`, a picture or a clip in black and white, is white.
    """

    way = "inpaint"
    clip: Media
    _: KW_ONLY
    start_s: float | None = None
    end_s: float | None = None
    mask: Media | None = None
    method: Literal["replacement", "guided"] | None = None
    particles: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        times = self.start_s is not None or self.end_s is not None
        if times == (self.mask is not None):
            raise UsageError("--inpaint takes --mask, or --from and --to")
        if self.particles is not None and self.method != "guided":
            raise UsageError("particles belong to the method guided; give --method guided, or leave --particles out")
        if self.particles is not None and not 1 <= self.particles <= 4096:
            raise UsageError(f"--particles takes 1 to 4096, got {self.particles}")

    @property
    def completion(self) -> Completion | None:
        """The method as a whole; None: that of the run."""
        return self.method and Completion(self.method, self.particles or Completion.particles)

    def facts(self) -> dict[str, Any]:
        where = _named(start_s=self.start_s, end_s=self.end_s, mask=self.mask)
        how = {} if self.completion is None else _named(**asdict(self.completion))
        return {**super().facts(), **_named(clip=self.clip), **where, **how}


@dataclass(frozen=True)
class FromStream(SampleRequest):
    """Clips of several streams of which some are given, in whole, and the others generated: the picture of a sound.

    Args:
        given: by the name of a stream, a clip that has it, or one for each sample. A file may be one of the whole medium, or
            of that stream alone (a sound file).
    """

    way = "from stream"
    given: Mapping[str, Media | Sequence[Media]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.given:
            raise UsageError("give at least one stream: {'sound': 'a.wav'}")
        for name in self.given:
            if len(self.clips(name)) not in (1, len(self.conditions)):
                raise UsageError(
                    f"give one clip with the {name}, or one for each of {len(self.conditions)}; got {len(self.clips(name))}"
                )

    def clips(self, stream: str) -> list[Media]:
        """The clips that give a stream: one, or one for each sample."""
        given = self.given[stream]
        return [given] if isinstance(given, (Clip, Path, str)) else list(given)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "given": {name: [_source(clip) for clip in self.clips(name)] for name in self.given}}


@dataclass(frozen=True)
class Vary(SampleRequest):
    """Variations of a clip. strength: in (0, 1]; the higher, the less of the clip is kept, and 1 keeps nothing."""

    way = "vary"
    clip: Media
    _: KW_ONLY
    strength: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.strength <= 1:
            raise UsageError(f"the strength of a variation lies in (0, 1], got {self.strength:g}")

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **_named(clip=self.clip, strength=self.strength)}


@dataclass(frozen=True)
class Interpolate(SampleRequest):
    """Clips on the way from a to b, as many as there are conditions; the first is a, the last is b.

    Both are inverted to noise, which is interpolated on the sphere and sampled again (see `flowgen.between`). The solver
    must be one of an ODE. Guidance is not used: it could not be inverted.
    """

    way = "interpolate"
    a: Media
    b: Media

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.negative is not None:
            raise UsageError("an interpolation uses no guidance, so that a negative condition would change nothing")
        if self.seed != 0:
            raise UsageError("an interpolation draws no noise, so that a seed would change nothing; leave it out")

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **_named(a=self.a, b=self.b)}


@dataclass(frozen=True)
class FromClips(SampleRequest):
    """Samples of a bridge (a run with `coupling: {type: given-pairs, start: clips}`): each starts from a clip of the source.

    Args:
        sources: a clip for each sample, or one for all. Without any, held-out clips of the data set's source.
    """

    way = "bridge"
    sources: Sequence[Media] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sources) not in (0, 1, len(self.conditions)):
            raise UsageError(
                f"give one clip to start from, or one for each of {len(self.conditions)}; got {len(self.sources)}"
            )

    def facts(self) -> dict[str, Any]:
        named = [_source(clip) for clip in self.sources]
        return {**super().facts(), "sources": named or "held-out clips of the source"}


def request_like(clips: Sequence[Clip], conditions: Sequence[Mapping[str, Any]], *, seed: int = 0) -> SampleRequest:
    """A request for one sample under each mapping of conditions, from what real clips start from: clips (in a bridge) or noise."""
    sources = source_clips(clips)
    if sources:
        return FromClips(conditions=conditions, seed=seed, sources=sources)
    return FromNoise(conditions=conditions, seed=seed)


def _named(**values: Any) -> dict[str, Any]:
    return {
        name: _source(value) if isinstance(value, (Clip, Path)) else value
        for name, value in values.items()
        if value is not None
    }


def _source(clip: Media) -> str:
    return (clip.source or "a clip in memory") if isinstance(clip, Clip) else str(clip)
