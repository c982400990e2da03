"""What a client asks for, as JSON: one model for each way of sampling, with the fields that this way uses and no others.

Files come beside it, in the same multipart request; a field that names a clip holds the name of such a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from flowgen.config.schema import Sample
from flowgen.errors import UsageError, unknown
from flowgen.plugins.registry import registry
from flowgen.runs.requests import (
    Animate,
    Continue,
    FromNoise,
    FromStream,
    Inpaint,
    Interpolate,
    Long,
    Media,
    SampleRequest,
    Vary,
)
from flowgen.serving.loaded import Put

MOST_CLIPS = 256
Part = Annotated[str, Field(pattern=r"^[\w-]{1,64}$")]
"""The name of an upload."""
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Moment = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Value: TypeAlias = str | int | float | bool | None
Read: TypeAlias = Callable[[str], Media]
"""From the name of an upload to the file that holds it."""


class AskedAdapter(BaseModel):
    """An adapter in force while start <= t <= end."""

    model_config = ConfigDict(extra="forbid")

    weight: Annotated[float, Field(ge=-10, le=10)] = 1.0
    start: Annotated[float, Field(ge=0, le=1)] = 0.0
    end: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> AskedAdapter:
        if not self.start < self.end:
            raise ValueError("an interval of t begins before it ends")
        return self


class Asked(BaseModel):
    """What every way of sampling takes."""

    model_config = ConfigDict(extra="forbid")

    run: Annotated[str, Field(max_length=100)] | None = None
    """The name of a run that the server has; may be left out where it has one."""
    conditions: dict[str, Value] | Annotated[list[dict[str, Value]], Field(min_length=1, max_length=MOST_CLIPS)] = {}
    """Of all clips, or a mapping for each."""
    step: Annotated[int, Field(ge=0)] | None = None
    """Of the checkpoint; the newest by default."""
    adapters: dict[str, Annotated[float, Field(ge=-10, le=10)] | AskedAdapter] = {}
    """By the names that the server gives them: a weight, or a weight in an interval of t."""
    count: Annotated[int, Field(ge=1, le=MOST_CLIPS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    negative: dict[str, Value] | None = None
    settings: dict[str, Any] = {}
    """Keys of the `sample` section of a config, in place of the run's own."""
    format: Annotated[str, Field(pattern=r"^\.?[a-z0-9]{1,8}$")] | None = None
    """The extension of the files; by default the first of the medium."""
    normalise: bool = False

    def rows(self) -> list[Mapping[str, Any]]:
        """The conditions of each clip. UsageError: their number is another than `count`."""
        if isinstance(self.conditions, dict):
            return [self.conditions] * (self.count or 1)
        if self.count is not None and self.count != len(self.conditions):
            raise UsageError(f"count is {self.count} and there are {len(self.conditions)} conditions; leave one out")
        return list(self.conditions)

    @property
    def put(self) -> dict[str, Put]:
        """How adapters are put on the run."""
        asked = {
            name: AskedAdapter(weight=own) if isinstance(own, float) else own for name, own in self.adapters.items()
        }
        return {name: Put(own.weight, own.start, own.end) for name, own in asked.items()}

    def uploads(self) -> set[str]:
        """The names of the files that it needs."""
        return set()

    def request(self, common: Mapping[str, Any], read: Read) -> SampleRequest:
        """As the request of the Python API. `common`: conditions, seed, settings, negative."""
        raise NotImplementedError


class Watched(Asked):
    """A way of which the state can be shown as it goes on."""

    preview: bool = False
    """Draw what is being made, in a picture that is replaced as it goes on."""


class AskedSample(Watched):
    way: Literal["sample"] = "sample"
    seconds: Seconds | None = None

    def request(self, common: Mapping[str, Any], read: Read) -> SampleRequest:
        return FromNoise(seconds=self.seconds, **common)


class AskedContinuation(Asked):
    way: Literal["continue"]
    clip: Part
    seconds: Seconds | None = None

    def uploads(self) -> set[str]:
        return {self.clip}

    def request(self, common: Mapping[str, Any], read: Read) -> SampleRequest:
        return Continue(read(self.clip), seconds=self.seconds, **common)


class AskedLong(Asked):
    """A clip of any length, which may be heard and seen while it is made."""

    way: Literal["long"]
    seconds: Seconds
    count: Literal[1] | None = None

    def request(self, common: Mapping[str, Any], read: Read) -> SampleRequest:
        return Long(self.seconds, **common)


class AskedAnimation(Watched):
    way: Literal["animate"]
    first: Part | None = None
    last: Part | None = None
    seconds: Seconds | None = None

    def uploads(self) -> set[str]:
        return {name for name in (self.first, self.last) if name is not None}

    def request(self, common: Mapping[str, Any], read: Read) -> SampleRequest:
        first, last = (None if name is None else read(name) for name in (self.first, self.last))
        return Animate(first, last, seconds=self.seconds, **common)


class AskedInpainting(Watched):
    way: Literal["inpaint"]
    clip: Part
    start_s: Moment | None = None
    end_s: Moment | None = None
    mask: Part | None = None
    method: Literal["replacement", "guided"] | None = None
    particles: Annotated[int, Field(ge=1, le=64)] | None = None

    def uploads(self) -> set[str]:
        return {self.clip} | ({self.mask} if self.mask is not None else set())

    def request(self, common: Mapping[str, Any], read: Read) -> SampleRequest:
        return Inpaint(
            read(self.clip),
            start_s=self.start_s,
            end_s=self.end_s,
            mask=None if self.mask is None else read(self.mask),
            method=self.method,
            particles=self.particles,
            **common,
        )


class AskedStream(Watched):
    way: Literal["given"]
    given: Annotated[dict[str, Part], Field(min_length=1, max_length=16)]

    def uploads(self) -> set[str]:
        return set(self.given.values())

    def request(self, common: Mapping[str, Any], read: Read) -> SampleRequest:
        return FromStream({stream: read(name) for stream, name in self.given.items()}, **common)


class AskedVariation(Asked):
    way: Literal["vary"]
    clip: Part
    strength: Annotated[float, Field(gt=0, le=1)] = 0.5

    def uploads(self) -> set[str]:
        return {self.clip}

    def request(self, common: Mapping[str, Any], read: Read) -> SampleRequest:
        return Vary(read(self.clip), strength=self.strength, **common)


class AskedInterpolation(Asked):
    way: Literal["interpolate"]
    a: Part
    b: Part

    def uploads(self) -> set[str]:
        return {self.a, self.b}

    def request(self, common: Mapping[str, Any], read: Read) -> SampleRequest:
        return Interpolate(read(self.a), read(self.b), **common)


Generation: TypeAlias = Annotated[
    AskedSample
    | AskedContinuation
    | AskedLong
    | AskedAnimation
    | AskedInpainting
    | AskedStream
    | AskedVariation
    | AskedInterpolation,
    Field(discriminator="way"),
]
_GENERATION: TypeAdapter[Asked] = TypeAdapter(Generation)


def parse(value: Any) -> Asked:
    """A generation from JSON values. UsageError names the field, in one line each."""
    if isinstance(value, dict):
        value = {"way": "sample", **value}
    try:
        return _GENERATION.validate_python(value)
    except ValidationError as error:
        raise UsageError("; ".join(_line(problem) for problem in error.errors()[:5])) from None


def _line(problem: Any) -> str:
    # the first part of the place is the way, by which the model was chosen
    place = ".".join(str(part) for part in problem["loc"][1:]) or "the request"
    message = problem["msg"].replace("Extra inputs are not permitted", "is no field of this way of sampling")
    return f"{place}: {message[:1].lower()}{message[1:]}"[:300]


def settings_with(own: Sample, settings: Mapping[str, Any]) -> Sample | None:
    """The run's settings with those of a client; None where there are none. UsageError names the key.

    Components are taken by the names of those that are installed, with numbers for options: a client names no module to import
    and no file to open.
    """
    if not settings:
        return None
    if strangers := settings.keys() - {"steps", "solver", "guidance", "grid"}:
        raise UsageError(f"settings.{min(strangers)} is the server's affair; leave it out")
    for kind in ("solver", "guidance"):
        value = settings.get(kind)
        for one in value if isinstance(value, list) else [value]:
            _check_component(kind, one)
    try:
        return Sample.model_validate({**own.model_dump(mode="json"), **settings})
    except ValidationError as error:
        raise UsageError("; ".join(f"settings.{_whole(p)}" for p in error.errors()[:5])) from None


def _check_component(kind: str, value: Any) -> None:
    if value is None:
        return
    name, options = (value.get("type"), value) if isinstance(value, dict) else (value, {})
    if not isinstance(name, str) or name not in registry().names(kind):
        raise UsageError(f"settings.{kind}: {unknown(kind, str(name), registry().names(kind))}")
    for key, option in options.items():
        numbers = (
            list(option.values()) if isinstance(option, dict) else option if isinstance(option, list) else [option]
        )
        if key != "type" and not all(n is None or isinstance(n, (bool, int, float)) for n in numbers):
            raise UsageError(f"settings.{kind}.{key} takes numbers from a client")


def _whole(problem: Any) -> str:
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"[:300]
