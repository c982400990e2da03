"""Frames decoded a second on one core, by flowgen's reader and, where it is installed, by torchcodec.

    python benchmarks/decode.py [FOLDER] [--clips 10000]

Measures CPU time of one thread. Without a folder it makes clips of 64x64 and 160x120 of its own. Prints a table, and the
growth of memory over many random clips.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from flowgen_video.reading import VIDEO_SUFFIXES, FrameIndex, decode_frames, index_frames, shown_size
from flowgen_video.writing import write_frames

SIZE, FRAMES = 64, 16


def make_clips(folder: Path) -> None:
    """Moving gradients under film grain: 24 clips of 64 x 64 and 12 of 160 x 120, 96 frames each."""
    rng = torch.Generator().manual_seed(0)
    for i in range(36):
        height, width = (64, 64) if i < 24 else (120, 160)
        t, y, x = torch.meshgrid(
            torch.arange(96.0), torch.arange(float(height)), torch.arange(float(width)), indexing="ij"
        )
        waves = torch.stack(
            [torch.sin(x / (7 + c) + t / (4 + i % 5)) + torch.cos(y / (9 - c) - t / 6) for c in range(3)], -1
        )
        frames = (127 + 50 * waves + 6 * torch.randn(waves.shape, generator=rng)).clamp(0, 255).byte()
        write_frames(frames, 25, folder / f"{height}-{i}.mp4", {})


def cpu_rate(work: Callable[[], int], seconds: float = 5.0) -> float:
    """Frames a CPU second of `work`, which returns how many it decoded, repeated for some seconds."""
    work()
    start, frames = time.process_time(), 0
    while time.process_time() - start < seconds:
        frames += work()
    return frames / (time.process_time() - start)


def torchcodec_rates(files: list[Path]) -> tuple[float, float] | None:
    """Whole files and 16-frame clips through torchcodec, brought to 64 x 64 with antialiasing as the reader does."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError):
        return None

    def scaled(frames: torch.Tensor) -> int:
        if frames.shape[-2:] != (SIZE, SIZE):
            scale = max(SIZE / frames.shape[-2], SIZE / frames.shape[-1])
            size = [max(SIZE, round(n * scale)) for n in frames.shape[-2:]]
            frames = torch.nn.functional.interpolate(frames, size=size, mode="bicubic", antialias=True)
        return len(frames)

    def whole() -> int:
        return sum(scaled(VideoDecoder(str(f), num_ffmpeg_threads=1)[:]) for f in files)

    def clips() -> int:
        decoders = (VideoDecoder(str(f), num_ffmpeg_threads=1, seek_mode="approximate") for f in files)
        return sum(scaled(d.get_frames_in_range(20, 20 + FRAMES).data) for d in decoders)

    return cpu_rate(whole), cpu_rate(clips)


def reader_rates(files: list[Path]) -> tuple[float, float]:
    indices = [index_frames(f) for f in files]

    def read(file: Path, index: FrameIndex, frames: range) -> int:
        return len(decode_frames(file, frames, SIZE, SIZE, 3, index))

    def whole() -> int:
        return sum(read(f, i, range(len(i))) for f, i in zip(files, indices, strict=True))

    def clips() -> int:
        return sum(read(f, i, range(20, 20 + FRAMES)) for f, i in zip(files, indices, strict=True))

    return cpu_rate(whole), cpu_rate(clips)


def memory_growth(files: list[Path], clips: int) -> tuple[float, float]:
    """Resident memory in MB after a tenth of `clips` random clips, and its growth until the last."""
    indices = [index_frames(f) for f in files]
    rng = torch.Generator().manual_seed(0)
    early = 0.0
    for n in range(clips):
        which = int(torch.randint(len(files), (), generator=rng))
        start = int(torch.randint(len(indices[which]) - FRAMES, (), generator=rng))
        decode_frames(files[which], range(start, start + FRAMES), SIZE, SIZE, 3, indices[which])
        if n == clips // 10:
            early = _resident()
    return early, _resident() - early


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--clips", type=int, default=10_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        if args.folder is None:
            make_clips(folder)
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
        files = [f for f in found if len(index_frames(f)) >= 40]
        by_size: dict[tuple[int, int], list[Path]] = {}
        for file in files:
            by_size.setdefault(shown_size(file), []).append(file)
        print(f"{platform.processor() or platform.machine()}, one thread; to {SIZE}x{SIZE}x3; frames a CPU second")
        print(f"{'source':>10} {'files':>6} {'reader':>16} {'whole':>8} {'16-frame clips':>15}")
        for (height, width), group in sorted(by_size.items()):
            rates = {"flowgen (PyAV)": reader_rates(group), "torchcodec": torchcodec_rates(group)}
            for name, rate in rates.items():
                figures = f"{rate[0]:8.0f} {rate[1]:15.0f}" if rate else "    not installed"
                print(f"{f'{width}x{height}':>10} {len(group):6} {name:>16} {figures}")
        early, growth = memory_growth(files, args.clips)
        print(f"memory: {early:.0f} MB after {args.clips // 10} clips, {growth:+.1f} MB after {args.clips}")


if __name__ == "__main__":
    main()
