"""flowgen record-doom: video files with synchronised sound, any number of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

if TYPE_CHECKING:
    from flowgen_doom.game import Played

SCENARIOS = ("basic", "defend_the_center", "health_gathering", "deadly_corridor")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-n", "count", type=click.IntRange(min=1), default=20, show_default=True, help="Clips to record.")
@click.option("--scenario", type=click.Choice(SCENARIOS), default="defend_the_center", show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(min=0.1, max=10), default=2.0, show_default=True, help="Length of each."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed records the same clips.")
def record_doom(folder: Path, count: int, scenario: str, seconds: float, seed: int) -> None:
    """Record clips of Doom into FOLDER: mp4 with sound (35 frames a second, 160x120), and a manifest.jsonl.

    Each clip is one action held throughout; the manifest says which, so that the folder is a data set.

    \b
    Example:
      flowgen record-doom data/doom -n 200 --scenario basic
    """
    from flowgen.core.random import seed_of
    from flowgen.files import errors_named, replacing
    from flowgen_doom.game import TICS, Scenario, actions, play

    assert set(get_args(Scenario)) == set(SCENARIOS)
    with errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = actions(scenario)  # type: ignore[arg-type]
    lines = []
    for i in range(count):
        action = names[i % len(names)]
        played = play(scenario, action, round(seconds * TICS), seed_of("recording", seed, i))  # type: ignore[arg-type]
        path = folder / f"{scenario}-{i:05d}.mp4"
        with replacing(path) as temporary:
            write_av(played, temporary)
        caption = f"{action} in {scenario.replace('_', ' ')}"
        lines.append(json.dumps({"file": path.name, "label": action, "scenario": scenario, "caption": caption}))
    with replacing(folder / "manifest.jsonl") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    click.echo(f"{count} clips of {seconds:g} s in {folder}")


def write_av(played: Played, path: Path) -> None:
    """An mp4 of H.264 and AAC; both begin at 0."""
    import av
    import numpy as np

    from flowgen_doom.game import RATE, TICS

    with av.open(str(path.absolute()), "w", format="mp4") as file:
        video = file.add_stream("libx264", rate=TICS, options={"crf": "16"})
        video.height, video.width, video.pix_fmt = *played.pictures.shape[1:3], "yuv420p"
        sound = file.add_stream("aac", rate=RATE, layout="stereo")
        frames = [av.VideoFrame.from_ndarray(np.ascontiguousarray(p), format="rgb24") for p in played.pictures]
        for i, frame in enumerate(frames):
            frame.pts = i
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        heard = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(played.sound).reshape(1, -1), format="s16", layout="stereo"
        )
        heard.sample_rate, heard.pts = RATE, 0
        file.mux(sound.encode(heard))
        file.mux(sound.encode(None))
