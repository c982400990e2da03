"""Stable Audio Open (Stability AI): sound; v-prediction at noise levels from 500 down, told as an angle (see `family.scaled`).

Its scheduler is SDE-DPM-Solver++ of second order (`dpm++sde`), which draws noise in every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from flowgen_diffusers.family import Family, Given, one_time, scaled, velocity_of_v

_SUPPORTED = {
    "prediction_type": "v_prediction",
    "sigma_data": 1.0,
    "solver_order": 2,
    "solver_type": "midpoint",
    "final_sigmas_type": "zero",
}


class StableAudio(Family):
    pipelines = ("StableAudioPipeline",)
    medium = "sound"
    max_tokens = 128
    guidance = 7.0
    steps = 100
    same_times: ClassVar[Mapping[str, str]] = {"CosineDPMSolverMultistepScheduler": "EDMDPMSolverMultistepScheduler"}

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return (1,)

    def embed(self, pipeline: Any, prompt: str, max_tokens: int) -> dict[str, Tensor]:
        """The empty prompt is zeros, from which the pipeline guides where no negative prompt is given."""
        pipeline.tokenizer.model_max_length = max_tokens
        states = pipeline.encode_prompt(prompt, pipeline.device, do_classifier_free_guidance=False)
        return {"states": states[0] if prompt else torch.zeros_like(states[0])}

    def seconds(self, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> float:
        return transformer["sample_size"] * math.prod(vae["downsampling_ratios"]) / vae["sampling_rate"]

    def timed(self, pipeline: Any, states: Mapping[str, Tensor], seconds: float) -> dict[str, Tensor]:
        ends = pipeline.encode_duration(0.0, seconds, pipeline.device, False, 1)
        told = torch.cat([states["states"], *(end[0] for end in ends)])
        return {"states": told * states["states"].any(), "duration": torch.cat([end[0] for end in ends], -1)}

    def velocity(
        self, transformer: nn.Module, x: Tensor, t: Tensor, prompt: Mapping[str, Tensor], given: Given
    ) -> Tensor:
        from diffusers.models.embeddings import get_1d_rotary_pos_embed

        seen, alpha, sigma = scaled(x, one_time(t))
        v = transformer(
            rearrange(seen, "b t c -> b c t"),
            torch.atan2(1 - t, t) * (2 / math.pi),
            encoder_hidden_states=prompt["states"],
            global_hidden_states=prompt["duration"],
            rotary_embedding=get_1d_rotary_pos_embed(
                transformer.config["attention_head_dim"] // 2,
                torch.arange(1 + x.shape[1], device=x.device),  # the duration goes before
                use_real=True,
                repeat_interleave_real=False,
            ),
            return_dict=False,
        )[0]
        return velocity_of_v(rearrange(v, "b c t -> b t c"), seen, alpha, sigma)

    def sigmas(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        own = scheduler.config
        if differing := [f"{name}: {own[name]}" for name, value in _SUPPORTED.items() if own[name] != value]:
            raise ValueError(
                f"the scheduler of this model has {', '.join(differing)}, which is not supported; take {_SUPPORTED}"
            )
        scheduler.set_timesteps(steps)
        ratio = scheduler.sigmas if steps > 1 else torch.tensor([own["sigma_max"], 0.0])
        return 1 / (1 + 1 / ratio.double())

    def solver(self, scheduler: Any) -> str:
        return "dpm++sde"

    def refuse(self, index: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        if (name := index["scheduler"][1]) not in self.same_times:
            raise ValueError(
                f"Stable Audio with the scheduler {name} is not supported; take its own, CosineDPMSolverMultistepScheduler"
            )
