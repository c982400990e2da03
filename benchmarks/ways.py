"""Every way of sampling on trained runs, with what it promises and what was measured; and the negative controls.

    python benchmarks/ways.py runs/demo/audio runs/demo/video [--clips 32] [--write docs/results.md]

Prints Markdown. With --write the table takes the place of what stands between its marks in the file.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgen.config.schema import Sample
from flowgen.data.order import full_size
from flowgen.evaluation import draw_sets, evaluate
from flowgen.files import replacing
from flowgen.media.clip import Clip
from flowgen.media.interfaces import HasLevel, Judging
from flowgen.runs.generator import Generator
from flowgen.runs.levels import Levels
from flowgen.runs.requests import Animate, Continue, FromNoise, Inpaint, Interpolate, SampleRequest, Vary

BEGIN, END = "<!-- ways: python benchmarks/ways.py -->", "<!-- end of ways -->"
STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.9)


class Subject:
    """A run with held-out clips, and what its medium is measured by."""

    def __init__(self, run: Path, count: int) -> None:
        self.run, self.generator = run, Generator.load(run)
        self.modality: Any = self.generator.modality
        self.dataset = full_size(self.generator.experiment.dataset)
        self.real = draw_sets(self.dataset, count, 0).real
        self.asked = [{k: clip.conditions.get(k) for k in self.generator.conditioners} for clip in self.real]
        self.length = self.modality.seconds(self.real[0])

    def made(self, request: Callable[[Clip, Mapping[str, Any]], SampleRequest]) -> list[Clip]:
        """A sample for each real clip."""
        return [
            self.generator.sample(request(clip, asked))[0] for clip, asked in zip(self.real, self.asked, strict=True)
        ]

    def agreement(self, clips: Sequence[Clip]) -> str:
        """What the judges of the run's own metrics find of what was asked for, beside real clips."""
        found = []
        clips = [replace(clip, conditions=asked) for clip, asked in zip(clips, self.asked, strict=True)]
        for _, metric in self.generator.experiment.metrics:
            if isinstance(metric, Judging):
                own, real = (metric.measure(each, self.real) for each in (clips, self.real))
                found += [f"{name} {own[name]:.0%} (real {real[name]:.0%})" for name in metric.judged]
        return ", ".join(found)

    def distance(self, a: Clip, b: Clip) -> float:
        """PSNR of pictures in dB (higher is nearer), or log-spectral distance of sound in dB (lower is nearer)."""
        x, y = (clip.data.double() for clip in (a, b))
        if self.pictures:
            return float(10 * torch.log10(255**2 / (x - y).square().mean()))
        return float((_spectrum(x) - _spectrum(y)).square().mean(-2).sqrt().mean())

    @property
    def pictures(self) -> bool:
        return bool(self.modality.shows_pictures)

    def same(self, a: Clip, b: Clip, start: float, end: float) -> bool:
        """Whether two clips are equal bit for bit between two times."""
        x, y = (self.modality.cut(clip, start, end).data for clip in (a, b))
        return torch.equal(x, y)


def _spectrum(wave: Tensor) -> Tensor:
    spectrum = torch.stft(wave.flatten(0, -2), 512, 128, window=torch.hann_window(512).double(), return_complex=True)
    return 20 * torch.log10(spectrum.abs() + 1e-2)


def rows(s: Subject) -> list[tuple[str, str, str]]:
    """(way, promise, measured)"""
    half, third = s.length / 2, s.length / 3
    plain = s.generator.sample(FromNoise(conditions=s.asked))
    found = [("from noise", "what was asked for", s.agreement(plain))]
    longer = s.generator.sample(FromNoise(conditions=s.asked, seconds=1.5 * s.length))
    seconds = {round(s.modality.seconds(clip), 3) for clip in longer}
    found.append(
        (f"`--seconds {1.5 * s.length:g}`", "that length", f"{', '.join(f'{x:g} s' for x in sorted(seconds))}")
    )
    if isinstance(s.modality, HasLevel):
        found += [_loudness(s, scale) for scale in (1.0, 2.0, 3.0)]

    made = s.made(
        lambda clip, asked: Continue(s.modality.cut(clip, 0, half), seconds=s.length - half, conditions=[asked])
    )
    exact = _share(s.same(a, b, 0, half) for a, b in zip(made, s.real, strict=True))
    own = s.modality.compare_continuations(made, s.real, half)
    own.pop("given_exact")  # counted above
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in own.items())
    found.append(
        (
            "`--continue`",
            "the given half bit for bit, then what fits",
            f"given exact {exact}; {s.agreement(made)}; {figures}",
        )
    )

    made = s.made(lambda clip, asked: Inpaint(clip, start_s=third, end_s=2 * third, conditions=[asked]))
    exact = _share(
        s.same(a, b, 0, third) and s.same(a, b, 2 * third, s.length) for a, b in zip(made, s.real, strict=True)
    )
    found.append(("`--inpaint`", "all but the middle third bit for bit", f"given exact {exact}; {s.agreement(made)}"))

    if s.pictures:
        frame = 1 / s.modality.fps
        made = s.made(lambda clip, asked: Animate(s.modality.cut(clip, 0, frame), seconds=s.length, conditions=[asked]))
        exact = _share(s.same(a, b, 0, frame) for a, b in zip(made, s.real, strict=True))
        found.append(("`--first`", "the first frame bit for bit", f"given exact {exact}; {s.agreement(made)}"))

    distances = []
    for strength in STRENGTHS:
        made = s.made(lambda clip, asked, k=strength: Vary(clip, strength=k, conditions=[asked]))
        distances.append(statistics.median(s.distance(a, b) for a, b in zip(made, s.real, strict=True)))
    unit = "PSNR" if s.pictures else "log-spectral distance"
    found.append(
        (
            f"`--vary --strength` {', '.join(f'{k:g}' for k in STRENGTHS)}",
            "farther from the clip the higher it is",
            f"{unit} {', '.join(f'{d:.1f}' for d in distances)} dB",
        )
    )
    found.append(_ends(s, unit))
    return found


def _loudness(s: Subject, scale: float) -> tuple[str, str, str]:
    """Samples at a guidance scale against the levels of the training clips."""
    used = s.generator.config.sample.model_dump()
    guidance = {**(used["guidance"] or {"type": "cfg", "start": 0.0}), "scale": scale}
    request = FromNoise(conditions=s.asked, settings=Sample.model_validate({**used, "guidance": guidance}))
    made, trained = s.generator.sample(request), Levels.read(s.run) or Levels.of(s.modality, s.real)
    assert trained is not None
    level = statistics.median(s.modality.level(clip) for clip in made)
    full = statistics.mean(s.modality.at_full_scale(clip) for clip in made)
    measured = f"median level {level - trained.median:+.1f} dB, at full scale {full:.3%} of samples"
    return f"`--guidance {scale:g}`", "as loud as the training clips within 2 dB, under 0.1 % at full scale", measured


def _ends(s: Subject, unit: str) -> tuple[str, str, str]:
    """The first and the last of an interpolation against the two clips, beside the encoder's own round trip."""
    ends, kept = [], []
    half = min(8, len(s.real) // 2)
    for a, b in zip(s.real[:half], s.real[half : 2 * half], strict=True):
        asked = [{k: clip.conditions.get(k) for k in s.generator.conditioners} for clip in (a, a, b)]
        made = s.generator.sample(Interpolate(a, b, conditions=asked))
        ends += [s.distance(made[0], a), s.distance(made[-1], b)]
        kept += [s.distance(new, old) for new, old in zip(s.generator.reconstruct([a, b]), (a, b), strict=True)]
    worst = min if s.pictures else max
    found = ["exact" if math.isinf(worst(values)) else f"worst {worst(values):.1f} dB" for values in (ends, kept)]
    text = f"{unit} of the ends: {found[0]}; of the encoder's round trip: {found[1]}"
    return "`--interpolate`", "begins with A and ends with B", text


def _share(found: Any) -> str:
    values = list(found)
    return f"{sum(values)} of {len(values)}"


def controls(s: Subject) -> list[str]:
    """Which figures tell each negative control from real clips."""
    result = evaluate(s.generator, s.dataset, s.generator.experiment.metrics, controls=True)
    told = [
        f"| {name.replace('_', ' ')} | {', '.join(figures) or 'none'} |" for name, figures in result.controls.items()
    ]
    missing = [
        f"| {name.replace('_', ' ')} | not made: {why} |" for name, why in result.settings["controls_missing"].items()
    ]
    return ["| negative control | told from real clips by |", "|---|---|", *told, *missing]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    lines: list[str] = []
    for run in options.runs:
        subject = Subject(run, options.clips)
        name = subject.generator.config.name
        used = (
            f"{len(subject.real)} held-out clips of {subject.length:g} s, {subject.generator.config.sample.steps} steps"
        )
        lines += [f"**{name}**, {used}:", ""]
        lines += ["| way | promise | measured |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows(subject)]
        lines += ["", *controls(subject), ""]
    print("\n".join(lines))
    if options.write is not None:
        before, begin, rest = options.write.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise SystemExit(f"{options.write} has not the marks {BEGIN} and {END}")
        with replacing(options.write) as temporary:
            temporary.write_text(before + BEGIN + "\n\n" + "\n".join(lines) + "\n" + END + after)


if __name__ == "__main__":
    main()
