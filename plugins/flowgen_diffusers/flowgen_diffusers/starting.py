"""The config that fine-tunes a pretrained model."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from flowgen.config import build
from flowgen.errors import UsageError
from flowgen_diffusers.model import PretrainedModel


@dataclass(frozen=True)
class Start:
    """What of the config depends on the size of clips, as YAML."""

    rules: str
    """What the model takes, in words."""
    modality: str
    data: str
    encoder: str
    positions: int
    """Of the latent of a clip."""
    condition: str = ""
    """Further options of the prompt."""


def start_of(model: PretrainedModel, seconds: float | None = None, **size: float | None) -> Start:
    """The size that is asked, the rest by default of the pipeline. UsageError: the model does not take it."""
    if model.family.medium == "sound":
        given = [name for name, value in size.items() if value is not None]
        if given:
            raise UsageError(f"--{given[0]}: {model.name} makes sound: set --seconds")
        return _sound(model, seconds)
    if seconds is not None:
        raise UsageError(f"--seconds: {model.name} makes {model.family.medium}s: leave it out")
    return _video(model, size)


def _sound(model: PretrainedModel, seconds: float | None) -> Start:
    longest, vae = model.seconds(), model.config("vae")
    assert longest is not None
    if seconds is not None and seconds > longest:
        raise UsageError(f"--seconds: the model makes {longest:g} at most, got {seconds:g}")
    told = longest if seconds is None else seconds
    duration = math.floor(told * 1e6) / 1e6  # never more than the model makes
    size = {"sample_rate": vae["sampling_rate"], "channels": vae["audio_channels"], "duration_s": duration}
    modality = build("modality", {"type": "audio", **size})
    encoder = build("encoder", {"type": "audio-autoencoder", "model": f"{model.name}/vae"}, modality=modality)
    return Start(
        rules=f"At most {longest:g} s, which is what the model was trained on.",
        modality=f"{{type: audio, {', '.join(f'{k}: {v}' for k, v in size.items())}}}",
        data="{type: audio-manifest, manifest: FILL-IN.csv, pad: true}",
        encoder=f"{{type: audio-autoencoder, model: {json.dumps(f'{model.name}/vae')}, normalise: false}}",
        positions=math.prod(encoder.spec.shape[:-1]),
        condition="" if seconds is None else f", seconds: {duration}",
    )


def _video(model: PretrainedModel, size: dict[str, float | None]) -> Start:
    family = model.family
    default = dict(zip(("frames", "height", "width"), family.size, strict=True))
    chosen: dict[str, Any] = {**default, "fps": family.fps, **{k: v for k, v in size.items() if v is not None}}
    picture = family.medium == "picture"
    if picture and chosen["frames"] != 1:
        raise UsageError(f"--frames: {model.name} makes pictures: leave it out")
    modality = build("modality", {"type": "video", **chosen})
    kind = "image-autoencoder" if picture else "video-autoencoder"
    encoder = build("encoder", {"type": kind, "model": f"{model.name}/vae"}, modality=modality)
    patch = family.patch(model.config("transformer"))
    pixels = math.lcm(encoder.space * patch[1], encoder.space * patch[2], family.multiple)
    for name in ("height", "width"):
        if chosen[name] % pixels:
            near = max(pixels, round(chosen[name] / pixels) * pixels)
            raise UsageError(f"--{name}: the model takes multiples of {pixels}, got {chosen[name]}; nearest: {near}")
    group = family.steps_multiple
    if (after := encoder.spec.shape[0] - 1) % group:
        near = 1 + max(1, round(after / group)) * group * encoder.time
        raise UsageError(
            f"--frames: the model takes 1 + k x {group * encoder.time}, got {chosen['frames']}; nearest: {near}"
        )
    frames = "A picture is a clip of one frame." if picture else f"Frames: 1 + k x {group * encoder.time}."
    return Start(
        rules=f"{frames} Height and width: multiples of {pixels}.",
        modality=f"{{type: video, fps: {chosen['fps']:g}, frames: {chosen['frames']}, height: {chosen['height']}, "
        f"width: {chosen['width']}}}",
        data=f"{{type: video-manifest, manifest: FILL-IN.csv{', tolerance: 0' if picture else ''}}}",
        encoder=f"{{type: {kind}, model: {json.dumps(f'{model.name}/vae')}, precision: bfloat16}}",
        positions=math.prod(encoder.spec.shape[:-1]),
    )


def fine_tuning_config(model: PretrainedModel, start: Start, name: str) -> str:
    """The config as YAML with comments; its data section is to be filled in."""
    family, scheduler = model.family, model.scheduler()
    folder = json.dumps(model.name)
    told = "" if family.learned_guidance is None else f", guidance: {family.learned_guidance:g}"
    other = "audio-folder" if family.medium == "sound" else "video-folder"
    return f"""\
# Fine-tuning of {model.index["_class_name"]} in {model.name}, written by flowgen init.
name: {re.sub("[^A-Za-z0-9_.+-]", "-", name).lstrip(".") or "mine"}

# {start.rules}
modality: {start.modality}

# To fill in: a table with the columns file and caption (or type: {other} with folder: FOLDER).
data: {start.data}

encoder: {start.encoder}
network: {{type: diffusers, model: {folder}{told}}}
conditions:
  caption: {{type: diffusers-text, model: {folder}, max_tokens: {family.max_tokens}, precision: bfloat16{start.condition}}}

# The shift of the model's own scheduler, for latents of {start.positions} positions.
shift: {family.shift(scheduler, start.positions):.6g}
loss: flow-matching
times: logit-normal

train:
  steps: 1000
  batch_size: 8
  micro_batch_size: 1
  precision: bfloat16
  activation_checkpointing: true
  optimizer: {{type: adamw, lr: 1.0e-5}}
  condition_dropout: 0.1

# As the pipeline samples: at the times of its own scheduler, guided from the empty prompt.
sample:
  steps: {family.steps}
  solver: {family.solver(scheduler)}
  grid: model
  guidance: {{type: cfg, scale: {family.guidance:g}, start: 0.0}}
  batch_size: 1
"""
