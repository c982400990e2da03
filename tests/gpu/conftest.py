"""What runs on an accelerator, on whatever kind torch has here; on a machine without one, the same bodies in a few steps on the CPU.

pytest -m gpu tests/gpu
"""

from __future__ import annotations

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when the accelerator is first used

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from flowgen.config import Resolved, load
from flowgen.device import accelerator, default_device


@dataclass(frozen=True)
class Place:
    """Where a test computes, and for how many steps it can afford to train there."""

    device: torch.device
    steps: int

    @property
    def accelerated(self) -> bool:
        return self.device.type != "cpu"


@pytest.fixture(params=[pytest.param("accelerator", marks=pytest.mark.gpu), "cpu"])
def place(request: pytest.FixtureRequest) -> Place:
    """The accelerator and 20 steps; on a machine without one the CPU and 4."""
    if (request.param == "accelerator") != (accelerator() is not None):
        # DeepSpeed takes one kind of device for the whole process, so there is no CPU beside an accelerator
        pytest.skip("torch sees no accelerator" if request.param == "accelerator" else "the accelerator is tried")
    return Place(default_device(), 20 if request.param == "accelerator" else 4)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Kernels that add in one order: attention's backward pass on an accelerator does not by itself."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


QUIET = (
    "train.validation.every=0",
    "train.preview.every=0",
    "train.log_every=1",
    "train.schedule={warmup: 4, decay: constant}",
    "loggers=[jsonl]",
)
TRANSFORMER = ("network.width=64", "network.depth=2", "network.heads=2")


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Resolved]:
    """A recipe with a network of two blocks, which trains in `run` for some steps of 8 clips."""

    def make(recipe: str, steps: int, *overrides: str, run: str = "run") -> Resolved:
        own = ("network.width=64",) if recipe.startswith("points/") else TRANSFORMER
        where = (f"run={tmp_path / run}", f"train.steps={steps}", "train.batch_size=8", "sample.steps=2")
        return load(recipe, [*where, *own, *QUIET, *overrides])

    return make


@pytest.fixture
def fit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Train in this process; the Result."""

    def run(resolved: Resolved, **options: Any) -> Any:
        from flowgen.training.trainer import train

        return train(resolved, console=Console(stderr=True, no_color=True), **options)

    return run
