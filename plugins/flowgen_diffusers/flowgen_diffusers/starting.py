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
class Size:
    """Of clips, checked against what the model takes."""

    frames: int
    height: int
    width: int
    fps: float
    frames_rule: str
    pixels_rule: str
    positions: int
    """Of the latent of a clip."""

    @classmethod
    def of(cls, model: PretrainedModel, **asked: float | None) -> Size:
        """What is asked, the rest by default of the pipeline. UsageError: the model does not take it."""
        family = model.family
        default = dict(zip(("frames", "height", "width"), family.size, strict=True))
        chosen: dict[str, Any] = {
            **default,
            "fps": family.fps,
            **{k: v for k, v in asked.items() if v is not None},
        }
        modality = build("modality", {"type": "video", **chosen})
        encoder = build("encoder", {"type": "video-autoencoder", "model": f"{model.name}/vae"}, modality=modality)
        patch = family.patch(model.config("transformer"))
        pixels = math.lcm(encoder.space * patch[1], encoder.space * patch[2], family.multiple)
        for name in ("height", "width"):
            if chosen[name] % pixels:
                near = max(pixels, round(chosen[name] / pixels) * pixels)
                raise UsageError(
                    f"--{name}: the model takes multiples of {pixels}, got {chosen[name]}; nearest: {near}"
                )
        group = family.steps_multiple
        if (after := encoder.spec.shape[0] - 1) % group:
            near = 1 + max(1, round(after / group)) * group * encoder.time
            raise UsageError(
                f"--frames: the model takes 1 + k x {group * encoder.time}, got {chosen['frames']}; nearest: {near}"
            )
        return cls(
            **chosen,
            frames_rule=f"1 + k x {group * encoder.time}",
            pixels_rule=f"multiples of {pixels}",
            positions=math.prod(encoder.spec.shape[:-1]),
        )


def fine_tuning_config(model: PretrainedModel, size: Size, name: str) -> str:
    """The config as YAML with comments; its data section is to be filled in."""
    family, scheduler = model.family, model.scheduler()
    solver = "unipc" if "UniPC" in type(scheduler).__name__ else "euler"
    folder = json.dumps(model.name)
    told = "" if family.learned_guidance is None else f", guidance: {family.learned_guidance:g}"
    return f"""\
# Fine-tuning of {model.index["_class_name"]} in {model.name}, written by flowgen init.
name: {re.sub("[^A-Za-z0-9_.+-]", "-", name).lstrip(".") or "mine"}

# Frames: {size.frames_rule}. Height and width: {size.pixels_rule}.
modality: {{type: video, fps: {size.fps:g}, frames: {size.frames}, height: {size.height}, width: {size.width}}}

# To fill in: a table with the columns file and caption (or type: video-folder with folder: FOLDER).
data: {{type: video-manifest, manifest: FILL-IN.csv}}

encoder: {{type: video-autoencoder, model: {json.dumps(f"{model.name}/vae")}, precision: bfloat16}}
network: {{type: diffusers, model: {folder}{told}}}
conditions:
  caption: {{type: diffusers-text, model: {folder}, max_tokens: {family.max_tokens}, precision: bfloat16}}

# The shift of the model's own scheduler, for latents of {size.positions} positions.
shift: {family.shift(scheduler, size.positions):.6g}
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
  solver: {solver}
  grid: model
  guidance: {{type: cfg, scale: {family.guidance:g}, start: 0.0}}
  batch_size: 1
"""
