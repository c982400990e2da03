"""Long clips from a server: how soon the first sound comes, how memory grows, and whether the joins can be found.

    python benchmarks/long_clips.py runs/demo/audio --seconds 60 --clips 4

The step of the wave at every join is divided by the largest step within 10 ms around it (the seam of
`flowgen eval --continue`), beside that at the same places of real clips and at places of the long clips that are no joins.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from flowgen.client import Client
from flowgen.data.loader import Order, clips_at
from flowgen.runs.generator import Generator
from flowgen.runs.windows import Windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clips", type=int, default=4)
    asked = parser.parse_args()
    generator = Generator.load(asked.run)
    modality: Any = generator.modality
    window = generator.lengths.window_s
    held_out = generator.experiment.dataset.validation()
    order = Order(0, len(held_out))
    real = [modality.cut(clip, 0, window) for clip in clips_at(held_out, 0, [order[i] for i in range(64)])]
    windows = Windows.after(generator, real[0])
    with tempfile.TemporaryDirectory() as folder:
        sounds = made(asked, Path(folder), modality)
    joins = np.arange(window, asked.seconds - 0.1, windows.new_s)
    between = joins[:-1] + windows.new_s / 2
    inside = np.linspace(0.2, window - 0.2, 8)
    rate = modality.sample_rate
    for name, values in (
        ("at joins", [seam(s, t, rate) for s in sounds for t in joins]),
        ("between joins", [seam(s, t, rate) for s in sounds for t in between]),
        ("real clips", [seam(clip.data[0].numpy(), t, rate) for clip in real for t in inside]),
    ):
        found = np.array([v for v in values if v is not None])
        low, middle, high = np.quantile(found, [0.05, 0.5, 0.95])
        over = float((found > 2).mean())
        print(
            f"seam {name:14} median {middle:.2f}, 5 to 95 % {low:.2f} to {high:.2f}, above 2: {over:.1%} ({len(found)} places)"
        )


def made(asked: Any, folder: Path, modality: Any) -> list[np.ndarray]:
    """The sounds of clips that a server streamed, with its times printed."""
    command = [
        sys.executable,
        "-m",
        "flowgen",
        "serve",
        str(asked.run.resolve()),
        "--port",
        "0",
        "--jobs",
        str(folder / "jobs"),
    ]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = ""
        while not url:
            found = re.search(r"http://[\d.]+:\d+", server.stderr.readline())  # type: ignore[union-attr]
            url = found.group() if found else ""
        client, process, sounds = Client(url), psutil.Process(server.pid), []
        client.wait(client.submit({})["id"])  # loaded and warm
        for seed in range(asked.clips):
            before, began = process.memory_info().rss, time.perf_counter()
            id = client.submit({"way": "long", "seconds": asked.seconds, "seed": seed})["id"]
            path, size, first = folder / f"{seed}.wav", 0, 0.0
            with path.open("wb") as file:
                for block in client.stream(id):
                    file.write(block)
                    size += len(block)
                    if not first and size > 2 * 0.1 * modality.sample_rate:
                        first = time.perf_counter() - began
            took, grown = time.perf_counter() - began, (process.memory_info().rss - before) / 1e6
            print(
                f"clip {seed}: first sound after {first:.2f} s, {asked.seconds:g} s made in {took:.1f} s, memory {grown:+.0f} MB"
            )
            client.fetch(client.wait(id)["files"][0], path)
            sounds.append(modality.read(path).data[0].numpy())
        return sounds
    finally:
        server.terminate()
        server.wait()


def seam(sound: np.ndarray, at_s: float, rate: int) -> float | None:
    """The step at a time in units of the largest one within 10 ms around it; None in silence."""
    at, around = round(at_s * rate), max(2, rate // 100)
    steps = np.abs(np.diff(sound[at - around : at + around]))
    others: Sequence[float] = np.concatenate([steps[: around - 1], steps[around:]])
    largest = float(np.max(others))
    return float(steps[around - 1]) / largest if largest > 1e-3 else None


if __name__ == "__main__":
    main()
