"""CogVideoX (Zhipu), text to video: a diffusion model on a table of betas that predicts v, read as a velocity of straight lines.

The network is shown the state that preserves variance (see `family.scaled`). Straight lines need no signal at t = 0, which is
the zero terminal SNR of the published models (Lin et al. 2023); a step of DDIM is one of Euler.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from flowgen.core.betas import Betas
from flowgen_diffusers.family import Family, Given, one_time, scaled, velocity_of_v


class CogVideoX(Family):
    pipelines = ("CogVideoXPipeline",)
    max_tokens = 226
    fps = 8.0
    guidance = 6.0
    size = 49, 480, 720
    steps_multiple = 2  # its autoencoder decodes an even number of steps to other frames

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return 1, config["patch_size"], config["patch_size"]

    def embed(self, pipeline: Any, prompt: str, max_tokens: int) -> dict[str, Tensor]:
        states, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=max_tokens)
        return {"states": states[0]}

    def velocity(
        self, transformer: nn.Module, x: Tensor, t: Tensor, prompt: Mapping[str, Tensor], given: Given
    ) -> Tensor:
        assert given.table is not None
        seen, alpha, sigma = scaled(x, one_time(t))
        v = transformer(
            hidden_states=rearrange(seen, "b t h w c -> b t c h w"),
            encoder_hidden_states=prompt["states"],
            timestep=_index(given.table, t),
            image_rotary_emb=_rotary(transformer.config, x.shape[1:-1], x.device),
            return_dict=False,
        )[0]
        return velocity_of_v(rearrange(v, "b t c h w -> b t h w c"), seen, alpha, sigma)

    def table(self, scheduler: Mapping[str, Any]) -> Tensor:
        """The times [N] of the indices N - 1 to 0, which rise."""
        return 1 / (1 + _noise_to_signal(scheduler).flip(0))

    def sigmas(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        scheduler.set_timesteps(steps)
        ratio = _noise_to_signal(scheduler.config)[scheduler.timesteps]
        levels = torch.cat([1 / (1 + 1 / ratio), ratio.new_zeros(1)])
        if levels[0] != 1 or not scheduler.config["set_alpha_to_one"]:
            raise ValueError(
                "sample.grid: the schedule of this model does not go from pure noise to data, which is not supported; in its "
                "scheduler_config.json set rescale_betas_zero_snr, set_alpha_to_one and timestep_spacing: trailing"
            )
        return levels

    def shift(self, scheduler: Any, positions: int) -> float:
        """That of the median of the times."""
        return float(_noise_to_signal(scheduler.config).median())

    def refuse(self, index: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        if config.get("patch_size_t") is not None:
            raise ValueError(
                "this is CogVideoX 1.5, which makes latent steps in pairs and drops one, and is not supported; take "
                "CogVideoX-2b or -5b"
            )


_DEFAULTS = {
    "prediction_type": "epsilon",
    "trained_betas": None,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "snr_shift_scale": 3.0,
    "rescale_betas_zero_snr": False,
}
"""Of `CogVideoXDDIMScheduler`, for what its file leaves out."""


def _noise_to_signal(config: Mapping[str, Any]) -> Tensor:
    """sigma/alpha [N] of the scheduler's indices, rising; the last is inf where the terminal SNR is zero. Float64."""
    config = _DEFAULTS | dict(config)
    if (predicts := config["prediction_type"]) != "v_prediction":
        raise ValueError(f"the scheduler of this model is for {predicts!r}, and v_prediction alone is supported")
    kind, steps = config["beta_schedule"], config["num_train_timesteps"]
    if config["trained_betas"]:
        betas = Betas(tuple(config["trained_betas"]))
    elif kind == "squaredcos_cap_v2":
        betas = Betas("squared-cosine", steps)
    else:
        betas = Betas(kind.replace("_", "-"), steps, config["beta_start"], config["beta_end"])
    square = torch.tensor([*accumulate((1 - beta for beta in betas.betas), mul)], dtype=torch.float64)
    shift = config["snr_shift_scale"]
    square = square / (shift + (1 - shift) * square)
    if config["rescale_betas_zero_snr"]:
        alpha = square.sqrt()
        square = ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2
    return (1 / square - 1).sqrt()


def _index(table: Tensor, t: Tensor) -> Tensor:
    """The index [B], between those of the scheduler on a line; at its ends beyond them."""
    table = table.to(t.dtype)
    right = torch.searchsorted(table, t).clamp(1, len(table) - 1)
    low, high = table[right - 1], table[right]
    return len(table) - right - ((t - low) / (high - low)).clamp(0, 1)


def _rotary(config: Mapping[str, Any], sizes: torch.Size, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """As `CogVideoXPipeline._prepare_rotary_positional_embeddings`, for latents of these sizes."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    if not config["use_rotary_positional_embeddings"]:
        return None
    p = config["patch_size"]
    grid, (height, width) = (sizes[1] // p, sizes[2] // p), (config["sample_height"] // p, config["sample_width"] // p)
    return get_3d_rotary_pos_embed(
        embed_dim=config["attention_head_dim"],
        crops_coords=get_resize_crop_region_for_grid(grid, width, height),
        grid_size=grid,
        temporal_size=sizes[0],
        device=device,
    )
