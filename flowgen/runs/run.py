"""The run folder: everything that describes a run and what came of it.

config.yaml                  the resolved config: the run can be repeated from it alone
sources.json                 where each value came from, and which packages were there
encoder.safetensors          what the encoder measured on the data set
checkpoints/step-00000500/   network.safetensors, ema.safetensors, optimizer/ (to resume), manifest.json
previews/  log.jsonl  tensorboard/  samples/  eval.json
.lock                        while it is being trained: by whom
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowgen.config import Config, load
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.encoder import Encoder
from flowgen.weights import load_strictly, read_tensors


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: it has a manifest, which is written last."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        path = self.folder / "manifest.json"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise FlowgenError(f"cannot read {path}: {error}; use another checkpoint") from None

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    def verify(self) -> None:
        """Compare every file with the size and checksum in the manifest. FlowgenError: one is damaged."""
        for name, entry in self.manifest["files"].items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise FlowgenError(
                    f"{path} is missing or truncated (expected {entry['bytes']} bytes); use another checkpoint"
                )
            if checksum(path) != entry["sha256"]:
                raise FlowgenError(
                    f"{path} is damaged: its checksum is not the one in the manifest; use another checkpoint"
                )

    def weights(self, which: str, suffix: str = "") -> dict[str, Tensor]:
        """Weights by name: "ema", "raw", or a further average such as "ema-0.1". FlowgenError: they cannot be read."""
        name = "network" if which == "raw" else which
        exported = self.manifest.get("exported")
        if exported is not None:
            if which not in ("ema", exported["weights"]):
                raise FlowgenError(
                    f"{self.folder} is an export of the weights {exported['weights']!r}, and has no {which!r}"
                )
            name = "weights"
        return read_tensors(self.folder / f"{name}{suffix}.safetensors")

    def load_weights(self, network: nn.Module, which: str, suffix: str = "") -> None:
        """Load weights strictly. `suffix` ".loss": those of the loss instead of the network."""
        load_strictly(network, self.weights(which, suffix), self.folder)


@dataclass(frozen=True)
class Run:
    folder: Path

    @property
    def checkpoints_folder(self) -> Path:
        return self.folder / "checkpoints"

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The resolved config of this run, with overrides. UsageError: the folder is no run."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            raise UsageError(
                f"{self.folder} is not a run folder: it has no config.yaml; train one with: flowgen train CONFIG"
            )
        return load(str(path), overrides).config

    def checkpoints(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        found = sorted(self.checkpoints_folder.glob("step-*/manifest.json"))
        return [Checkpoint(path.parent) for path in found]

    def newest_checkpoint(self) -> Checkpoint:
        """FlowgenError: there is none."""
        checkpoints = self.checkpoints()
        if not checkpoints:
            raise FlowgenError(
                f"{self.folder} has no checkpoint yet; train it with: flowgen train {self.folder} --resume"
            )
        return checkpoints[-1]

    def load_encoder(self, encoder: Encoder, checkpoint: Checkpoint) -> None:
        """Load what the encoder measured, and refuse an encoder the network was not trained with."""
        path = self.folder / "encoder.safetensors"
        if path.is_file():
            load_strictly(encoder, read_tensors(path), path)
        expected = checkpoint.manifest["encoder"]
        if encoder.identity != expected:
            raise FlowgenError(
                f"the encoder is not the one this run was trained with (identity {encoder.identity}, expected {expected}); "
                f"restore {path} and the encoder's plugin version"
            )


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: Any) -> str:
    """hashlib.file_digest came with Python 3.11."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
