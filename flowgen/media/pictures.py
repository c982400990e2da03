"""Pictures one after the other, as a file that plays: for media whose samples are watched on their way from noise to data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowgen.errors import FlowgenError
from flowgen.files import replacing


def save_moving(pictures: Sequence[np.ndarray], path: Path, fps: int, comment: str = "") -> None:
    """Write pictures, bytes [height, width, 3] of even sizes, as mp4 or gif with a comment in it.

    FlowgenError: another type of file is asked for, or there are none.
    """
    writers = {".gif": _save_gif, ".mp4": _save_mp4}
    if path.suffix.lower() not in writers:
        raise FlowgenError(f"{path}: cannot animate as {path.suffix or 'no extension'!r} (known: .mp4, .gif)")
    if not pictures:
        raise FlowgenError(f"{path}: there is nothing to animate")
    with replacing(path) as temporary:
        writers[path.suffix.lower()](pictures, temporary, fps, comment)


def _save_gif(pictures: Sequence[np.ndarray], path: Path, fps: int, comment: str) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(p).quantize(64) for p in pictures)
    first.save(path, "gif", save_all=True, append_images=rest, duration=1000 // fps, loop=0, comment=comment.encode())


def _save_mp4(pictures: Sequence[np.ndarray], path: Path, fps: int, comment: str) -> None:
    import av

    with av.open(str(path.absolute()), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = comment
        stream: Any = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
