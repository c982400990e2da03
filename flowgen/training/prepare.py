"""Before the first step: the run folder, the encoder's statistics, and checks that what goes in makes sense."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flowgen.config import Config, Resolved, dumps, in_force
from flowgen.core.tree import leaves, tree_map
from flowgen.data.loader import Order, clips_at
from flowgen.data.order import has_buckets
from flowgen.errors import FlowgenError, UsageError
from flowgen.files import replacing, write_json
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder
from flowgen.media.interfaces import Dataset, Fingerprinted
from flowgen.plugins import registry
from flowgen.runs.run import Run
from flowgen.training.deepspeed_config import user_config
from flowgen.training.same_data import ALLOW, changes
from flowgen.weights import write_tensors

FIT_CLIPS = 256
_MAY_CHANGE = ("run", "sample", "eval", "loggers")
_MAY_CHANGE_IN_TRAIN = (
    "log_every",
    "workers",
    "checkpoint",
    "validation",
    "preview",
    "max_skipped",
    "micro_batch_size",
    "activation_checkpointing",
    "sequence_parallel",
    "compile",
    "timeout_s",
    "watchdog_s",
)
_PRECISION = ("bf16", "communication_data_type", "data_types", "fp16", "torch_autocast")
"""Of the DeepSpeed config; the rest says where things lie, not what they are."""


def run_folder(config: Config) -> Path:
    return Path(config.run or f"runs/{config.name}")


def refuse_existing(run: Run) -> None:
    """A run that has begun is continued or left alone, never overwritten."""
    if run.checkpoints():
        raise UsageError(
            f"{run.folder} holds a run at step {run.newest_checkpoint().step}; continue it with --resume, "
            f"or choose another folder with run={run.folder}-2"
        )


def refuse_changes(run: Run, config: Config, dataset: Dataset | None = None, allow_data: bool = False) -> None:
    """A resumed run is the run that was begun: whatever bears on its result must be as it was.

    Data may lie elsewhere than they did, as far as it is known that they are the same. UsageError: something differs.
    """
    found = changes(run.folder, dataset) if dataset is not None else None
    if found and not allow_data:
        raise UsageError(
            f"--resume continues {run.folder} exactly, but its data have changed since it began: {found}; put them back, start "
            f"a new run from its weights with --init-from {run.folder}, or go on with other data by --resume --allow {ALLOW}"
        )
    changed = config_changes(run, config, dataset, found)
    if any(change.startswith("train.steps ") for change in changed):
        raise UsageError(
            f"--resume cannot change train.steps where the learning rate decays over them "
            f"(train.schedule.decay={config.train.schedule.decay}); resume without it, then go on with --init-from {run.folder}, "
            f"or train with train.schedule.decay=constant, which can be prolonged"
        )
    if changed:
        raise UsageError(
            f"--resume continues {run.folder} exactly, but the config differs from its own in {'; '.join(changed)}; "
            f"resume without these, or start a new run from its weights with --init-from {run.folder}"
        )


def config_changes(run: Run, config: Config, dataset: Dataset | None, found: str | None) -> list[str]:
    """What of a config differs from that of a run and bears on its result.

    Args:
        found: what `changes` says of the data; None where it is not known that they are the same.
    """
    places: dict[str, str] = dataset.places if isinstance(dataset, Fingerprinted) else {}

    def essence(config: Config) -> dict[str, Any]:
        values = config.model_dump(mode="json", exclude=set(_MAY_CHANGE))
        for key in _MAY_CHANGE_IN_TRAIN:
            del values["train"][key]
        values["deepspeed"] = {k: v for k, v in user_config(config).items() if k in _PRECISION}
        for name in places:
            written = values["data"].pop(name, None)
            if found is None and written is not None:
                values["data"][name] = os.path.abspath(os.path.expanduser(written))
        # it may lie elsewhere; that it serves the config is found out when it is opened
        values["train"]["cache"] = values["train"]["cache"] is not None
        if config.train.schedule.decay == "constant":
            del values["train"]["steps"]  # no step before the end depends on where it is
        return values

    return sorted(_differences(essence(run.config()), essence(config)))


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in old.keys() | new.keys():
            found += _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if old == new else [f"{key} ({old!r} -> {new!r})"]


def sample_clips(dataset: Dataset, seed: int, count: int, alike: bool = False) -> list[Clip]:
    """The first clips of the run's order, for measuring; alike: of them, those in the bucket of the first."""
    order = Order(seed, len(dataset))
    places = [order[i] for i in range(min(count, len(dataset)))]
    if alike and has_buckets(dataset):
        places = [p for p in places if dataset.bucket_of(p.index) == dataset.bucket_of(places[0].index)]
    return clips_at(dataset, seed, places)


def check_encoder(encoder: Encoder, clips: Sequence[Clip]) -> str:
    """Encode and decode real clips; FlowgenError if the latents could not be learned from. Returns a line about them."""
    latents = encoder.encode(clips)
    decoded = encoder.decode(latents)
    lines = []
    pairs = tree_map(lambda x, mask: (x, x if mask is None else x[mask]), latents.x, latents.mask)
    for leaf, real in leaves(pairs):
        shape = tuple(leaf.shape[1:])
        if not real.numel():
            lines.append(f"{shape} in none of the first {len(clips)} clips")
            continue
        mean, std = float(real.mean()), float(real.std())
        if not torch.isfinite(real).all() or not 0.02 < std < 50 or abs(mean) > 20:
            raise FlowgenError(
                f"the encoder makes latents of mean {mean:.3g} and deviation {std:.3g} from real clips such as "
                f"{clips[0].source or 'the first'}; a flow needs finite values of about unit variance: check its options and weights"
            )
        lines.append(f"{shape} mean {mean:.2f} deviation {std:.2f}")
    if len(decoded) != len(clips):
        raise FlowgenError(f"the encoder decoded {len(decoded)} clips of {len(clips)}")
    return ", ".join(lines)


def write_config(run: Run, config: Config) -> None:
    with replacing(run.folder / "config.yaml") as path:
        path.write_text(dumps(in_force(config)))


def write_run(run: Run, config: Config, resolved: Resolved, encoder: Encoder) -> None:
    """Begin the run folder. FlowgenError: it cannot be written."""
    write_config(run, config)
    write_json(
        {
            "command": sys.argv,
            "sources": {".".join(map(str, k)): v for k, v in resolved.document.sources.items()},
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in ("flowgen", "torch", "deepspeed", "numpy")},
            "plugins": {p.name: f"{p.distribution} {p.version}".strip() for p in registry().plugins.values()},
        },
        run.folder / "sources.json",
    )
    state = encoder.state_dict()
    if state:
        write_tensors(state, run.folder / "encoder.safetensors")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
