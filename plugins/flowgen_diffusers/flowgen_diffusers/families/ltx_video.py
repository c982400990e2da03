"""LTX-Video (Lightricks): a transformer over packed latents, which are told the time of each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from flowgen_diffusers.family import Family, Given, every_position, spans, timesteps


class LTXVideo(Family):
    pipelines = ("LTXPipeline", "LTXImageToVideoPipeline")
    max_tokens = 128
    fps = 25.0
    guidance = 3.0
    size = 161, 512, 704
    packs = True
    multiple = 32

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return config["patch_size_t"], config["patch_size"], config["patch_size"]

    def embed(self, pipeline: Any, prompt: str, max_tokens: int) -> dict[str, Tensor]:
        states, mask, *_ = pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=max_tokens
        )
        return {"states": states[0], "mask": mask[0]}

    def velocity(
        self, transformer: nn.Module, x: Tensor, t: Tensor, prompt: Mapping[str, Tensor], given: Given
    ) -> Tensor:
        patch = dict(zip("pqr", self.patch(transformer.config), strict=True))
        sizes = {axis: n // p for axis, n, p in zip("thw", x.shape[1:-1], patch.values(), strict=True)}
        said = transformer(
            hidden_states=rearrange(x, "b (t p) (h q) (w r) c -> b (t h w) (c p q r)", **patch),
            encoder_hidden_states=prompt["states"],
            encoder_attention_mask=prompt["mask"],
            timestep=timesteps(every_position(t, x, tuple(patch.values())).flatten(1) if t.ndim > 1 else t),
            num_frames=sizes["t"],
            height=sizes["h"],
            width=sizes["w"],
            rope_interpolation_scale=spans(given.spec),
            return_dict=False,
        )[0]
        return -rearrange(said, "b (t h w) (c p q r) -> b (t p) (h q) (w r) c", **patch, **sizes)
