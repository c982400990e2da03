"""The sound of a video file, on the clock of its picture."""

from __future__ import annotations

import torch
from flowgen_audio.media import read_samples
from flowgen_audio.modality import Audio
from flowgen_audio.survey import scale_of
from flowgen_video.reading import opened
from torch import Tensor

from flowgen.data.shards import Source


def sound_offset(path: Source) -> float:
    """Seconds by which the sound track begins later than the picture, by the file's timestamps; negative: earlier."""
    with opened(path) as (container, video):
        sound = container.streams.audio[0]
        begins = [float((s.start_time or 0) * (s.time_base or 1)) for s in (sound, video)]
    return begins[0] - begins[1]


def sound_at(path: Source, medium: Audio, start_s: float, samples: int, offset_s: float) -> Tensor:
    """`samples` samples [channels, n] of the sound track from `start_s` on the picture's clock, silence where there is none."""
    rate = medium.sample_rate
    out = torch.zeros(medium.channels, samples)
    start = start_s - offset_s  # on the sound's own clock
    late = max(0, round(-start * rate))
    if late >= samples:
        return out
    raw, own = read_samples(path, max(0.0, start), (samples - late) / rate)
    found = medium.convert(raw, own)
    found = medium.limit(found * scale_of(float(found.abs().max())))[:, : samples - late]
    out[:, late : late + found.shape[1]] = found
    return out
