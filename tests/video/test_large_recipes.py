"""The large recipe of video, shrunken, from a manifest to samples, on models made here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from flowgen_video.modality import Video
from flowgen_video.writing import write_frames

from flowgen.errors import UsageError
from flowgen.testing.models import autoencoder, text_encoder
from tests.large_recipes import SMALL, flowgen, manifest


@pytest.mark.slow
def test_text_to_video_large_reads_captions_and_animates_a_frame(tmp_path: Path) -> None:
    run = tmp_path / "run"
    autoencoder(tmp_path / "vae", "AutoencoderKLLTXVideo")
    text_encoder(tmp_path / "t5", "t5")
    g = torch.Generator().manual_seed(0)
    names = []
    for i in range(12):
        names.append(f"{i:02d}.mp4")
        size = (32, 24) if i % 3 else (24, 32)
        frames = torch.randint(0, 256, (9, *size, 3), generator=g, dtype=torch.uint8)
        write_frames(frames, 24.0, tmp_path / names[-1], {})
    own = [
        f"data.manifest={manifest(tmp_path, names)}",
        f"encoder.model={tmp_path}/vae",
        f"conditions.caption.model={tmp_path}/t5",
        "conditions.caption.precision=float32",
        "encoder.precision=float32",
        "modality={type: video, fps: 24, frames: 9, height: 32, width: 24}",
        "data.buckets=[9x32x24, 9x24x32]",
        "data.held_out=0.4",
        "known=[{type: prefix, probability: 0.5, low: 0.01, high: 0.2}]",
        "deepspeed={}",
    ]
    flowgen("train", "video/text-to-video-large", f"run={run}", *SMALL, *own)
    out, first = tmp_path / "out.mp4", tmp_path / "first.png"
    flowgen("sample", run, "--prompt", "a red fox", "-o", out)
    video = Video(fps=24, frames=9, height=32, width=24)
    assert len(video.read(out).data) == 9
    from PIL import Image

    Image.new("RGB", (24, 32), (200, 30, 30)).save(first)
    flowgen("sample", run, "--first-frame", first, "--prompt", "it looks up", "-o", out, "--force")
    assert len(video.read(out).data) == 9
    flowgen("sample", run, "--seconds", 5 / 24, "-o", out, "--force")
    assert len(video.read(out).data) == 5
    flowgen("sample", run, "--seconds", 8 / 24, "-o", out, "--force")  # 9 are made, as the autoencoder wants 1 + k x 2
    assert len(video.read(out).data) == 8


def test_the_recipe_is_planned_without_weights_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "video/text-to-video-large"
    monkeypatch.setenv("FLOWGEN_MODELS", str(tmp_path))
    with pytest.raises(UsageError, match="there is no model 'google/t5-v1_1-xxl'"):
        flowgen("plan", name)
    vae = autoencoder(tmp_path / "Lightricks/LTX-Video/vae", "AutoencoderKLLTXVideo")
    t5 = text_encoder(tmp_path / "google/t5-v1_1-xxl", "t5")
    for weights in (*vae.glob("*.safetensors"), *t5.glob("*.safetensors")):
        weights.unlink()
    small = ("modality.height=32", "modality.width=32", "modality.frames=17", "network.depth=1", "network.width=96")
    said = flowgen("plan", name, *small, "network.heads=1", "--gpus", 64)
    assert "planned without the data" in said
    assert "64 x 1 clips x 4 accumulated" in said
