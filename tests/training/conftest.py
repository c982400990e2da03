"""Runs of a tiny generator, in this process and in several."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flowgen.config import Document, resolve
from flowgen.plugins import registry

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="session", autouse=True)
def tiny_plugin() -> Iterator[dict[str, str]]:
    """Installs the plugin for this process, and gives the environment in which others find it."""
    sys.path.insert(0, str(PLUGIN))
    registry.cache_clear()
    yield {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "FLOWGEN_DISABLE": "audio,points,video",
    }
    sys.path.remove(str(PLUGIN))
    registry.cache_clear()


def _tiny(folder: Path | str, deepspeed: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    """A config: 20 steps of 8 clips, logged every step. `data`, `network` and other sections by name; the rest is `train`."""
    sections = {k: train.pop(k) for k in ("modality", "data", "network", "loss", "sample", "loggers") if k in train}
    defaults: dict[str, Any] = {
        "steps": 20,
        "batch_size": 8,
        "log_every": 1,
        "optimizer": {"lr": 1e-2, "weight_decay": 0.01},
        "schedule": {"warmup": 4, "decay": "constant"},
        "ema": {"decay": 0.9},
        "checkpoint": {"every": 10},
        "validation": {"every": 0},
        "preview": {"every": 0},
    }
    return {
        "name": "tiny",
        "run": str(folder),
        "modality": "tiny",
        "data": "tiny",
        "encoder": "tiny",
        "network": "tiny-blocks",
        "loggers": ["jsonl"],
        "deepspeed": deepspeed or {},
        "train": {**defaults, **train},
        **sections,
    }


@pytest.fixture(scope="session")
def tiny() -> Callable[..., dict[str, Any]]:
    """Makes configs: see `_tiny`."""
    return _tiny


@pytest.fixture
def fit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Train a config (as `tiny` makes it) in this process; returns the Result."""

    def run(config: dict[str, Any], **options: Any) -> Any:
        from flowgen.training.trainer import train

        return train(resolve(Document(config)), console=Console(stderr=True, no_color=True), **options)

    return run
