"""The folder of a pretrained pipeline, as `save_pretrained` of diffusers writes it: read, checked, loaded strictly."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowgen.errors import FlowgenError
from flowgen.media.pretrained import find, read_json, read_weights
from flowgen.weights import load_strictly
from flowgen_diffusers.family import Family, family_of


@dataclass(frozen=True)
class PretrainedModel:
    """A pipeline of diffusers on this machine. Nothing is downloaded (see `flowgen.media.pretrained`)."""

    name: str

    @cached_property
    def folder(self) -> Path:
        return find(self.name)

    @cached_property
    def index(self) -> dict[str, Any]:
        """model_index.json: the class of the pipeline, and of its components by name."""
        return read_json(self.folder / "model_index.json")

    @cached_property
    def family(self) -> Family:
        return family_of(self.index, self.folder / "model_index.json")

    @cached_property
    def pipeline_class(self) -> Any:
        return _diffusers_class(self.index["_class_name"], self.folder)

    def config(self, component: str) -> dict[str, Any]:
        return read_json(self.folder / component / "config.json")

    def transformer(self) -> nn.Module:
        """Its transformer with its weights, in float32. Without them on the meta device and among fake tensors.

        FlowgenError: weights do not match. ValueError: a variant that is not supported.
        """
        config = self.config("transformer")
        kind = _diffusers_class(config.get("_class_name"), self.folder / "transformer")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            network = kind.from_config(config)
        self.family.refuse(self.index, network.config)
        if not _pretended(next(network.parameters())):
            folder = self.folder / "transformer"
            load_strictly(network, read_weights(folder), folder)
        return nn.Module.train(network)

    @cached_property
    def scheduler_config(self) -> dict[str, Any]:
        return read_json(self.folder / "scheduler" / "scheduler_config.json")

    def scheduler(self) -> Any:
        """A new scheduler of the pipeline."""
        config = self.scheduler_config
        name = config.get("_class_name")
        return _diffusers_class(self.family.same_times.get(name, name), self.folder / "scheduler").from_config(config)

    def seconds(self) -> float | None:
        """The length of sound that it makes; None: it is told none."""
        return self.family.seconds(self.config("transformer"), self.config("vae"))

    def text_pipeline(self, dtype: torch.dtype) -> Any:
        """The pipeline with what reads prompts alone. FlowgenError: it cannot be loaded."""
        without: dict[str, Any] = dict.fromkeys({"transformer_2", "vae", "scheduler"} & self.index.keys())
        with torch.device("meta"):  # some pipelines read its config when they are made
            without["transformer"] = self.transformer()
        try:
            pipeline = self.pipeline_class.from_pretrained(
                str(self.folder), dtype=dtype, local_files_only=True, use_safetensors=True, **without
            )
        except (OSError, ValueError, ImportError) as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise FlowgenError(f"cannot load the text encoder of {self.folder}: {line}") from error
        pipeline.register_modules(transformer=None)
        return pipeline


def _pretended(tensor: torch.Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return tensor.is_meta or isinstance(tensor, FakeTensor)


def _diffusers_class(name: Any, where: Path) -> Any:
    import diffusers

    if not isinstance(name, str) or not hasattr(diffusers, name):
        raise FlowgenError(f"{where} is of {name!r}, which diffusers {diffusers.__version__} does not have")
    return getattr(diffusers, name)
