"""What the tests of the large recipes share: a command, and small data and models in place of the large ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from click.testing import CliRunner

from flowgen.cli import cli

CAPTIONS = ("a dog barks", "rain on a roof", "a bell", "a door")
SMALL = (
    "network.width=32",
    "network.depth=2",
    "network.heads=2",
    "train.steps=3",
    "train.batch_size=4",
    "train.micro_batch_size=2",
    "train.workers=0",
    "train.log_every=1",
    "train.checkpoint.every=3",
    "train.validation={every: 3, clips: 2}",
    "train.preview={every: 3, clips: 1}",
    "sample.steps=2",
)


def flowgen(*arguments: object) -> str:
    """A command of flowgen in this process; what it printed."""
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def manifest(folder: Path, names: list[str]) -> Path:
    path = folder / "list.jsonl"
    rows = [{"file": n, "text": CAPTIONS[i % 4], "caption": CAPTIONS[i % 4]} for i, n in enumerate(names)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sounds(folder: Path, rate: int, channels: int, seconds: list[float]) -> Path:
    """A manifest of noises."""
    import soundfile

    g = torch.Generator().manual_seed(0)
    names = []
    for i, s in enumerate(seconds):
        names.append(f"{i:03d}.wav")
        soundfile.write(folder / names[-1], 0.1 * torch.randn(round(s * rate), channels, generator=g).numpy(), rate)
    return manifest(folder, names)
