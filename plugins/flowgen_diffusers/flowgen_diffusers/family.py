"""What a family of pretrained models is: how its latents, times and prompts map to flowgen's.

flowgen's conventions: t = 0 is noise and t = 1 is data, latents are [B, *axes, C], a velocity is dx/dt. A family of flow
matching in diffusers has sigma = 1 - t, tells its transformer 1000 sigma, and predicts -dx/dt.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from flowgen.core.tree import left
from flowgen.errors import UsageError
from flowgen.media.streams import StreamSpec


@dataclass(frozen=True)
class Given:
    """What a velocity depends on beside state, time and prompt."""

    spec: StreamSpec
    table: Tensor | None
    """Of the scheduler, as `Family.table` made it."""
    guidance: float | None
    """The scale that the transformer is told, where it has learned guidance."""


class Family(ABC):
    """A family, one module of `flowgen_diffusers.families` with one subclass of this."""

    pipelines: ClassVar[tuple[str, ...]]
    """The classes of `_class_name` in model_index.json that it covers."""
    medium: ClassVar[Literal["video", "picture", "sound"]] = "video"
    tokenizer: ClassVar[str] = "tokenizer"
    """The component that counts the tokens of a prompt."""
    max_tokens: ClassVar[int]
    """Of a prompt, by default of the pipeline."""
    fps: ClassVar[float]
    """Frames a second that the published models make, of video; 1 of pictures."""
    guidance: ClassVar[float]
    """The scale of classifier-free guidance by default of the pipeline."""
    learned_guidance: ClassVar[float | None] = None
    """The scale that the transformer is told by default of the pipeline, where it has learned guidance (is distilled)."""
    steps: ClassVar[int] = 50
    """Sampling steps by default of the pipeline."""
    size: ClassVar[tuple[int, int, int]]
    """Frames, height and width by default of the pipeline; of pictures 1 frame."""
    same_times: ClassVar[Mapping[str, str]] = {}
    """Classes of schedulers, to ones that have the same noise levels and need no further library."""
    packs: ClassVar[bool] = False
    """Whether the channels that the transformer takes are those of a patch."""
    multiple: ClassVar[int] = 1
    """What divides height and width, beyond what autoencoder and patches ask for."""
    steps_multiple: ClassVar[int] = 1
    """What divides the latent steps after the first."""

    @abstractmethod
    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Latent steps of a token on each axis, from the config of the transformer."""

    @abstractmethod
    def embed(self, pipeline: Any, prompt: str, max_tokens: int) -> dict[str, Tensor]:
        """A prompt as the transformer takes it, without batch dimension: `states` [max_tokens, D], and what else it wants."""

    def seconds(self, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> float | None:
        """The length of sound that the model makes, by configs; None: it is told none."""
        return None

    def timed(self, pipeline: Any, states: Mapping[str, Tensor], seconds: float) -> dict[str, Tensor]:
        """The embedding of a prompt, for a clip of so many seconds."""
        raise NotImplementedError

    @abstractmethod
    def velocity(
        self, transformer: nn.Module, x: Tensor, t: Tensor, prompt: Mapping[str, Tensor], given: Given
    ) -> Tensor:
        """dx/dt of latents x [B, *axes, C] at times t [B] or [B, *axes]."""

    def table(self, scheduler: Mapping[str, Any]) -> Tensor | None:
        """What `velocity` wants of the scheduler, by its config; it is kept beside the weights."""
        return None

    def sigmas(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        """Noise levels of the pipeline's sampling, steps + 1 falling from 1 to 0, for latents of so many positions."""
        if scheduler.config.get("use_dynamic_shifting"):
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=dynamic_mu(scheduler, positions))
        else:
            scheduler.set_timesteps(steps)
        return scheduler.sigmas

    def solver(self, scheduler: Any) -> str:
        """The solver that repeats the scheduler, by name."""
        return "unipc" if "UniPC" in type(scheduler).__name__ else "euler"

    def shift(self, scheduler: Any, positions: int) -> float:
        """The shift of the times k (see `flowgen.core.times.shift`) by which the scheduler was made, for training."""
        own = scheduler.config
        if own.get("use_dynamic_shifting"):
            mu = dynamic_mu(scheduler, positions)
            return math.exp(mu) if own.get("time_shift_type", "exponential") == "exponential" else mu
        return float(own.get("flow_shift", own.get("shift", 1.0)))

    def refuse(self, index: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """ValueError: a variant that is not supported. `index`: model_index.json; `config`: of the transformer."""
        return None


def every_position(t: Tensor, x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Times as [B], or of each token [B, *token axes]: that of its first position."""
    if t.ndim == 1:
        return t
    t = left(t, x[..., 0]).expand(x.shape[:-1])
    return t[(slice(None), *(slice(None, None, p) for p in patch))]


def one_time(t: Tensor) -> Tensor:
    """Times [B]. ValueError: positions have times of their own."""
    if t.ndim > 1:
        raise ValueError(
            "this transformer is told one time for all positions: leave known regions out (known: []), or take LTX-Video"
        )
    return t


def scaled(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A state on straight lines as one that preserves variance, and alpha and sigma there (alpha^2 + sigma^2 = 1).

    Of alpha x1 + sigma x0 the state t x1 + (1 - t) x0 with t = alpha/(alpha + sigma) is a multiple.
    """
    size = left((t * t + (1 - t) ** 2).sqrt(), x)
    return x / size, left(t, x) / size, left(1 - t, x) / size


def velocity_of_v(v: Tensor, seen: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x1 - x0, from v = alpha x0 - sigma x1 and what `scaled` made of the state."""
    return (alpha - sigma) * seen - (alpha + sigma) * v


@cache
def families() -> dict[str, Family]:
    """Every family by the pipelines it covers."""
    from flowgen_diffusers import families as package

    found: dict[str, Family] = {}
    for module in iter_modules(package.__path__, f"{package.__name__}."):
        for kind in vars(import_module(module.name)).values():
            if isinstance(kind, type) and issubclass(kind, Family) and kind.__module__ == module.name:
                found |= dict.fromkeys(kind.pipelines, kind())
    return found


def family_of(index: Mapping[str, Any], where: object) -> Family:
    """The family of a pipeline by its model_index.json. UsageError: it is of none that is known."""
    name = str(index.get("_class_name"))
    if name not in families():
        raise UsageError(f"{where} is of {name!r}, which is of no family known here ({', '.join(sorted(families()))})")
    return families()[name]


def dynamic_mu(scheduler: Any, positions: int) -> float:
    """log k of a shift that grows with the positions of a latent, on a line through two points of the scheduler's config."""
    own = scheduler.config
    slope = (own["max_shift"] - own["base_shift"]) / (own["max_image_seq_len"] - own["base_image_seq_len"])
    return own["base_shift"] + slope * (positions - own["base_image_seq_len"])


def spans(spec: StreamSpec) -> tuple[float, ...]:
    """What one latent step of each axis spans: seconds in time, pixels in space."""
    return tuple(1 / axis.rate for axis in spec.axes if axis.rate)


def timesteps(t: Tensor) -> Tensor:
    """Times as diffusers tells them, 1000 (1 - t)."""
    return 1000.0 * (1 - t)
