"""FLUX.1 (Black Forest Labs): pictures, as clips of one frame; packed latents, two text encoders, learned guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from flowgen_diffusers.family import Family, Given, dynamic_mu, one_time


class Flux(Family):
    pipelines = ("FluxPipeline",)
    medium = "picture"
    tokenizer = "tokenizer_2"
    max_tokens = 512
    fps = 1.0
    guidance = 1.0  # that of a second evaluation, which the learned one makes unnecessary
    learned_guidance = 3.5
    steps = 28
    size = 1, 1024, 1024
    packs = True

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return 1, 2, 2

    def embed(self, pipeline: Any, prompt: str, max_tokens: int) -> dict[str, Tensor]:
        states, pooled, _ = pipeline.encode_prompt(prompt, max_sequence_length=max_tokens)
        return {"states": states[0], "pooled": pooled[0]}

    def velocity(
        self, transformer: nn.Module, x: Tensor, t: Tensor, prompt: Mapping[str, Tensor], given: Given
    ) -> Tensor:
        high, wide = x.shape[2] // 2, x.shape[3] // 2
        rows, columns = torch.meshgrid(*(torch.arange(n, device=x.device) for n in (high, wide)), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)
        said = transformer(
            hidden_states=rearrange(x, "b 1 (h q) (w r) c -> b (h w) (c q r)", q=2, r=2),
            timestep=1 - one_time(t),
            guidance=t.new_full((len(x),), given.guidance) if transformer.config["guidance_embeds"] else None,
            pooled_projections=prompt["pooled"],
            encoder_hidden_states=prompt["states"],
            txt_ids=places.new_zeros(prompt["states"].shape[1], 3),
            img_ids=places,
            return_dict=False,
        )[0]
        return -rearrange(said, "b (h w) (c q r) -> b 1 (h q) (w r) c", h=high, q=2, r=2)

    def sigmas(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        mu = dynamic_mu(scheduler, positions // 4)  # of tokens
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        return scheduler.sigmas

    def shift(self, scheduler: Any, positions: int) -> float:
        return super().shift(scheduler, positions // 4)
