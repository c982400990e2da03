"""A pretrained transformer as a flowgen network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.core.interfaces import MASK
from flowgen.core.ranges import NonNegative
from flowgen.core.tree import State
from flowgen.media.conditions import Conditioner
from flowgen.media.streams import StreamSpec
from flowgen_diffusers.family import Given
from flowgen_diffusers.model import PretrainedModel
from flowgen_diffusers.text import PromptCondition


class PretrainedTransformer(nn.Module):
    """The velocity network of a pretrained pipeline, with its weights; its family is found from model_index.json.

    It takes one condition, of type diffusers-text. Clips of a batch have one length.

    Args:
        model: the folder of the pipeline, or its id in the hub cache (see `flowgen.media.pretrained`); nothing is downloaded.
        guidance: the scale that a transformer with learned guidance (HunyuanVideo) is told; by default that of the pipeline.
    """

    repeated_blocks: tuple[str, ...]
    patch: tuple[int, ...]
    table: Tensor | None

    def __init__(
        self,
        spec: StreamSpec,
        conditions: Mapping[str, Conditioner],
        *,
        model: str,
        guidance: NonNegative | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(spec, StreamSpec):
            raise ValueError(f"a pretrained model of diffusers has one stream; the latents have {', '.join(spec)}")
        self.spec, self.model = spec, PretrainedModel(model)
        self.prompt = _only_prompt(conditions, self.model)
        if guidance is not None and self.model.family.learned_guidance is None:
            raise ValueError(
                f"network.guidance: {self.model.index['_class_name']} is told no scale; leave it out, and set "
                f"sample.guidance"
            )
        self.guidance = self.model.family.learned_guidance if guidance is None else guidance
        self.transformer = self.model.transformer()
        config = self.transformer.config
        self.patch = self.model.family.patch(config)
        self.register_buffer("table", self.model.family.table(self.model.scheduler_config), persistent=False)
        if (channels := config["in_channels"]) != spec.channels * (
            math.prod(self.patch) if self.model.family.packs else 1
        ):
            raise ValueError(
                f"the transformer in {self.model.folder} takes latents of {channels} channels, and the encoder gives "
                f"{spec.channels}; take the autoencoder of the same folder (variants that take pictures as channels are not "
                f"supported)"
            )
        for axis, p in zip(spec.axes, self.patch, strict=True):
            if axis.size % p:
                raise ValueError(
                    f"the {axis.name} of the latents is {axis.size}, which must be a multiple of {p}: change the modality's"
                )
        if self.model.family.medium == "picture" and spec.axes[0].size != 1:
            raise ValueError(f"{self.model.index['_class_name']} makes pictures: set modality.frames=1")
        if (spec.axes[0].size - 1) % (group := self.model.family.steps_multiple):
            raise ValueError(
                f"the {spec.axes[0].name} of the latents is {spec.axes[0].size}, which must be 1 more than a multiple of "
                f"{group}: change the modality's"
            )
        self.repeated_blocks = tuple(_repeated(self.transformer))

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """The velocity of x [B, *axes, C] at times [B] or [B, ...] (left-aligned with x)."""
        if MASK in cond and not bool(cond[MASK].all()):
            raise ValueError(
                "a pretrained model takes clips of one length: set data.buckets, or one length for all clips"
            )
        given = Given(self.spec, self.table, self.guidance)
        return self.model.family.velocity(self.transformer, x, t, cond[self.prompt], given)

    def sampling_times(self, steps: int, x: State) -> Tensor:
        """The times of the pipeline's own scheduler, float64 [steps + 1], for latents x. Some begin after t = 0."""
        assert isinstance(x, Tensor)
        sigmas = self.model.family.sigmas(self.model.scheduler(), steps, math.prod(x.shape[1:-1]))
        times = 1 - torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
        times[-1] = 1.0
        if times[0] < 1e-4:  # some schedulers leave a millionth, to keep logarithms finite
            times[0] = 0.0
        return times


def _only_prompt(conditions: Mapping[str, Conditioner], model: PretrainedModel) -> str:
    """The name of the one condition. ValueError: there are others, or it is of another type or model."""
    (name, condition), *others = [*conditions.items(), ("", None)]
    if condition is None or others[1:] or not isinstance(condition, PromptCondition):
        given = ", ".join(conditions) or "none"
        raise ValueError(
            f"a pretrained model of diffusers takes one condition, of type diffusers-text; given: {given}. Write "
            f"conditions: {{caption: {{type: diffusers-text, model: {model.name}}}}}"
        )
    if (other := PretrainedModel(condition.model)).folder != model.folder:
        raise ValueError(
            f"the condition {name!r} embeds prompts for {other.folder}, and the network is of {model.folder}"
        )
    return name


def _repeated(transformer: nn.Module) -> list[str]:
    """The module lists of blocks that diffusers declares as alike; where it declares none, those of one class at the top."""
    alike = set(transformer._repeated_blocks or transformer._no_split_modules or ())
    lists = {name: list(m) for name, m in transformer.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    kinds = {name: {type(m).__name__ for m in blocks} for name, blocks in lists.items()}
    if not alike:
        return [f"transformer.{name}" for name, kind in kinds.items() if "." not in name and len(kind) == 1]
    return [f"transformer.{name}" for name, kind in kinds.items() if kind <= alike]
