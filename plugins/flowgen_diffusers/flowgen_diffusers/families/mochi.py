"""Mochi (Genmo): a transformer that is told the time itself, of noise 0 and data 1000, and says dx/dt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from flowgen_diffusers.family import Family, Given, one_time


class Mochi(Family):
    pipelines = ("MochiPipeline",)
    max_tokens = 256
    fps = 30.0
    guidance = 4.5
    steps = 64
    size = 19, 480, 848

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return 1, config["patch_size"], config["patch_size"]

    def embed(self, pipeline: Any, prompt: str, max_tokens: int) -> dict[str, Tensor]:
        states, mask, *_ = pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=max_tokens
        )
        return {"states": states[0], "mask": mask[0]}

    def velocity(
        self, transformer: nn.Module, x: Tensor, t: Tensor, prompt: Mapping[str, Tensor], given: Given
    ) -> Tensor:
        said = transformer(
            hidden_states=rearrange(x, "b t h w c -> b c t h w"),
            encoder_hidden_states=prompt["states"],
            encoder_attention_mask=prompt["mask"],
            timestep=1000.0 * one_time(t),
            return_dict=False,
        )[0]
        return rearrange(said, "b c t h w -> b t h w c")

    def sigmas(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        """Half of the steps to the time 0.025, on a line, the rest on a parabola from there (Genmo's schedule)."""
        from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

        if steps == 1:  # it has no half
            return torch.tensor([1.0, 0.0])
        scheduler.set_timesteps(sigmas=np.array(linear_quadratic_schedule(steps, 0.025)))
        return 1 - scheduler.sigmas
