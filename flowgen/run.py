"""The run folder: everything that describes a run and what came of it.

config.yaml                  the resolved config: the run can be repeated from it alone
sources.json                 where each value came from, and which packages were there
encoder.safetensors          what the encoder measured on the data set
checkpoints/step-00000500/   network.safetensors, ema.safetensors, optimizer/ (to resume), manifest.json
previews/  log.jsonl  tensorboard/  samples/  eval.json
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowgen.config import Config, load
from flowgen.encoder import Encoder
from flowgen.errors import FlowgenError, UsageError
from flowgen.files import replacing


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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file. FlowgenError: it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise FlowgenError(f"{path} is missing; use another checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise FlowgenError(f"cannot read {path}: {error}; the file is damaged, use another checkpoint") from None


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary)
        except SafetensorError as error:  # how it reports a full disk
            raise FlowgenError(f"cannot write {path}: {error}; choose another place or make room") from error


def write_json(value: Any, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load tensors into a module of exactly these names and shapes. FlowgenError says what differs."""
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{k} is {tuple(tensors[k].shape)}, not {tuple(own[k].shape)}"
        for k in own.keys() & tensors.keys()
        if own[k].shape != tensors[k].shape
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{len(own) - len(missing) - len(shapes)} of {len(own)} tensors match",
            *([f"missing: {_some(missing)}"] if missing else []),
            *([f"unexpected: {_some(unexpected)}"] if unexpected else []),
            *([f"other shapes: {_some(sorted(shapes))}"] if shapes else []),
        ]
        raise FlowgenError(f"the weights in {source} do not fit {type(module).__name__}: {'; '.join(parts)}")
    module.load_state_dict(dict(tensors))


def load_allowing(module: nn.Module, tensors: Mapping[str, Tensor], source: Path, allow: Sequence[str]) -> str:
    """Load tensors into a module; those whose names match a pattern of `allow` may be missing, unexpected or of another shape.

    Returns what matched and what did not. FlowgenError: something else differs, or a pattern matches nothing that does.
    """
    own = module.state_dict()
    differing = {
        "missing": own.keys() - tensors.keys(),
        "unexpected": tensors.keys() - own.keys(),
        "of another shape": {k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape},
    }
    every = set().union(*differing.values())
    for pattern in allow:
        if not fnmatch.filter(every, pattern):
            raise UsageError(
                f"--allow {pattern!r} matches nothing that differs between {source} and the network; leave it out"
            )
    let = {name for pattern in allow for name in fnmatch.filter(every, pattern)}
    kept = {k: v for k, v in own.items() if k in let}
    load_strictly(module, {**{k: v for k, v in tensors.items() if k not in let}, **kept}, source)
    report = [f"{len(own) - len(kept)} of {len(own)} tensors match" if every else f"all {len(own)} tensors match"]
    report += [f"{what}: {_some(sorted(names))}" for what, names in differing.items() if names]
    return "; ".join(report)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: Any) -> str:
    """hashlib.file_digest came with Python 3.11."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
