"""How fast sound is read: seconds of sound for each second of one core, by format, rate and length of the file.

    OMP_NUM_THREADS=1 python benchmarks/reading.py

Targets: 20 times real time from wav, 10 times from mp3. Segments are read by seeking, as training reads long recordings.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from flowgen_audio.encoders import Spectrogram
from flowgen_audio.modality import Audio

from flowgen.media.clip import Clip

FORMATS = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".mp4")


def main() -> None:
    torch.set_num_threads(1)
    audio = Audio(16000, 1, 2.0)
    encoder = Spectrogram(audio)
    print(f"{'file':8} {'whole, x real time':>20} {'2 s segments':>14} {'with encoder':>14}")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in FORMATS:
            path = Path(folder) / f"noise{suffix}"
            noise = ["-f", "lavfi", "-i", "anoisesrc=d=60:r=44100:a=0.3:c=pink", "-ac", "2"]
            picture = ["-f", "lavfi", "-i", "testsrc=d=60:s=64x64:r=10"] if suffix == ".mp4" else []
            subprocess.run(["ffmpeg", "-v", "error", "-y", *noise[:4], *picture, *noise[4:], str(path)], check=True)
            starts = [float(s) for s in torch.rand(20, generator=torch.Generator().manual_seed(0)) * 57]

            def segments(path: Path = path, starts: list[float] = starts) -> list[Clip]:
                return [audio.read(path, s, 2.0) for s in starts]

            figures = (
                60 / seconds(lambda path=path: audio.read(path)),  # type: ignore[misc]
                2 * len(starts) / seconds(segments),
                2 * len(starts) / seconds(lambda segments=segments: encoder.encode(segments())),  # type: ignore[misc]
            )
            print(f"{suffix:8} {figures[0]:20.0f} {figures[1]:14.0f} {figures[2]:14.0f}")


def seconds(work: Callable[[], object]) -> float:
    """Processor time of the second of two calls: the first one fills caches."""
    work()
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
