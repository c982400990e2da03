"""Prompts, embedded as the pretrained pipeline embeds them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgen.core.ranges import Count, NonNegative, Positive
from flowgen.core.tree import leaves, tree_map
from flowgen.device import default_device
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.pretrained import DTYPES, Kept, Precision, fingerprint
from flowgen_diffusers.model import PretrainedModel


@dataclass(frozen=True)
class PromptCondition:
    """A prompt as the transformer of a pretrained pipeline takes it, by the pipeline's own tokenizer and text encoder.

    "Not given" is the empty prompt, as in the pipelines. Each prompt is embedded once.

    Args:
        model: the folder of the pipeline, or its id in the hub cache (see `flowgen.media.pretrained`); nothing is downloaded.
        max_tokens: room for the tokens of a prompt; by default as many as the pipeline gives them.
        truncate: cut a longer prompt off, which otherwise is refused.
        seconds: the length of sound that the model is told; by default all that it makes.
        precision: of the text encoder.
        cache_mb: memory for embeddings of prompts met before, the oldest leaving first.
        identity: a hash of the text encoder's files. Written into the config of a run when it is trained; another text
            encoder is refused then.

    UsageError: a prompt is too long. FlowgenError: the text encoder cannot be loaded, or is not that of the run.
    """

    model: str
    max_tokens: Count | None = None
    truncate: bool = False
    seconds: Positive | None = None
    precision: Precision = "float32"
    cache_mb: NonNegative = 1024.0
    identity: str | None = None

    role = "sequence"
    is_text = True

    @property
    def room(self) -> int:
        """Tokens of a prompt at most."""
        return self.max_tokens or PretrainedModel(self.model).family.max_tokens

    def encode(self, value: Any) -> dict[str, Tensor]:
        return _opened(self).embed(str(value), self.room, self.truncate, self.seconds)

    def null(self) -> dict[str, Tensor]:
        return self.encode("")

    def describe(self) -> str:
        return f"a prompt of at most {self.room} tokens, for {self.model}"

    def resolve(self) -> dict[str, Any]:
        """What the config of a run is to record of the text encoder's files; nothing where its weights are not there yet."""
        folder = PretrainedModel(self.model).folder
        if not list(folder.glob("text_encoder*/*.safetensors")):
            return {}
        self.check(folder)
        return {"identity": fingerprint(_files(folder))}

    def check(self, folder: Path) -> None:
        """FlowgenError: the folder does not hold the text encoder that the run was trained with."""
        if self.identity is not None and (found := fingerprint(_files(folder))) != self.identity:
            raise FlowgenError(
                f"the text encoder in {folder} is not the one this run was trained with (identity {found}, expected "
                f"{self.identity}); give the folder of the same model under the name {self.model!r}"
            )


class _Prompts:
    """A text pipeline in memory, and the embeddings of the prompts it has read."""

    def __init__(self, model: PretrainedModel, precision: Precision, cache_mb: float) -> None:
        self.model, self.precision = model, precision
        self.kept: Kept[tuple[str, int, float | None], dict[str, Tensor]] = Kept(cache_mb * 1e6)

    @cached_property
    def pipeline(self) -> Any:
        pipeline = self.model.text_pipeline(DTYPES[self.precision])
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
        return pipeline.to(default_device())

    def embed(self, prompt: str, room: int, truncate: bool, seconds: float | None) -> dict[str, Tensor]:
        """The embedding, on the CPU. A prompt is read by itself, so that it is the same in every batch and on every rank."""
        longest = self.model.seconds()
        if seconds is not None and seconds > (longest or 0):
            most = "and it is told no length: leave it out" if longest is None else f"which makes {longest:g} at most"
            raise UsageError(f"conditions: seconds={seconds:g} of {self.model.name}, {most}")
        told = longest if seconds is None else seconds
        if (known := self.kept.get((prompt, room, told))) is not None:
            return known
        tokens = len(self.pipeline.components[self.model.family.tokenizer](prompt)["input_ids"])
        if tokens > room and not truncate:
            shown = prompt if len(prompt) <= 60 else prompt[:57] + "..."
            raise UsageError(
                f"a prompt of {tokens} tokens is longer than max_tokens={room}: {shown!r}; raise it, or set truncate"
            )
        with torch.inference_mode():
            states = self.model.family.embed(self.pipeline, prompt, room)
            if told is not None:
                states = self.model.family.timed(self.pipeline, states, told)
        states = tree_map(_plain, states)
        self.kept.put((prompt, room, told), states, sum(v.nbytes for v in leaves(states)))
        return states


def _plain(value: Tensor) -> Tensor:
    """A copy on the CPU that can be trained on, numbers in float32."""
    return (value.float() if value.is_floating_point() else value).cpu().clone()


@lru_cache(maxsize=16)
def _opened(condition: PromptCondition) -> _Prompts:
    model = PretrainedModel(condition.model)
    condition.check(model.folder)
    return _prompts(str(model.folder), condition.precision, condition.cache_mb)


@lru_cache(maxsize=2)
def _prompts(folder: str, precision: Precision, cache_mb: float) -> _Prompts:
    return _Prompts(PretrainedModel(folder), precision, cache_mb)


def _files(folder: Path) -> list[Path]:
    """What decides the embedding of a prompt."""
    parts = [part for kind in ("text_encoder", "tokenizer", "projection_model") for part in folder.glob(f"{kind}*")]
    return [file for part in sorted(parts) for file in sorted(part.iterdir()) if file.is_file()]
