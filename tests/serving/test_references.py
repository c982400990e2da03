"""Conditions that are files come as uploads: a path from a client opens nothing."""

import json
import subprocess

import numpy as np
import pytest
import soundfile

from flowgen.errors import UsageError
from flowgen.serving.jobs import Jobs
from flowgen.serving.loaded import Loaded
from flowgen.serving.sampler import Sampler
from tests.untrained import untrained

RATE = 8000


@pytest.fixture
def sampler(tmp_path):
    (tmp_path / "data").mkdir()
    for who, pitch in (("low", 200), ("high", 900)):
        for take in range(4):
            tone(tmp_path / "data" / f"{who}_{take}.wav", pitch)
    config = f"""
name: like
modality: {{type: audio, sample_rate: {RATE}, duration_s: 0.5}}
data: {{type: audio-folder, folder: {tmp_path / "data"}, pattern: '(?P<who>\\w+)_(?P<take>\\d)', columns: {{}},
  held_out: {{take: ['0']}}, reference_by: who, pad: true}}
encoder: {{type: spectrogram, window: 256, hop: 128, iterations: 2}}
network: {{type: transformer, width: 32, depth: 1, heads: 2}}
sample: {{steps: 2, guidance: cfg}}
train: {{steps: 2, batch_size: 4}}
"""
    run = untrained(tmp_path, config, tmp_path / "like")
    sampler = Sampler(Jobs(tmp_path / "jobs"), Loaded({"like": run}, 1e9, "cpu"))
    sampler.start()
    yield sampler
    sampler.stop(10)


def tone(path, pitch):
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * np.arange(RATE // 2) / RATE), RATE)
    return path


def made(sampler, asked, uploads):
    job = sampler.accept(asked, uploads, 10)
    while not job.over:
        sampler.jobs.wait(1)
    assert job.state == "done", job.error
    return sampler.jobs.place(job) / job.files[0]


def test_an_upload_is_the_reference_and_a_path_is_none(sampler, tmp_path):
    there = tone(tmp_path / "there.wav", 200)
    for path in (str(there), "/etc/passwd", "../there.wav"):
        with pytest.raises(UsageError, match="no file was uploaded under the name"):
            sampler.accept({"conditions": {"reference": path}}, {}, 10)
        with pytest.raises(UsageError, match="no file was uploaded under the name"):
            sampler.accept({"negative": {"reference": path}}, {}, 10)
    files = [
        made(sampler, {"conditions": {"reference": "voice"}}, {"voice": tone(tmp_path / name, pitch)})
        for name, pitch in (("a.wav", 200), ("b.wav", 900), ("c.wav", 200))
    ]
    sounds = [soundfile.read(file)[0] for file in files]
    assert np.array_equal(sounds[0], sounds[2])
    assert not np.array_equal(sounds[0], sounds[1])
    without = soundfile.read(made(sampler, {"conditions": {"reference": None}}, {}))[0]
    assert not np.array_equal(sounds[0], without)
    shown = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "format_tags", "-of", "json", files[0]],
        capture_output=True,
        text=True,
    ).stdout
    assert '\\"reference\\": \\"voice\\"' in shown
    assert str(tmp_path) not in shown


def test_what_is_no_sound_is_named_as_the_client_named_it(sampler, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(UsageError, match="voice") as refused:
        sampler.accept({"conditions": {"reference": "voice"}}, {"voice": tmp_path / "text.wav"}, 10)
    assert str(tmp_path) not in str(refused.value)
    assert json.dumps([job.id for job in sampler.jobs.all()]) == "[]"
