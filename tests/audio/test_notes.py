"""The built-in notes, and the instruments that measure them."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from flowgen_audio.metrics import NoteAccuracy, note_features, pitch_error
from flowgen_audio.modality import Audio
from flowgen_audio.notes import TIMBRES, Notes, note_frequency, note_name, note_number, synthesise
from flowgen_audio.pitch import fundamental

from flowgen.errors import UsageError
from flowgen.media.clip import Clip


def test_note_names() -> None:
    assert note_frequency("A4") == 440
    assert note_frequency("C4") == pytest.approx(261.6256, abs=1e-3)
    assert all(note_name(note_number(f"{n}{o}")) == f"{n}{o}" for n in ("C", "F#", "B") for o in range(10))
    for wrong in ("H4", "Db4", "C", "", "C44"):
        with pytest.raises(UsageError, match="is no note"):
            note_number(wrong)


def test_a_note_is_a_function_of_index_and_seed(notes: Notes) -> None:
    a, b = notes.clip(5, 1), notes.clip(5, 1)
    assert torch.equal(a.data, b.data)
    assert a.conditions == b.conditions
    assert not torch.equal(a.data, notes.clip(6, 1).data)
    assert not torch.equal(a.data, notes.clip(5, 2).data)
    assert not torch.equal(a.data, notes.validation().clip(5, 1).data)


def test_global_random_state_is_left_alone(notes: Notes) -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    notes.clip(0, 0)
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.random.get_rng_state())


def test_notes_are_sound(notes: Notes) -> None:
    clips = [notes.clip(i, 0) for i in range(60)]
    for clip in clips:
        assert clip.data.shape == (1, 16000)
        assert clip.data.dtype == torch.float32
        assert 0.29 < float(clip.data.abs().max()) <= 0.9
        assert float(clip.data[:, -80:].abs().max()) < 0.02  # ends in silence: no click
        assert abs(float(clip.data.mean())) < 0.01
    peaks = [float(c.data.abs().max()) for c in clips]
    assert max(peaks) > 2 * min(peaks)


def test_all_pitches_and_timbres_occur_equally_often() -> None:
    notes = Notes(Audio(8000, duration_s=0.05), low="C4", high="E4")
    seen = [notes.clip(i, 0).conditions for i in range(2000)]
    for name, values in (("pitch", notes.pitches), ("timbre", notes.timbres)):
        for value in values:
            assert sum(c[name] == value for c in seen) == pytest.approx(400, abs=80)


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 0.5), (16000, 1.0)])
def test_the_measured_fundamental_of_every_real_note_is_its_pitch(rate: int, seconds: float) -> None:
    notes = Notes(Audio(rate, duration_s=seconds))
    cents = [abs(pitch_error(notes.clip(i, 3))) for i in range(300)]
    assert max(cents) < 25  # detune up to 8 cents, vibrato up to 14
    assert statistics.median(cents) < 5


@pytest.mark.parametrize("hz", [65.4, 110.0, 261.63, 440.0, 987.8, 1318.5])
@pytest.mark.parametrize("kind", ["sine", "saw", "no-fundamental", "noisy"])
def test_fundamental_within_five_cents(hz: float, kind: str) -> None:
    """Also where the fundamental itself is missing (harmonics 2, 3 and 4 sound) or noise lies 20 dB below."""
    rate = 16000
    time = torch.arange(8000, dtype=torch.float64) / rate
    harmonics = {"sine": [1], "saw": range(1, 20), "no-fundamental": [2, 3, 4], "noisy": [1, 2]}[kind]
    wave = sum(torch.sin(2 * math.pi * hz * k * time + k * k) / k for k in harmonics if hz * k < rate / 2)
    if kind == "noisy":
        wave = wave + 0.07 * torch.randn(8000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(1200 * math.log2(fundamental(wave[None], rate) / hz)) < 5


def test_what_has_no_pitch_is_not_given_one() -> None:
    noise = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    assert math.isnan(fundamental(noise, 16000))
    assert math.isnan(fundamental(torch.zeros(1, 16000), 16000))
    assert math.isnan(fundamental(torch.zeros(1, 10), 16000))


def test_the_metric_hears_what_is_real_and_what_is_wrong(notes: Notes) -> None:
    metric = NoteAccuracy(notes.modality, notes, examples=300)
    held_out = notes.validation()
    real = [held_out.clip(i, 0) for i in range(60)]
    figures = metric.measure(real)
    assert figures["pitch"] == 1
    assert figures["timbre"] > 0.95
    assert figures["pitch_error_cents"] < 5
    # a third of the clips asked for a semitone above what sounds, and for the next timbre
    names, kinds = list(notes.pitches), list(TIMBRES)

    def wrong(clip: Clip) -> Clip:
        pitch, timbre = clip.conditions["pitch"], clip.conditions["timbre"]
        return replace(
            clip,
            conditions={
                "pitch": names[(names.index(pitch) + 1) % 24],
                "timbre": kinds[(kinds.index(timbre) + 1) % len(kinds)],
            },
        )

    mixed = [wrong(c) if i % 3 == 0 else c for i, c in enumerate(real)]
    figures = metric.measure(mixed)
    assert figures["pitch"] == pytest.approx(2 / 3, abs=0.01)
    assert figures["timbre"] == pytest.approx(2 / 3, abs=0.06)


def test_the_metric_leaves_out_what_was_not_asked(notes: Notes) -> None:
    metric = NoteAccuracy(notes.modality, notes)
    clip = notes.clip(0, 0)
    assert metric.measure([replace(clip, conditions={})]) == {}
    silent = Clip(torch.zeros(1, 16000), 16000, {"pitch": "C4"})
    assert metric.measure([silent]) == {"pitch": 0.0, "pitch_error_cents": math.inf}


def test_timbre_features_ignore_loudness(notes: Notes) -> None:
    data = notes.clip(1, 0).data
    assert torch.allclose(note_features(data, 16000), note_features(0.3 * data, 16000), atol=1e-2)


def test_every_ingredient_of_a_timbre_can_be_heard() -> None:
    base = TIMBRES["flute"]
    variants = {
        "harmonics": (1.0, 1.0),
        "slope": (-3.0, -3.0),
        "attack": (0.3, 0.3),
        "decay": (0.05, 0.05),
        "darkens": 0.9,
        "vibrato": (50.0, 50.0),
        "breath": (0.3, 0.3),
    }

    def wave(timbre: object) -> np.ndarray:
        return synthesise(440.0, timbre, 8000, 16000, np.random.default_rng(0))  # type: ignore[arg-type]

    for field, value in variants.items():
        assert np.abs(wave(base) - wave(replace(base, **{field: value}))).max() > 0.02, field


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": "C5", "high": "C4"}, "lies above"),
        ({"high": "C9"}, "modality.sample_rate"),
        ({"timbres": ("flute", "brss")}, "did you mean 'brass'"),
        ({"timbres": ()}, "at least one timbre"),
        ({"size": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(audio: Audio, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Notes(audio, **options)


def test_options_change_what_they_say(audio: Audio) -> None:
    few = Notes(audio, low="A4", high="B4", timbres=("brass",), size=7, validation_size=3)
    assert few.pitches == ("A4", "A#4", "B4")
    assert (len(few), len(few.validation())) == (7, 3)
    assert {few.clip(i, 0).conditions["timbre"] for i in range(20)} == {"brass"}
    assert few.conditions["pitch"] == {"type": "class", "names": ("A4", "A#4", "B4")}
    assert Notes(Audio(16000, channels=2, duration_s=0.3)).clip(0, 0).data.shape == (2, 4800)
