import pytest
import torch
from flowgen_video.digits import brightness, centre
from flowgen_video.modality import Video
from flowgen_video.moving_digits import DIRECTIONS, MovingDigits, render, scans, split

from flowgen.errors import UsageError
from flowgen.media.conditions import ClassCondition, TextCondition

VIDEO = Video(frames=12, height=24, width=24, channels=1)


def test_a_clip_is_a_function_of_index_and_seed():
    data = MovingDigits(VIDEO)
    again = MovingDigits(VIDEO)
    for index in (0, 17, len(data) - 1):
        assert torch.equal(data.clip(index, 5).data, again.clip(index, 5).data)
        assert not torch.equal(data.clip(index, 5).data, data.clip(index, 6).data)
        assert data.clip(index, 5).conditions == data.clip(index, 6).conditions


def test_many_at_once_are_the_same_as_one_by_one():
    data = MovingDigits(Video(frames=9, height=20, width=24))
    indices, seeds = list(range(0, 6000, 100)), list(range(60))
    for clip, index, seed in zip(data.clips(indices, seeds), indices, seeds, strict=True):
        alone = data.clip(index, seed)
        assert torch.equal(clip.data, alone.data)
        assert (clip.conditions, clip.source) == (alone.conditions, alone.source)


def test_no_digit_is_in_both_parts_and_none_is_lost():
    train, held_out = split()
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(len(scans()[0])))
    assert scans()[1][held_out].bincount().min() >= 30
    data = MovingDigits(VIDEO)
    assert len(data) == 8 * len(train)
    assert len(data.validation()) == 8 * len(held_out)
    assert data.validation().validation().indices is held_out


@pytest.mark.parametrize("directions", [4, 8])
def test_every_digit_goes_in_every_direction(directions):
    data = MovingDigits(VIDEO, directions=directions).validation()
    seen = {
        (c.source.split("scan ")[1], c.conditions["direction"]) for c in (data.clip(i, 0) for i in range(len(data)))
    }
    assert len(seen) == len(data)


@pytest.mark.parametrize("video", [VIDEO, Video(frames=16, height=32, width=32), Video(frames=9, height=20, width=48)])
@pytest.mark.parametrize("travel", [0.4, 1.0, 1.5])
def test_the_first_half_moves_as_the_condition_says_and_the_digit_stays_inside(video, travel):
    data = MovingDigits(video, travel=travel)
    for index in range(0, len(data), len(data) // 40):
        clip = data.clip(index, index)
        frames = brightness(clip)
        assert clip.data.shape == (video.frames, video.height, video.width, video.channels)
        steps = centre(frames).diff(dim=0)[: video.frames // 2]
        heading = torch.tensor(DIRECTIONS[clip.conditions["direction"]], dtype=torch.float64)
        assert (steps - steps.mean(0)).abs().max() < 0.35, "not at constant speed"
        speed = (steps.mean(0) * heading).sum() / heading.abs().sum()
        assert 0.75 * data.speed < speed < 1.25 * data.speed
        assert (steps.mean(0) - speed * heading).abs().max() < 0.1
        inside = frames.flatten(1).sum(1)
        assert inside.min() > 0.9 * inside.max(), "part of the digit left the frame"


def test_some_clips_bounce():
    data = MovingDigits(VIDEO, travel=0.8)
    ends = []
    for index in range(0, 400, 5):
        clip = data.clip(index, 0)
        steps = centre(brightness(clip)).diff(dim=0)
        ends.append(bool((steps[0] * steps[-1]).sum() < 0))
    assert 0.2 < sum(ends) / len(ends) < 0.95


def test_a_pixel_of_travel_is_a_pixel():
    image = scans()[0][7]
    still, moved = render(image[None], torch.tensor([[[3.0, 4.0], [5.0, 9.0]]]), 13, 32, 32)[0]
    assert torch.allclose(still.roll((2, 5), (0, 1)), moved, atol=1e-6)


def test_colours_differ_and_grey_is_the_same_picture():
    colour = MovingDigits(Video(frames=4, height=24, width=24))
    peaks = torch.stack([colour.clip(i, 0).data.flatten(0, 2).amax(0) for i in range(12)])
    assert len(peaks.unique(dim=0)) == 12
    assert peaks.amax(1).min() > 200


def test_what_it_says_of_conditions_is_what_clips_carry():
    data = MovingDigits(VIDEO)
    kinds = {"class": ClassCondition, "text": TextCondition}
    made = {k: kinds[v["type"]](**{o: tuple(x) if isinstance(x, list) else x for o, x in v.items() if o != "type"})
            for k, v in data.conditions.items()}  # fmt: skip
    for index in range(0, len(data), 500):
        clip = data.clip(index, 0)
        assert clip.conditions.keys() == made.keys()
        for name, value in clip.conditions.items():
            made[name].encode(value)
        scan = int(clip.source.split("scan ")[1][:-1])
        assert clip.conditions["digit"] == str(int(scans()[1][scan]))


@pytest.mark.parametrize("options", [{"travel": 2.0}, {"travel": 0.0}, {"digit_size": 24}, {"digit_size": 3}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UsageError, match=r"digit|travel"):
        MovingDigits(VIDEO, **options)


def test_the_digit_has_the_size_that_was_asked():
    for size in (10, 14, 18):
        data = MovingDigits(VIDEO, digit_size=size, travel=0.5)
        heights = []
        for index in range(0, 3000, 60):
            lit = (brightness(data.clip(index, 0))[0] > 0.3).any(1).nonzero()[:, 0]
            heights.append(int(lit[-1] - lit[0]) + 1)
        assert abs(sum(heights) / len(heights) - size) < 0.15 * size  # most scans fill their eight rows
