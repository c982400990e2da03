"""HunyuanVideo (Tencent), text to video: two text encoders, and a transformer that is told a guidance scale it has learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from einops import rearrange
from torch import Tensor, nn

from flowgen_diffusers.family import Family, Given, one_time, timesteps


class HunyuanVideo(Family):
    pipelines = ("HunyuanVideoPipeline",)
    max_tokens = 256
    fps = 24.0
    guidance = 1.0  # that of a second evaluation, which the learned one makes unnecessary
    learned_guidance = 6.0
    size = 129, 720, 1280

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return config["patch_size_t"], config["patch_size"], config["patch_size"]

    def embed(self, pipeline: Any, prompt: str, max_tokens: int) -> dict[str, Tensor]:
        states, pooled, mask = pipeline.encode_prompt(prompt, max_sequence_length=max_tokens)
        return {"states": states[0], "mask": mask[0], "pooled": pooled[0]}

    def velocity(
        self, transformer: nn.Module, x: Tensor, t: Tensor, prompt: Mapping[str, Tensor], given: Given
    ) -> Tensor:
        assert given.guidance is not None
        said = transformer(
            hidden_states=rearrange(x, "b t h w c -> b c t h w"),
            timestep=timesteps(one_time(t)),
            encoder_hidden_states=prompt["states"],
            encoder_attention_mask=prompt["mask"],
            pooled_projections=prompt["pooled"],
            guidance=t.new_full((len(x),), 1000 * given.guidance),
            return_dict=False,
        )[0]
        return -rearrange(said, "b c t h w -> b t h w c")

    def sigmas(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:-1])
        return scheduler.sigmas
