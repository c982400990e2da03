"""Measures of pairs and of single streams: each tells real pairs from others, and a spoilt stream from a real one."""

from __future__ import annotations

import pytest
import torch
from flowgen_audio.distribution import AudioDistribution
from flowgen_av.alignment import AVAlign, motion_peaks
from flowgen_av.bouncing import BouncingSounds
from flowgen_av.distribution import StreamDistribution
from flowgen_av.modality import AudioVideo
from flowgen_av.retrieval import Retrieval

from flowgen.errors import UsageError
from flowgen.media.clip import Clip

MEDIUM = AudioVideo(fps=16, frames=32, height=16, width=16, sample_rate=8000)
DATA = BouncingSounds(MEDIUM, validation_size=64)


@pytest.fixture(scope="module")
def real():
    held_out = DATA.validation()
    return [held_out.clip(i, 0) for i in range(64)]


def mixed(clips):
    """Each picture with the sound of the next clip."""
    return [
        Clip({"picture": a.data["picture"], "sound": b.data["sound"]}, a.rate, a.conditions)
        for a, b in zip(clips, clips[1:] + clips[:1], strict=True)
    ]


def jumping(index, late_s=0.0):
    """A texture that moves by two pixels at some frames, with a click at each."""
    rng = torch.Generator().manual_seed(index)
    texture = torch.randint(0, 255, (64, 64), generator=rng).float()
    texture = torch.nn.functional.avg_pool2d(texture[None], 5, 1, 2)[0]
    sound, at, frames = 1e-3 * torch.randn(1, 16_000, generator=rng), 0, []
    jumps = (torch.randperm(9, generator=rng)[:3] * 3 + 3).tolist()
    for i in range(32):
        at += i in jumps
        frames.append(texture[at : at + 32, at : at + 32])
        if i in jumps:
            first = round(((i - 0.5) / 16 + late_s) * 8000)
            sound[:, first : first + 400] += 0.5 * torch.randn(1, min(400, 16_000 - first), generator=rng)
    picture = torch.stack(frames)[..., None].expand(-1, -1, -1, 3).to(torch.uint8)
    return Clip({"picture": picture, "sound": sound}, {"picture": 16, "sound": 8000.0}), jumps


def test_peaks_of_motion_are_where_it_moves():
    for i in range(8):
        clip, jumps = jumping(i)
        assert motion_peaks(clip.data["picture"], 16) == [pytest.approx((j - 0.5) / 16) for j in sorted(jumps)]
    assert motion_peaks(torch.zeros(32, 8, 8, 3, dtype=torch.uint8), 16) == []


def test_alignment_is_of_pairs_that_belong_together():
    clips = [jumping(i)[0] for i in range(16)]
    own = AVAlign(MEDIUM).measure(clips)
    assert own["av_align"] > 0.85
    assert own["shuffled"] < 0.5
    assert AVAlign(MEDIUM).measure([jumping(i, late_s=0.1)[0] for i in range(16)])["av_align"] < 0.2
    assert AVAlign(MEDIUM).measure([Clip({"picture": c.data["picture"]}, c.rate) for c in clips]) == {}


def test_a_judge_of_real_pairs_finds_the_own_sound_and_no_other(real):
    judge = Retrieval(MEDIUM, DATA, pairs=512, epochs=8)
    before = torch.get_rng_state()
    own, other = judge.measure(real), judge.measure(mixed(real))
    assert torch.equal(torch.get_rng_state(), before)
    assert min(own.values()) > 0.8, own
    assert max(other.values()) < 0.2, other
    again = Retrieval(MEDIUM, DATA, pairs=512, epochs=8)
    with torch.inference_mode():
        assert again.measure(real) == own


def test_a_stream_is_measured_as_its_medium_alone_is(real):
    half, other = real[:32], real[32:]
    found = StreamDistribution(MEDIUM, DATA, "sound", pool=64).measure(half, other)
    sounds = [MEDIUM.stream_of(clip, "sound") for clip in real]

    class Sounds:
        conditions = DATA.conditions

        def __len__(self):
            return len(DATA)

        def clip(self, index, seed):
            return MEDIUM.stream_of(DATA.clip(index, seed), "sound")

    alone = AudioDistribution(MEDIUM.sound, Sounds(), pool=64).measure(sounds[:32], sounds[32:])
    assert found == {f"sound_{name}": pytest.approx(value) for name, value in alone.items()}


@pytest.mark.parametrize("stream", ["picture", "sound"])
def test_the_other_stream_plays_no_part_and_a_spoilt_one_is_far(real, stream):
    metric = StreamDistribution(MEDIUM, DATA, stream, pool=64)
    half, other = real[:32], real[32:]
    own = metric.measure(half, other)
    assert metric.measure(mixed(half), other)[f"{stream}_frechet"] == pytest.approx(
        own[f"{stream}_frechet"], rel=1e-6 if stream == "picture" else 0.5
    )
    spoilt = [
        Clip(
            {**clip.data, "picture": clip.data["picture"].flip(0) // 2, "sound": clip.data["sound"].square()}, clip.rate
        )
        for clip in half
    ]
    assert metric.measure(spoilt, other)[f"{stream}_frechet"] > 2 * own[f"{stream}_frechet"]


def test_clips_without_the_stream_are_left_out_and_none_is_said(real):
    metric = StreamDistribution(MEDIUM, DATA, "sound", pool=64)
    silent = [Clip({"picture": clip.data["picture"]}, clip.rate) for clip in real[:4]]
    assert metric.measure(real[4:34] + silent, real[34:]) == metric.measure(real[4:34], real[34:])
    with pytest.raises(UsageError, match="no clip has a sound"):
        metric.measure(silent, real)
    with pytest.raises(UsageError, match="no clip has picture and sound"):
        Retrieval(MEDIUM, DATA, pairs=64, epochs=1).measure(silent)
