"""Wan 2.1 (Alibaba), text to video, and the one transformer of Wan 2.2 5B, whose autoencoder is not supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from flowgen_diffusers.family import Family, Given, every_position, timesteps


class Wan(Family):
    pipelines = ("WanPipeline",)
    max_tokens = 512
    fps = 16.0
    guidance = 5.0
    size = 81, 480, 832

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(config["patch_size"])

    def embed(self, pipeline: Any, prompt: str, max_tokens: int) -> dict[str, Tensor]:
        states, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=max_tokens)
        return {"states": states[0]}

    def velocity(
        self, transformer: nn.Module, x: Tensor, t: Tensor, prompt: Mapping[str, Tensor], given: Given
    ) -> Tensor:
        if t.ndim > 1:
            t = every_position(t, x, self.patch(transformer.config)).flatten(1)
        said = transformer(
            hidden_states=rearrange(x, "b t h w c -> b c t h w"),
            timestep=timesteps(t),
            encoder_hidden_states=prompt["states"],
            return_dict=False,
        )[0]
        return -rearrange(said, "b c t h w -> b t h w c")

    def refuse(self, index: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        if index.get("boundary_ratio") is not None:
            raise ValueError(
                "this Wan model has two transformers, one for each half of the times, which is not supported; take one of "
                "Wan 2.1"
            )
