"""The large recipe of sound with picture, shrunken, from a table to samples in every direction, on models made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from flowgen_av.modality import AudioVideo
from flowgen_video.writing import write_frames

from flowgen.testing.models import autoencoder, text_encoder
from tests.large_recipes import CAPTIONS, SMALL, flowgen

MEDIUM = AudioVideo(fps=25, frames=17, height=32, width=32, sample_rate=44100, sound_channels=2)


@pytest.mark.slow
def test_talking_large_makes_either_from_the_other(tmp_path: Path) -> None:
    autoencoder(tmp_path / "picture", "AutoencoderKLLTXVideo")
    autoencoder(tmp_path / "sound", "AutoencoderOobleck")
    for name in ("t5", "byt5"):
        text_encoder(tmp_path / name, "t5")
    g = torch.Generator().manual_seed(0)
    rows = []
    for i in range(12):
        frames = torch.randint(0, 256, (17, 32, 32, 3), generator=g, dtype=torch.uint8)
        sound = None if i == 3 else (0.1 * torch.randn(2, 29_988, generator=g), 44100)
        write_frames(frames, 25.0, tmp_path / f"{i:02d}.mp4", {}, sound=sound)
        rows.append({"file": f"{i:02d}.mp4", "caption": CAPTIONS[i % 4], "speech": "good evening"})
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [
        f"data.manifest={tmp_path}/clips.jsonl",
        "data.held_out=0.4",
        "modality={type: av, fps: 25, frames: 17, height: 32, width: 32, sample_rate: 44100, sound_channels: 2}",
        f"encoder.encoders.picture={{type: video-autoencoder, model: {tmp_path}/picture}}",
        f"encoder.encoders.sound={{type: audio-autoencoder, model: {tmp_path}/sound}}",
        f"conditions.caption={{type: text-encoder, model: {tmp_path}/t5}}",
        f"conditions.speech={{type: text-encoder, model: {tmp_path}/byt5}}",
        "known=[{type: whole, probability: 0.3, stream: picture}, {type: whole, probability: 0.3, stream: sound}]",
        "eval.clips=4",
        "deepspeed={}",
    ]
    run = tmp_path / "run"
    flowgen("train", "av/talking-large", f"run={run}", *SMALL, *own)
    flowgen("sample", run, "-c", "caption=a bell", "-c", "speech=good evening", "-o", tmp_path / "both.mp4")
    both = MEDIUM.read(tmp_path / "both.mp4").data
    assert (len(both["picture"]), both["sound"].shape) == (17, (2, 29_988))  # type: ignore[arg-type, index]
    for stream in ("picture", "sound"):
        out = tmp_path / f"from-{stream}.mp4"
        flowgen("sample", run, "--given", f"{stream}={tmp_path}/both.mp4", "-c", "caption=a bell", "-o", out)
        made, given = (MEDIUM.read(path).data[stream].double().flatten() for path in (out, tmp_path / "both.mp4"))  # type: ignore[index]
        alike = float(torch.corrcoef(torch.stack([made, given]))[0, 1])
        assert alike > 0.8, (stream, alike)  # a codec of noise, twice
