"""Videos on the way to a table: where scenes begin, what is measured of them, what a captioner sees."""

from __future__ import annotations

from itertools import pairwise

import av
import numpy as np
import torch
from PIL import Image

from flowgen.data.shards import Source
from flowgen_video.reading import decode_frames, index_frames, opened, resample, shown_size

_PAIRS, _PLACES, _SIDE, _SHOWN = 8, 8, 128, 384


def scenes(path: Source, scene: float) -> list[list[float]]:
    """From when to when each scene is, in seconds: a cut is where ffmpeg's `select` filter scores more than `scene` (0 to 1)."""
    index = index_frames(path)
    if path.is_dir():
        return [[0.0, index.duration]]
    cuts: list[float] = []
    graph: av.filter.Graph | None = None
    first = 0.0
    with opened(path) as (container, stream):
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            if graph is None:
                first = frame.time
                graph = _selecting(frame, scene)
            graph.push(frame)
            cuts += _pulled(graph)
    edges = [0.0, *(t - first for t in cuts if t - first > 0), index.duration]
    return [[start, end] for start, end in pairwise(edges) if end > start]


def measures(
    path: Source, start_s: float, duration_s: float | None, fps: float
) -> tuple[dict[str, float], list[float]]:
    """Motion (mean change of a pixel from frame to frame at `fps`, in percent of white), sharpness (variance of the
    Laplacian over 128 pixels, Pech-Pacheco et al. 2000), brightness (percent of white); and an outline to tell copies by."""
    index = index_frames(path, fps)
    order = resample(index.times, fps)
    first = min(round(start_s * fps), len(order) - 1)
    order = order[first : None if duration_s is None else max(first + 1, first + round(duration_s * fps))]
    places = torch.linspace(0, max(len(order) - 2, 0), min(_PLACES, len(order))).round().long()
    pairs = torch.stack([order[places], order[(places + 1).clamp(max=len(order) - 1)]], 1)
    height, width = shown_size(path)
    scale = _SIDE / min(height, width)
    frames = decode_frames(path, pairs.flatten().tolist(), round(height * scale), round(width * scale), 1, index)
    x = frames[..., 0].float().unflatten(0, (-1, 2)) / 255
    laplacian = x[..., 1:-1, 2:] + x[..., 1:-1, :-2] + x[..., 2:, 1:-1] + x[..., :-2, 1:-1] - 4 * x[..., 1:-1, 1:-1]
    found = {
        "seconds": round(len(order) / fps, 3),
        "motion": round(float((x[:, 1] - x[:, 0]).abs().mean()) * 100, 3),
        "sharpness": round(float(laplacian.flatten(1).var(1).mean()) * 1e4, 3),
        "brightness": round(float(x.mean()) * 100, 2),
    }
    spread = torch.linspace(0, len(x) - 1, 4).round().long()
    return found, torch.nn.functional.adaptive_avg_pool2d(x[spread, 0], (8, 8)).flatten().tolist()


def seen(path: Source, start_s: float, duration_s: float | None, count: int) -> list[Image.Image]:
    """`count` frames, spread evenly, as pictures of at most 384 pixels on the shorter side."""
    index = index_frames(path)
    end = index.duration if duration_s is None else start_s + duration_s
    times = start_s + (end - start_s) * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    wanted = torch.searchsorted(index.times, times).clamp(max=len(index) - 1)
    height, width = shown_size(path)
    scale = min(1.0, _SHOWN / min(height, width))
    frames = decode_frames(path, wanted.tolist(), round(height * scale), round(width * scale), 3, index)
    return [Image.fromarray(np.asarray(frame)) for frame in frames]


def _selecting(frame: av.VideoFrame, scene: float) -> av.filter.Graph:
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
        graph.add("scale", "160:-2"),
        graph.add("select", f"gt(scene,{scene:g})"),
        graph.add("buffersink"),
    ]
    for node, following in pairwise(nodes):
        node.link_to(following)
    graph.configure()
    return graph


def _pulled(graph: av.filter.Graph) -> list[float]:
    """Seconds of the frames that are selected so far."""
    found: list[float] = []
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return found
        found.append(float(frame.time or 0.0))
