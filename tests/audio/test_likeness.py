"""The recogniser and what is measured with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flowgen_audio import recogniser as module
from flowgen_audio.likeness import (
    ClassifierAgreement,
    FrechetAudio,
    NearestRecording,
    sounding,
)
from flowgen_audio.modality import Audio
from flowgen_audio.notes import Notes
from flowgen_audio.recogniser import Recogniser, collate

from flowgen.errors import UsageError
from flowgen.evaluation.pool import training_clips
from flowgen.media.clip import Clip

AUDIO = Audio(8000, duration_s=0.25)
TIMBRES = ("flute", "brass", "marimba")


def real_clips(dataset: Notes, n: int, seed: int) -> list[Clip]:
    """n clips of a data set, others for another seed."""
    return [dataset.clip(i, seed) for i in range(n)]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data() -> Notes:
    return Notes(AUDIO, low="C5", high="D5", timbres=TIMBRES, size=384, validation_size=120)


@pytest.fixture(scope="module")
def agreement(data: Notes) -> ClassifierAgreement:
    metric = ClassifierAgreement(AUDIO, data, epochs=10)
    _ = metric.recogniser
    return metric


def shifted(clips: list[Clip], every: int) -> list[Clip]:
    """The same clips, every so-many-th of them asked for another timbre."""
    return [
        replace(c, conditions={**c.conditions, "timbre": TIMBRES[(TIMBRES.index(c.conditions["timbre"]) + 1) % 3]})
        if i % every == 0
        else c
        for i, c in enumerate(clips)
    ]


def test_it_hears_what_real_clips_are_and_notices_what_they_are_not(
    data: Notes, agreement: ClassifierAgreement
) -> None:
    real = real_clips(data.validation(), 100, 1)
    figures = agreement.measure(real)
    assert figures.keys() == {"pitch", "timbre"}
    assert figures["timbre"] > 0.95
    wrong = agreement.measure(shifted(real, 2))
    assert wrong["timbre"] == pytest.approx(figures["timbre"] / 2, abs=0.06)
    assert wrong["pitch"] == figures["pitch"]
    noise = [
        replace(c, data=0.1 * torch.randn(1, 2000, generator=torch.Generator().manual_seed(i)))
        for i, c in enumerate(real)
    ]
    assert agreement.measure(noise)["timbre"] < 0.6
    assert agreement.measure([replace(c, conditions={}) for c in real]) == {}
    heard = agreement.readings(real)
    assert sum(h["timbre"] == c.conditions["timbre"] for h, c in zip(heard, real, strict=True)) == round(
        100 * figures["timbre"]
    )


def test_what_is_heard_depends_on_the_clip_alone(data: Notes, agreement: ClassifierAgreement) -> None:
    """Not on its neighbours, its loudness or the padding they bring."""
    clips = real_clips(data, 8, 2)
    clips[3] = replace(clips[3], data=clips[3].data[:, :900])
    _, together = agreement.recogniser.read(clips)
    for i, clip in enumerate(clips):
        _, alone = agreement.recogniser.read([clip])
        assert torch.allclose(together[i], alone[0], atol=1e-3)
        _, quiet = agreement.recogniser.read([replace(clip, data=0.1 * clip.data)])
        assert torch.allclose(quiet, alone, atol=1e-2)


def test_a_recogniser_is_trained_once_for_a_data_set(
    data: Notes, agreement: ClassifierAgreement, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    monkeypatch.setattr(module, "_train", lambda *a: trained.append(a))
    again = ClassifierAgreement(AUDIO, data, epochs=10).recogniser
    assert not trained
    for a, b in zip(again.state_dict().values(), agreement.recogniser.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for other in (
        ClassifierAgreement(AUDIO, data, epochs=11),
        ClassifierAgreement(AUDIO, data, epochs=10, seed=1),
        ClassifierAgreement(AUDIO, replace(data, size=100), epochs=10),
        ClassifierAgreement(
            Audio(8000, duration_s=0.2), replace(data, modality=Audio(8000, duration_s=0.2)), epochs=10
        ),
    ):
        count = len(trained)
        _ = other.recogniser
        assert len(trained) == count + 1


def test_a_damaged_cache_is_replaced(data: Notes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    few = replace(data, size=64)
    first = ClassifierAgreement(AUDIO, few, epochs=1).recogniser
    (file,) = (tmp_path / "flowgen" / "audio").iterdir()
    file.write_bytes(b"\0" * 10)
    second = ClassifierAgreement(AUDIO, few, epochs=1).recogniser
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert file.stat().st_size > 1000


def test_training_leaves_global_randomness_alone(data: Notes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = Recogniser(8000, module.class_conditions(data))
        module._train(model, replace(data, size=64), 1, 5)
        weights.append(model.heads["timbre"].weight)
    assert torch.equal(*weights)


def test_the_distance_ranks_real_damaged_and_noise(data: Notes) -> None:
    metric = FrechetAudio(AUDIO, data, epochs=10)
    real = real_clips(data, 100, 9)
    g = torch.Generator().manual_seed(0)
    damaged = [replace(c, data=c.data + 0.05 * torch.randn(c.data.shape, generator=g)) for c in real]
    noise = [replace(c, data=torch.randn(c.data.shape, generator=g)) for c in real]
    one_kind = [c for c in real_clips(data, 384, 9) if c.conditions["timbre"] == "brass"][:100]
    good, worse, worst, narrow = (metric.measure(c) for c in (real, damaged, noise, one_kind))
    assert good["distance"] < 2 * good["training"]
    assert good["distance"] < worse["distance"] < worst["distance"]
    assert narrow["distance"] > 3 * good["distance"]
    with pytest.raises(UsageError, match="at least 2 clips"):
        metric.measure(real[:1])


def test_copies_are_found_and_real_clips_are_none(data: Notes) -> None:
    metric = NearestRecording(AUDIO, data)
    held_out = training_clips(data.validation(), 100)
    assert metric.measure(held_out)["copied"] <= 0.01
    training = training_clips(data, 60)
    figures = metric.measure(training)
    assert figures["copied"] == 1
    assert figures["distance"] == pytest.approx(0, abs=0.05)
    # a copy is a copy at another loudness and after a moment of silence
    disguised = [replace(c, data=torch.cat([torch.zeros(1, 320), 0.3 * c.data], 1)) for c in training]
    assert metric.measure(disguised)["copied"] > 0.8
    assert metric.measure(held_out)["real"] > 0.3


def test_sounding_drops_silence_at_the_ends_only() -> None:
    frames = torch.zeros(4, 10)
    frames[:, 3:5] = 2.0
    frames[:, 7] = 1.0
    assert sounding(frames).shape == (4, 5)
    silent = torch.zeros(4, 10)
    assert sounding(silent).shape == (4, 10)


def test_collate_pads_with_silence() -> None:
    x, lengths = collate([torch.ones(4, 3), torch.ones(4, 5)])
    assert lengths.tolist() == [3, 5]
    assert torch.all(x[0, :, 3:] == 0)


def test_a_data_set_without_classes_is_refused() -> None:
    class Numbers(Notes):
        conditions = {"level": {"type": "number", "low": 0, "high": 1}}  # noqa: RUF012

    with pytest.raises(UsageError, match="condition of type class"):
        module.class_conditions(Numbers(AUDIO))


def test_features_are_finite_for_any_sound(agreement: ClassifierAgreement) -> None:
    for data in (torch.zeros(1, 2000), torch.ones(1, 5), torch.randn(2, 3000)):
        heard, features = agreement.recogniser.read([Clip(data, 8000)])
        assert torch.isfinite(features).all()
        assert heard[0]["timbre"] in TIMBRES
    assert math.isfinite(float(features.sum()))
