"""The run folder: everything that describes a run and what came of it.

config.yaml                  the resolved config: the run can be repeated from it alone
sources.json                 where each value came from, and which packages were there
encoder.safetensors          what the encoder measured on the data set
levels.json                  how loud the training clips are, for media that are heard
base.json                    how far the quantised base of an adapter is off
checkpoints/step-00000500/   network.safetensors, ema.safetensors, optimizer/ (to resume), manifest.json
previews/  log.jsonl  tensorboard/  samples/  eval.json
.lock                        while it is being trained: by whom
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowgen.config import Config, load
from flowgen.errors import FlowgenError, UsageError
from flowgen.files import refuse_links_out
from flowgen.media.encoder import Encoder
from flowgen.media.interfaces import HadOtherDefaults
from flowgen.runs.manifest import read_manifest
from flowgen.weights import load_strictly, read_tensors


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: it has a manifest, which is written last."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What `flowgen.runs.manifest` describes. FlowgenError: it cannot be read, or says something else."""
        return read_manifest(self.folder / "manifest.json")

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    def verify(self) -> None:
        """Compare every file with the size and checksum in the manifest. FlowgenError: one is damaged."""
        for name in self.manifest["files"]:
            self._verify(name)

    def _verify(self, name: str) -> None:
        path, entry = self.folder / name, self.manifest["files"].get(name)
        if entry is None:
            raise FlowgenError(f"{path} is not among the files that manifest.json lists; use another checkpoint")
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise FlowgenError(
                f"{path} is missing or truncated (expected {entry['bytes']} bytes); use another checkpoint"
            )
        if checksum(path) != entry["sha256"]:
            raise FlowgenError(
                f"{path} is damaged: its checksum is not the one in the manifest; use another checkpoint"
            )

    def weights(self, which: str, suffix: str = "") -> dict[str, Tensor]:
        """Weights by name: "ema", "raw", or a further average such as "ema-0.1", as they were written.

        FlowgenError: they cannot be read, or their size or checksum is not that of the manifest.
        """
        name = "network" if which == "raw" else which
        exported = self.manifest.get("exported")
        if exported is not None:
            if which not in ("ema", exported["weights"]):
                raise FlowgenError(
                    f"{self.folder} is an export of the weights {exported['weights']!r}, and has no {which!r}"
                )
            name = "weights"
        file = f"{name}{suffix}.safetensors"
        if (self.folder / file).exists():  # else its reader says what is missing
            self._verify(file)
        return read_tensors(self.folder / file)

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
        """The resolved config of this run, with overrides. UsageError: the folder is no run, or a link in it leads out of it."""
        path = self.folder / "config.yaml"
        if not os.path.isfile(path):  # a name may be too long to be asked about
            raise UsageError(
                f"{self.folder} is not a run folder: it has no config.yaml; train one with: flowgen train CONFIG"
            )
        # wandb keeps logs of its own beside those of a run, and links to them
        refuse_links_out(self.folder, but="wandb/*run-*/logs/*")
        return load(str(path), overrides).config

    def checkpoints(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        found = [path.parent for path in self._in_checkpoints("step-*/manifest.json")]
        return [Checkpoint(folder) for folder in sorted(found, key=lambda f: (len(f.name), f.name))]

    def _in_checkpoints(self, pattern: str) -> list[Path]:
        """What is in the folder of checkpoints; nothing where there is none, or could be none of this name."""
        return list(self.checkpoints_folder.glob(pattern)) if os.path.isdir(self.checkpoints_folder) else []

    def newest_checkpoint(self) -> Checkpoint:
        """The newest that is complete; one without a manifest is named in a warning. FlowgenError: there is none."""
        checkpoints = self.checkpoints()
        newest = checkpoints[-1].folder.name if checkpoints else ""
        for other in self._in_checkpoints("step-*"):
            if (len(other.name), other.name) > (len(newest), newest):
                warnings.warn(f"{other} has no manifest.json, so it is not whole, and is passed over", stacklevel=2)
        if not checkpoints:
            raise FlowgenError(
                f"{self.folder} has no checkpoint yet; train it with: flowgen train {self.folder} --resume"
            )
        return checkpoints[-1]

    def checkpoint_at(self, step: int) -> Checkpoint:
        """The checkpoint of a step. UsageError names those that are there."""
        there = {checkpoint.step: checkpoint for checkpoint in self.checkpoints()}
        if step not in there:
            raise UsageError(
                f"{self.folder} has no checkpoint of step {step} (kept: {', '.join(map(str, there)) or 'none'})"
            )
        return there[step]

    def read_newest(self, read: Callable[[Checkpoint], None]) -> Checkpoint:
        """The newest checkpoint, read; a later one where training removes it meanwhile. FlowgenError: as `newest_checkpoint`, or `read`."""
        while True:
            checkpoint = self.newest_checkpoint()
            try:
                read(checkpoint)
            except FlowgenError:
                if checkpoint.folder.is_dir() or not self.checkpoints():
                    raise
            else:
                return checkpoint

    def refuse_earlier(self, encoder: Encoder) -> None:
        """FlowgenError: the run was trained by an earlier version, with a default of the encoder that is another one now."""
        path = self.folder / "encoder.safetensors"
        if not isinstance(encoder, HadOtherDefaults) or not path.is_file():
            return
        if option := encoder.earlier(read_tensors(path)):
            raise FlowgenError(
                f"{self.folder} was trained by an earlier flowgen, whose encoder had another default; write {option!r} in the "
                f"encoder section of {self.folder / 'config.yaml'}"
            )

    def load_encoder(self, encoder: Encoder, checkpoint: Checkpoint) -> None:
        """Load what the encoder measured, and refuse an encoder the network was not trained with."""
        path = self.folder / "encoder.safetensors"
        if path.is_file():
            self.refuse_earlier(encoder)
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
