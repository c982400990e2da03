"""Stable Diffusion 3 and 3.5 (Stability AI): pictures, as clips of one frame; three text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from flowgen_diffusers.family import Family, Given, dynamic_mu, one_time, timesteps


class StableDiffusion3(Family):
    pipelines = ("StableDiffusion3Pipeline",)
    medium = "picture"
    tokenizer = "tokenizer_3"
    max_tokens = 256
    fps = 1.0
    guidance = 7.0
    steps = 28
    size = 1, 1024, 1024

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return 1, config["patch_size"], config["patch_size"]

    def embed(self, pipeline: Any, prompt: str, max_tokens: int) -> dict[str, Tensor]:
        states, _, pooled, _ = pipeline.encode_prompt(
            prompt, None, None, do_classifier_free_guidance=False, max_sequence_length=max_tokens
        )
        return {"states": states[0], "pooled": pooled[0]}

    def velocity(
        self, transformer: nn.Module, x: Tensor, t: Tensor, prompt: Mapping[str, Tensor], given: Given
    ) -> Tensor:
        said = transformer(
            hidden_states=rearrange(x, "b 1 h w c -> b c h w"),
            timestep=timesteps(one_time(t)),
            encoder_hidden_states=prompt["states"],
            pooled_projections=prompt["pooled"],
            return_dict=False,
        )[0]
        return -rearrange(said, "b c h w -> b 1 h w c")

    def sigmas(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        dynamic = scheduler.config.get("use_dynamic_shifting")
        scheduler.set_timesteps(steps, **({"mu": dynamic_mu(scheduler, positions // 4)} if dynamic else {}))
        return scheduler.sigmas

    def shift(self, scheduler: Any, positions: int) -> float:
        return super().shift(scheduler, positions // 4)  # of tokens: patches are 2 x 2

    def refuse(self, index: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        if config["patch_size"] != 2 or index.get("text_encoder_3", [None])[0] is None:
            raise ValueError(
                "this Stable Diffusion 3 has other patches than 2 x 2 or lacks its third text encoder, which is not "
                "supported; take the complete folder"
            )
