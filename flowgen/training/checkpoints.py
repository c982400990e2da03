"""Checkpoints: written aside, completed by a manifest, renamed, rotated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flowgen.errors import FlowgenError
from flowgen.files import errors_named
from flowgen.run import Checkpoint, Run, checksum, write_json, write_tensors
from flowgen.training.ema import ShardedEMA, gather
from flowgen.training.engine import Ranks, barrier

_ENGINE = "deepspeed"
_PREFIX = "network."


def network_weights(engine: Any, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and buffers of the network alone, by their names in it."""
    buffers = {name: b for name, b in engine.module.named_buffers() if name in engine.module.state_dict()}
    everything = {**parameters, **buffers}
    return {name.removeprefix(_PREFIX): t for name, t in everything.items() if name.startswith(_PREFIX)}


def save_checkpoint(
    run: Run, engine: Any, ema: ShardedEMA, ranks: Ranks, step: int, facts: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint of this step, and remove those beyond the newest `keep`. All ranks must call it.

    A reader sees it whole or not at all: it is renamed into place after its manifest is on the disk.
    """
    final = run.checkpoints_folder / f"step-{step:08d}"
    if (final / "manifest.json").is_file():
        return final
    partial = final.with_name(f".{final.name}.partial")
    if ranks.first:
        with errors_named(partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    barrier(ranks)
    with errors_named(partial):
        engine.save_checkpoint(str(partial), tag=_ENGINE, save_latest=False)
    raw, averaged = gather(engine), ema.gather()
    if ranks.first:
        write_tensors(network_weights(engine, raw), partial / "network.safetensors")
        write_tensors(network_weights(engine, averaged), partial / "ema.safetensors")
        extra = {k: v for k, v in averaged.items() if not k.startswith(_PREFIX)}
        if extra:  # parameters of the loss itself
            write_tensors(extra, partial / "ema_loss.safetensors")
        files = {
            str(p.relative_to(partial)): {"bytes": p.stat().st_size, "sha256": checksum(p)}
            for p in sorted(partial.rglob("*"))
            if p.is_file()
        }
        write_json({"step": step, **facts, "files": files}, partial / "manifest.json")
        with errors_named(final):
            os.replace(partial, final)
        for old in run.checkpoints()[:-keep]:
            shutil.rmtree(old.folder)
    barrier(ranks)
    return final


def load_checkpoint(checkpoint: Checkpoint, engine: Any, ema: ShardedEMA, ranks: Ranks) -> int:
    """Continue exactly from a checkpoint; returns its step. FlowgenError: damaged, or made by another number of ranks."""
    made = checkpoint.manifest["ranks"]
    if made != ranks.count:
        raise FlowgenError(
            f"{checkpoint.folder} was made by {made} ranks and this run has {ranks.count}; "
            f"resume with {made} ranks, or start anew from its weights with --init-from"
        )
    if ranks.first:
        checkpoint.verify()
    barrier(ranks)
    loaded, _ = engine.load_checkpoint(str(checkpoint.folder), tag=_ENGINE)
    if loaded is None:
        raise FlowgenError(f"DeepSpeed could not load its state from {checkpoint.folder}; use another checkpoint")
    averaged = {_PREFIX + name: t for name, t in checkpoint.weights("ema").items()}
    if (checkpoint.folder / "ema_loss.safetensors").is_file():
        from flowgen.run import read_tensors

        averaged |= read_tensors(checkpoint.folder / "ema_loss.safetensors")
    ema.load(averaged)
    return checkpoint.step
