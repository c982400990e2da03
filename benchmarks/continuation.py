"""Continuations of held-out clips beside the truth, and beside copying the last given frame.

    python benchmarks/continuation.py runs/moving-digits [--given 4] [--frames 8] [-n 100]

Every clip keeps its own conditions. Prints PSNR and SSIM over the frames that follow, means over clips, and whether the given
frames came back bit for bit.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from flowgen_video.quality import continuation

from flowgen.clip import Clip
from flowgen.evaluation.evaluate import draw_sets
from flowgen.experiment import build_dataset
from flowgen.generator import Generator
from flowgen.given import Given


def beginning(clip: Clip, frames: int) -> Clip:
    return replace(clip, data=clip.data[:frames])  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--given", type=int, default=4)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = Generator.load(args.run)
    truth = draw_sets(build_dataset(generator.config, generator.modality), args.n, args.seed).real
    asked = [{name: clip.conditions.get(name) for name in generator.conditioners} for clip in truth]
    given = [Given([beginning(clip, args.given) for clip in truth])]
    made = generator.sample(asked, seed=args.seed, given=given)
    figures = continuation(made, truth, args.given, args.frames)
    print(f"{args.n} held-out clips, {args.frames} frames after {args.given} given ones; step {generator.step}")
    print(f"{'':>18} {'PSNR (dB)':>10} {'SSIM':>7}")
    print(f"{'continuation':>18} {figures['psnr']:10.2f} {figures['ssim']:7.3f}")
    print(f"{'copied last frame':>18} {figures['psnr_copy']:10.2f} {figures['ssim_copy']:7.3f}")
    print(
        f"gain {figures['psnr'] - figures['psnr_copy']:+.2f} dB; given frames exact in {figures['given_exact']:.0%} of clips"
    )


if __name__ == "__main__":
    main()
