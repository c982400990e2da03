import pytest
import torch
from flowgen_video.encoders import Pixels
from flowgen_video.modality import Video

from flowgen.errors import FlowgenError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents


def test_every_byte_survives_the_round_trip():
    video = Video(frames=1, height=16, width=16, channels=1)
    data = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    encoder = Pixels(video)
    latents = encoder.encode([Clip(data), Clip(data.flip(1))])
    assert latents.x.shape == (2, *encoder.spec.shape)
    assert latents.mask is None
    assert (latents.x.min(), latents.x.max()) == (-1, 1)
    first, second = encoder.decode(latents)
    assert torch.equal(first.data, data)
    assert torch.equal(second.data, data.flip(1))
    assert first.rate == video.fps


def test_what_lies_outside_is_clipped():
    encoder = Pixels(Video(frames=1, height=1, width=2, channels=1))
    (clip,) = encoder.decode(Latents(torch.tensor([[[[[-1.7], [3.0]]]]])))
    assert clip.data.flatten().tolist() == [0, 255]


def test_axes_are_in_seconds_and_pixels():
    spec = Pixels(Video(fps=12.0, frames=6, height=4, width=5)).spec
    assert [(a.name, a.size, a.rate) for a in spec.axes] == [("time", 6, 12.0), ("height", 4, 1.0), ("width", 5, 1.0)]
    assert spec.channels == 3


def test_clips_of_any_size_are_taken_one_size_a_batch():
    encoder = Pixels(Video(frames=3, height=4, width=4))
    sizes = [(3, 4, 4, 3), (2, 4, 6, 3)]
    clips = [Clip(torch.randint(256, s, dtype=torch.uint8), source=f"{s[0]}.mp4") for s in sizes]
    for clip in clips:
        (same,) = encoder.decode(encoder.encode([clip]))
        assert torch.equal(same.data, clip.data)
    with pytest.raises(FlowgenError, match=r"clip 2\.mp4 is 2x4x6 and 3\.mp4 3x4x4 .*one batch is of one size"):
        encoder.encode(clips)


@pytest.mark.parametrize("data", [torch.zeros(3, 4, 4, 3), torch.zeros(3, 4, 4, 1, dtype=torch.uint8)])
def test_another_format_is_refused_by_name(data):
    with pytest.raises(FlowgenError, match=r"walk\.mp4.*\[T, H, W, 3\]"):
        Pixels(Video(frames=3, height=4, width=4)).encode([Clip(data, source="walk.mp4")])
