"""The measures are near 1 on real held-out clips and at chance, or worse, on what is wrong."""

from dataclasses import replace

import pytest
import torch
from flowgen_video.digits import DigitAgreement, Motion
from flowgen_video.modality import Video
from flowgen_video.moving_digits import MovingDigits

from flowgen.errors import UsageError

FORMATS = [Video(frames=12, height=24, width=24, channels=1), Video(frames=16, height=32, width=32)]


@pytest.fixture(params=FORMATS, ids=["grey", "colour"])
def case(request):
    data = MovingDigits(request.param)
    held_out = data.validation()
    clips = [held_out.clip(i * 11 % len(held_out), 1) for i in range(120)]
    return DigitAgreement(request.param, data), Motion(request.param, data), clips


def noisy(clip, seed):
    noise = torch.randn(clip.data.shape, generator=torch.Generator().manual_seed(seed))
    return replace(clip, data=(clip.data + 40 * noise).clamp(0, 255).to(torch.uint8))


def asked(clips, name):
    """The same clips, asked for something else each."""
    values = [clip.conditions[name] for clip in clips]
    others = sorted(set(values))
    return [
        replace(clip, conditions={**clip.conditions, name: others[(others.index(v) + 1) % len(others)]})
        for clip, v in zip(clips, values, strict=True)
    ]


def test_real_clips_score_near_one(case):
    digit, motion, clips = case
    for shown in (clips, [noisy(c, i) for i, c in enumerate(clips)]):
        figures = {**digit.measure(shown, []), **motion.measure(shown, [])}
        assert figures["digit"] > 0.97
        assert figures["digit_identity"] > 0.97
        assert figures["direction"] == 1


def test_another_wish_is_not_fulfilled(case):
    digit, motion, clips = case
    assert digit.measure(asked(clips, "digit"), [])["digit"] < 0.03
    assert motion.measure(asked(clips, "direction"), [])["direction"] == 0


def test_frozen_reversed_and_blank_clips_score_badly(case):
    digit, motion, clips = case
    frozen = [replace(c, data=c.data[:1].expand_as(c.data)) for c in clips]
    assert motion.measure(frozen, []) == {"direction": 0, "speed": pytest.approx(0)}
    assert motion.measure([replace(c, data=c.data.flip(0)) for c in clips], [])["direction"] < 0.4
    blank = [replace(c, data=torch.zeros_like(c.data)) for c in clips]
    assert digit.measure(blank, []) == {"digit": 0, "digit_identity": 0}
    assert motion.measure(blank, [])["direction"] == 0


def test_a_digit_that_changes_loses_its_identity(case):
    digit, _, clips = case
    others = [next(o for o in clips if o.conditions["digit"] != c.conditions["digit"]) for c in clips]
    half = len(clips[0].data) // 2
    morphed = [replace(c, data=torch.cat([c.data[:half], o.data[half:]])) for c, o in zip(clips, others, strict=True)]
    assert digit.measure(morphed, [])["digit_identity"] < 0.05


def test_clips_without_a_wish_are_measured_for_what_they_show(case):
    digit, motion, clips = case
    bare = [replace(c, conditions={}) for c in clips[:5]]
    assert digit.measure(bare, []).keys() == {"digit_identity"}
    assert motion.measure(bare, []).keys() == {"speed"}


def test_another_data_set_is_refused():
    for metric in (DigitAgreement, Motion):
        with pytest.raises(UsageError, match="moving-digits"):
            metric(FORMATS[0], object())
