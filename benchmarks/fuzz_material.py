"""What the inputs of benchmarks/fuzz.py are made from: recipes, keys, commands, small files and runs, made once a process."""

from __future__ import annotations

import functools
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import click
import numpy as np
import soundfile
import torch
from PIL import Image

from flowgen.cli import cli
from flowgen.config import dumps, in_force, load, recipes
from flowgen.data.order import Order
from flowgen.runs.experiment import Experiment
from flowgen.runs.run import checksum
from flowgen.weights import write_tensors

NOTES = """
name: notes
modality: {type: audio, sample_rate: 8000, duration_s: 0.25}
data: notes
encoder: {type: spectrogram, window: 256, hop: 64, iterations: 1}
network: {type: transformer, width: 16, depth: 1, heads: 1, patch: [3]}
sample: {steps: 1, solver: euler}
train: {steps: 2, batch_size: 4}
"""
BOARD = """
name: board
modality: points
data: checkerboard
encoder: points
network: {type: mlp, width: 8, depth: 1}
sample: {steps: 2, solver: euler}
train: {steps: 2, batch_size: 4}
"""


@functools.cache
def workshop() -> Path:
    """What inputs are made from; once a process."""
    return Path(tempfile.mkdtemp(prefix="flowgen-fuzz-"))


@functools.cache
def recipe_texts() -> list[str]:
    return [path.read_text() for path in recipes().values()]


@functools.cache
def key_lists() -> list[tuple[str, list[str]]]:
    found = []
    for name in recipes():
        try:
            found.append((name, [key for key, _, _ in load(name).rows()]))
        except Exception:  # a recipe that needs a file
            continue
    return found


@functools.cache
def commands() -> list[tuple[tuple[str, ...], click.Command]]:
    """All commands by their words, but for those that run for minutes."""
    context = click.Context(cli)

    def walk(group: click.Group, words: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
        found: list[tuple[tuple[str, ...], click.Command]] = []
        for name in group.list_commands(context):
            one = group.get_command(context, name)
            if isinstance(one, click.Group):
                found += walk(one, (*words, name))
            elif one is not None and (*words, name) not in (("demo",), ("plugins", "new"), ("plugins", "check")):
                found.append(((*words, name), one))
        return found

    return walk(cli, ())


@functools.cache
def sound() -> dict[str, bytes]:
    wave = 0.3 * np.sin(np.arange(2400) * 0.2)
    found = {}
    for name in ("a.wav", "b.wav", "c.flac"):
        file = io.BytesIO()
        soundfile.write(file, wave, 8000, format=name.rpartition(".")[2])
        found[name] = file.getvalue()
    return found


def sounds(box: Path) -> None:
    for name, data in sound().items():
        (box / name).write_bytes(data)


@functools.cache
def media_files() -> list[tuple[str, bytes]]:
    """Small files of every kind that is read."""
    place = workshop()
    wave = 0.3 * np.sin(np.arange(4000) * 0.2)
    for name in ("a.wav", "a.flac", "a.ogg", "a.aiff", "a.mp3"):
        soundfile.write(place / name, wave, 8000)
    pictures = [Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)) for i in range(6)]
    for suffix in ("png", "jpg", "webp", "bmp", "tiff"):
        pictures[3].save(place / f"p.{suffix}")
    with zipfile.ZipFile(place / "m.zip", "w") as archive:
        for i in range(3):
            archive.write(place / "p.png", f"{i}.png")
    pictures[0].save(place / "m.gif", save_all=True, append_images=pictures[1:], duration=100)
    for suffix, codec in (("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")):
        with av.open(str(place / f"m.{suffix}"), "w") as container:
            stream: Any = container.add_stream(codec, rate=8)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode())
    return [(p.name, p.read_bytes()) for p in sorted(place.iterdir()) if p.is_file()]


@functools.cache
def runs() -> list[Path]:
    return [untrained(BOARD), untrained(NOTES)]


def untrained(text: str) -> Path:
    """A run folder as training leaves it, with the first weights."""
    folder = Path(tempfile.mkdtemp(dir=workshop()))
    (folder / "c.yaml").write_text(text)
    experiment = Experiment(load(str(folder / "c.yaml")).config).complete()
    order = Order(0, len(experiment.dataset))
    experiment.encoder.fit([experiment.dataset.clip(order[i].index, 0) for i in range(8)])
    place = folder / "run" / "checkpoints" / "step-00000002"
    place.mkdir(parents=True)
    (folder / "run" / "config.yaml").write_text(dumps(in_force(experiment.config)))
    if state := experiment.encoder.state_dict():
        write_tensors(state, folder / "run" / "encoder.safetensors")
    weights = {k: torch.zeros_like(v) for k, v in experiment.network.state_dict().items()}
    for name in ("network", "ema"):
        write_tensors(weights, place / f"{name}.safetensors")
    (folder / "run" / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    row = {"metric": "m", "name": "distance", "generated": 1.0, "round_trip": None, "real": 0.5}
    (folder / "run" / "eval.json").write_text(json.dumps({"step": 2, "clips": 4, "figures": [row]}))
    (place / "manifest.json").write_text(
        json.dumps(
            {
                "step": 2,
                "name": experiment.config.name,
                "encoder": experiment.encoder.identity,
                **{"ranks": 1, "zero_stage": 0},
                "trainer": {"skipped_in_a_row": 0, "figures": [{"sums": {}, "norms": [], "skipped": 0}], "parts": 1},
                "files": {
                    p.name: {"bytes": p.stat().st_size, "sha256": checksum(p)} for p in place.glob("*.safetensors")
                },
            }
        )
    )
    return folder / "run"


def warm(names: Sequence[str]) -> None:
    """Make what the inputs of these families are made from, so that no input pays for it."""
    for name, makers in {
        "config": (recipe_texts,),
        "override": (key_lists,),
        "media": (media_files,),
        "run folder": (runs,),
        "command line": (runs, commands),
    }.items():
        for make in makers if name in names else ():
            make()


def clean() -> None:
    shutil.rmtree(workshop(), ignore_errors=True)
