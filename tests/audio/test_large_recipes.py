"""The large recipes of sound, shrunken, from a manifest to a sample and an export, on models made here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from flowgen.config import load
from flowgen.errors import FlowgenError, UsageError
from flowgen.media import text
from flowgen.runs.run import Run
from flowgen.testing.models import autoencoder, text_encoder, vocoder
from tests.large_recipes import SMALL, flowgen, sounds

LENGTHS = [0.5, 0.6, 0.8, 0.9, 1.0, 1.3, 0.7, 0.75, 0.55, 0.95]


@pytest.mark.slow
def test_speech_large_speaks_for_as_long_as_asked(tmp_path: Path) -> None:
    models, run = tmp_path / "models", tmp_path / "run"
    vocoder(models / "charactr/vocos-mel-24khz", 24000, 1024, 256, 100)
    text_encoder(models / "google/byt5-small", "t5")
    own = [
        f"data.manifest={sounds(tmp_path, 24000, 1, LENGTHS)}",
        f"encoder.model={models}/charactr/vocos-mel-24khz",
        f"conditions.text.model={models}/google/byt5-small",
        "conditions.text.max_tokens=40",
        "modality.duration_s=1.0",
        "data.min_duration_s=0.5",
        "data.buckets=2",
        "data.held_out=0.3",
        "conditions.duration={type: number, low: 0.5, high: 1.0, log: true, seconds: true}",
        "known=[{type: prefix, probability: 0.3, low: 0.1, high: 0.5}]",
        "deepspeed={}",
    ]
    flowgen("train", "audio/speech-large", f"run={run}", *SMALL, *own)
    config = Run(run).config()
    assert config.conditions is not None
    identity = config.conditions["text"].options["identity"]
    assert identity

    out = tmp_path / "out.wav"
    flowgen("sample", run, "--prompt", "a bell", "--negative", "text=rain", "--seconds", 0.6, "-o", out)
    info = soundfile.info(out)
    assert (info.samplerate, info.channels) == (24000, 1)
    assert info.frames / 24000 == pytest.approx(0.6, abs=256 / 24000)
    assert '"duration": 0.6' in soundfile.SoundFile(out).comment
    flowgen("sample", run, "-c", "duration=0.8", "-o", out, "--force")
    assert soundfile.info(out).frames / 24000 == pytest.approx(0.8, abs=256 / 24000)
    flowgen("sample", run, "--prompt", "a bell", "--negative", "text=rain", "--seconds", 0.6, "-o", out, "--force")
    with pytest.raises(UsageError, match=r"'duration' is 0.9 and the clips are to be 0.6 s long"):
        flowgen("sample", run, "-c", "duration=0.9", "--seconds", 0.6, "-o", out, "--force")
    with pytest.raises(UsageError, match="longer than max_tokens=40"):
        flowgen("sample", run, "--prompt", "a bell " * 20, "-o", out, "--force")

    # an export says which encoder it wants, and takes no other
    first = soundfile.read(out)[0]
    flowgen("export", run, "-o", tmp_path / "exported")
    same = tmp_path / "same.wav"
    asked = ("--prompt", "a bell", "--negative", "text=rain", "--seconds", 0.6, "--force", "-o", same)
    flowgen("sample", tmp_path / "exported", *asked)
    assert (soundfile.read(same)[0] == first).all()
    shutil.move(models / "google/byt5-small", tmp_path / "moved")
    with pytest.raises(UsageError, match="there is no model"):
        flowgen("sample", tmp_path / "exported", *asked)
    for kind, width in (("t5", 24), ("bert", 16)):
        text_encoder(models / "google/byt5-small", kind, width)  # type: ignore[arg-type]
        text._opened.cache_clear()  # as in a new process
        with pytest.raises(FlowgenError, match=f"is not the one this run was trained with .* expected {identity}"):
            flowgen("sample", tmp_path / "exported", *asked)
        shutil.rmtree(models / "google/byt5-small")


@pytest.mark.slow
def test_sfx_44k_makes_stereo(tmp_path: Path) -> None:
    models, run, out = tmp_path / "models", tmp_path / "run", tmp_path / "out.wav"
    autoencoder(models / "vae", "AutoencoderOobleck")
    text_encoder(models / "t5", "t5")
    own = [
        f"data.manifest={sounds(tmp_path, 44100, 2, [s / 4 for s in LENGTHS])}",
        f"encoder.model={models}/vae",
        f"conditions.caption.model={models}/t5",
        "modality.duration_s=0.25",
        "data.min_duration_s=0.1",
        "data.buckets=2",
        "data.held_out=0.3",
        "conditions.duration={type: number, low: 0.1, high: 0.25, log: true, seconds: true}",
        "known=[{type: gap, probability: 0.5, low: 0.05, high: 0.1}]",
        "deepspeed={}",
    ]
    flowgen("train", "audio/sfx-44k", f"run={run}", *SMALL, *own)
    flowgen("sample", run, "--prompt", "a dog barks", "--seconds", 0.2, "-o", out)
    info = soundfile.info(out)
    assert (info.samplerate, info.channels) == (44100, 2)
    assert info.frames / 44100 == pytest.approx(0.2, abs=64 / 44100)
    report = flowgen("eval", run, "-n", 2, "--metric", "diversity", "--metric", "spectral-convergence")
    assert "spectral_convergence" in report


@pytest.mark.parametrize("name", ["audio/speech-large", "audio/sfx-44k"])
def test_the_recipes_are_valid_and_planned_without_weights_and_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWGEN_MODELS", str(tmp_path))
    config = load(name).config
    assert name.endswith(config.name)
    with pytest.raises(UsageError, match="there is no model"):
        flowgen("plan", name)
    vocoder(tmp_path / "charactr/vocos-mel-24khz", 24000, 1024, 256, 100)
    autoencoder(tmp_path / "stabilityai/stable-audio-open-1.0/vae", "AutoencoderOobleck")
    for encoder in ("google/byt5-small", "google-t5/t5-base"):
        text_encoder(tmp_path / encoder, "t5")
    for weights in (*tmp_path.rglob("*.safetensors"), *tmp_path.rglob("*.bin")):
        weights.unlink()
    said = flowgen("plan", name, "network.depth=1", "--gpus", 8)
    assert "planned without the data" in said
    assert "parameters" in said
