"""The correlation of onsets that are seen and heard: on flashes with clicks, against pairs that do not belong together."""

from __future__ import annotations

import pytest
import torch
from flowgen_av.alignment import OnsetCorrelation, OnsetTest
from flowgen_av.modality import AudioVideo

from flowgen.errors import UsageError
from flowgen.media.clip import Clip

MEDIUM = AudioVideo(fps=16, frames=32, height=12, width=12, sample_rate=8000)


def clip(index, late_s=0.0, region=slice(4, 8)):
    """Three flashes on a moving background, each with a click that is `late_s` late."""
    rng = torch.Generator().manual_seed(index)
    frames = torch.randint(0, 30, (32, 12, 12, 3), generator=rng)
    sound = 1e-3 * torch.randn(1, 16_000, generator=rng)
    for at in (torch.randperm(9, generator=rng)[:3] * 3 + 2).tolist():
        frames[at : at + 2, region, region] = 255
        first = round((at / 16 + late_s) * 8000)
        sound[:, first : first + 400] += 0.5 * torch.randn(1, min(400, 16_000 - first), generator=rng)
    data = {"picture": frames.to(torch.uint8), "sound": sound}
    return Clip(data, {"picture": 16, "sound": 8000.0}, source=f"{index}")


def test_pairs_that_belong_together_correlate_and_others_do_not():
    found = OnsetCorrelation(MEDIUM).measure([clip(i) for i in range(24)])
    assert found["correlation"] > 0.6
    assert abs(found["shuffled"]) < 0.15
    assert OnsetTest(MEDIUM).measure([clip(i) for i in range(24)])["p_value"] < 0.001


def test_sounds_of_other_clips_are_found_out():
    clips = [clip(i) for i in range(24)]
    sounds = clips[1:] + clips[:1]
    mixed = [
        Clip({"picture": a.data["picture"], "sound": b.data["sound"]}, a.rate)
        for a, b in zip(clips, sounds, strict=True)
    ]
    found = OnsetCorrelation(MEDIUM).measure(mixed)
    assert found["correlation"] < 0.2
    assert OnsetTest(MEDIUM).measure(mixed)["p_value"] > 0.05


def test_a_sound_that_is_late_loses():
    on_time, late = (OnsetCorrelation(MEDIUM).measure([clip(i, s) for i in range(12)]) for s in (0.0, 0.15))
    assert late["correlation"] < 0.5 * on_time["correlation"]


def test_a_region_leaves_out_what_is_elsewhere():
    clips = [clip(i, region=slice(0, 4)) for i in range(12)]
    beside = OnsetCorrelation(MEDIUM, region=(0.5, 0.5, 1.0, 1.0)).measure(clips)
    assert beside["correlation"] < 0.2
    with pytest.raises(UsageError, match="nothing"):
        OnsetCorrelation(MEDIUM, region=(0.5, 0.5, 0.5, 1.0))


def test_absent_streams_count_as_unrelated_and_figures_come_from_features():
    metric = OnsetCorrelation(MEDIUM)
    clips = [clip(i) for i in range(4)]
    mute = [Clip({"picture": c.data["picture"]}, {"picture": 16}) for c in clips]
    assert metric.measure(mute)["correlation"] == 0
    assert metric.figures(metric.features(clips), {}) == metric.measure(clips)
