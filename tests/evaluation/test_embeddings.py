"""Embeddings of sound and video from local transformers folders, as users name them."""

import pytest
import torch
from flowgen_audio.distribution import AudioDistribution
from flowgen_audio.embedding import embed as embed_sound
from flowgen_audio.modality import Audio
from flowgen_audio.notes import Notes
from flowgen_video.embedding import embed as embed_video
from flowgen_video.metrics import VideoDistribution
from flowgen_video.modality import Video
from flowgen_video.moving_digits import MovingDigits

from flowgen.errors import FlowgenError, UsageError
from flowgen.testing.models import embedding

AUDIO = Audio(8000, duration_s=0.25)
NOTES = Notes(AUDIO, low="C5", high="D5")
VIDEO = Video(frames=6, height=20, width=20, channels=1)
DIGITS = MovingDigits(VIDEO, digit_size=13)


@pytest.mark.parametrize("kind", ["whisper", "clap"])
def test_sound_is_embedded_by_a_model_in_a_folder(kind, tmp_path):
    pytest.importorskip("transformers")
    folder = str(embedding(tmp_path / kind, kind))
    clips = [NOTES.clip(i, 0) for i in range(3)]
    x = embed_sound(AUDIO, clips, folder)
    assert x.shape == (3, 16)
    assert torch.allclose(x[1:2], embed_sound(AUDIO, clips[1:2], folder), atol=1e-5)
    assert (x[0] - x[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("kind", "size"), [("videomae", 16), ("dinov2", 32)])
def test_video_is_embedded_by_a_model_in_a_folder(kind, size, tmp_path):
    pytest.importorskip("transformers")
    folder = str(embedding(tmp_path / kind, kind))
    clips = [DIGITS.clip(i, 0) for i in range(3)]
    x = embed_video(clips, folder)
    assert x.shape == (3, size)
    assert (x[0] - x[1]).abs().max() > 1e-4
    metric = VideoDistribution(VIDEO, DIGITS, embedding=folder, pool=16)
    assert metric.measure(clips, clips)["frechet"] == pytest.approx(0, abs=1e-6)


def test_what_is_no_embedding_is_refused_by_a_sentence(tmp_path):
    pytest.importorskip("transformers")
    clips = [NOTES.clip(0, 0)]
    with pytest.raises(UsageError, match=r"did you mean 'spectra'.*folder of a transformers model"):
        embed_sound(AUDIO, clips, "spectr")
    with pytest.raises(FlowgenError, match="no weights"):
        embed_sound(AUDIO, clips, str(tmp_path))
    embedding(tmp_path / "video", "videomae")
    (tmp_path / "video" / "preprocessor_config.json").unlink(missing_ok=True)
    with pytest.raises(FlowgenError, match="cannot load the audio model"):
        embed_sound(AUDIO, clips, str(tmp_path / "video"))


def test_the_built_in_embedding_tells_real_notes_from_one_repeated():
    metric = AudioDistribution(AUDIO, NOTES, pool=60)
    held_out = NOTES.validation()
    real, reference = ([held_out.clip(i, 0) for i in range(start, start + 40)] for start in (0, 40))
    good, bad = metric.measure(real, reference), metric.measure([real[0]] * 40, reference)
    assert good["frechet"] < bad["frechet"] / 2
    assert good["recall"] > 0.6 > bad["recall"]
    assert bad["within"] == 0 < good["within"]
