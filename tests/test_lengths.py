"""Lengths that an encoder of some numbers of frames and a network of patches take together."""

from types import SimpleNamespace

import pytest
import torch
from flowgen_video.modality import Video

from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder
from flowgen.media.streams import Axis, StreamSpec
from flowgen.runs.lengths import Lengths

VIDEO = Video(fps=8, frames=13, height=4, width=4, channels=1)


class Causal(Encoder):
    """One latent step for the first frame, and one for every four after it."""

    spec = StreamSpec(2, (Axis("time", 4, rate=2.0), Axis("height", 4), Axis("width", 4)))

    def latent_shape(self, seconds):
        frames = round(seconds * 8)
        if frames < 1 or frames % 4 != 1:
            raise UsageError(f"{frames} frames are not 1 + 4n")
        return (1 + frames // 4, 4, 4, 2)


def lengths(patch=None):
    network = SimpleNamespace() if patch is None else SimpleNamespace(patch=patch)
    return Lengths(VIDEO, Causal(), network)


def clip(frames):
    return Clip(torch.arange(frames, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 4, 4, 1).clone(), 8.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("frames", range(1, 20))
@pytest.mark.parametrize("patch", [None, (1, 2, 2), (2, 2, 2), (3, 1, 1)])
def test_the_next_length_that_both_take(frames, patch):
    found, shape = lengths(patch).at_least(frames / 8)
    every = patch[0] if patch else 1
    expected = next(n for n in range(frames, 99) if n % 4 == 1 and (1 + n // 4) % every == 0)
    assert round(found * 8) == expected
    assert shape == (1 + expected // 4, 4, 4, 2)


@pytest.mark.filterwarnings("ignore")
def test_a_clip_is_prolonged_by_its_last_moment_and_cut_back():
    taken, seconds = lengths().padded(clip(6))
    assert taken.data[:, 0, 0, 0].tolist()[:6] == [0, 1, 2, 3, 4, 5]
    assert len(taken.data) == 9
    assert lengths().cut_back(taken, seconds).data.equal(clip(6).data)


def test_parts_are_as_long_as_the_encoder_takes():
    assert lengths().beginning_within(clip(7)).data.equal(clip(7).data[:5])
    assert lengths().end_within(clip(7), 1.0).data.equal(clip(7).data[2:])
    assert lengths().end_within(clip(16), 0.5).data.equal(clip(16).data[-1:])


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_length_that_is_none_is_refused(seconds):
    with pytest.raises(UsageError, match="a length lies above 0"):
        lengths().at_least(seconds)


def test_how_far_a_length_lies_beyond_the_trained_one_is_said():
    with pytest.warns(UserWarning, match=r"6.125 s are 3.1 times the 2 s trained on"):
        lengths().at_least(49 / 8)
