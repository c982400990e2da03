"""Guidance by the other streams, for the streams of a run."""

from __future__ import annotations

from flowgen.core.guidance import CrossStream
from flowgen.core.ranges import Real, Share
from flowgen.media.encoder import Encoder
from flowgen.media.streams import StreamSpec


def cross_stream(
    encoder: Encoder | None = None, scale: Real | dict[str, Real] = 2.0, start: Share = 0.0, end: Share = 1.0
) -> CrossStream:
    """`CrossStream`. ValueError: the latents of the encoder are one stream, or have none of a name."""
    made = CrossStream(scale, start, end)
    if encoder is not None:
        made.check(() if isinstance(encoder.spec, StreamSpec) else encoder.spec.keys())
    return made
