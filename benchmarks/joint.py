"""Each stream of a joint run of bouncing-sounds beside a model that was trained on this stream alone at equal time.

    python benchmarks/joint.py runs/bouncing-sounds [--clips 200] [--seeds 3] [--share 1.0] [--folder runs/alone]

The steps of each are those that take as long as the joint run's: a step of all three is timed in turn, here. Same width, depth,
optimizer, times and encoder; each at 32 evaluations. Prints, for each stream, the Frechet distance to held-out clips (real
against real beside it), and how often ball and material are seen or heard as asked. --share .1 trains a tenth of it, to try it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from flowgen_audio.modality import Audio
from flowgen_av.bouncing import BouncingSounds
from flowgen_av.distribution import StreamDistribution
from flowgen_av.modality import AudioVideo
from flowgen_av.synchrony import BounceAgreement
from flowgen_video.modality import Video

from flowgen.config import load
from flowgen.evaluation import draw_sets
from flowgen.media.clip import Clip
from flowgen.plugins import Component, hookimpl, registry
from flowgen.runs.generator import Generator
from flowgen.runs.requests import FromNoise
from flowgen.training.trainer import train

STREAMS = ("picture", "sound")
TIMED_STEPS = 60


@dataclass(frozen=True)
class OneStream:
    """One stream of the clips of bouncing-sounds, as the medium of its own."""

    both: BouncingSounds
    stream: str
    held_out: bool = field(default=False)

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        return self.both.conditions

    def __len__(self) -> int:
        return len(self.both)

    def key(self, index: int) -> str:
        return self.both.key(index)

    def clip(self, index: int, seed: int) -> Clip:
        clip = self.both.clip(index, seed)
        own = self.both.modality.stream_of(clip, self.stream)
        assert own is not None
        return Clip(own.data, own.rate, clip.conditions, clip.source)

    def validation(self) -> OneStream:
        return OneStream(self.both.validation(), self.stream, True)

    def describe(self) -> dict[str, Any]:
        return self.both.describe()


def picture_alone(modality: Video) -> OneStream:
    both = AudioVideo(modality.fps, modality.frames, modality.height, modality.width)
    return OneStream(BouncingSounds(both), "picture")


def sound_alone(modality: Audio) -> OneStream:
    fps = 16.0
    both = AudioVideo(fps, round(modality.duration_s * fps), 16, 16, sample_rate=modality.sample_rate)
    return OneStream(BouncingSounds(both), "sound")


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component("dataset", f"{stream}-alone", f"{__name__}:{stream}_alone", f"the {stream} of bouncing-sounds alone")
        for stream in STREAMS
    ]


def alone(joint: Mapping[str, Any], stream: str) -> dict[str, Any]:
    """The config of one stream, from that of both."""
    m = joint["modality"]
    seconds = m["frames"] / m["fps"]
    medium = {
        "picture": {"type": "video", **{k: m[k] for k in ("fps", "frames", "height", "width", "channels")}},
        "sound": {"type": "audio", "sample_rate": m["sample_rate"], "duration_s": seconds},
    }
    network = {k: joint["network"][k] for k in ("width", "depth", "heads")}
    quiet = {"validation": {"every": 0}, "preview": {"every": 0}}
    return {
        "name": f"{stream}-alone",
        "modality": medium[stream],
        "data": {"type": f"{stream}-alone"},
        "encoder": joint["encoder"]["encoders"][stream],
        "network": {"type": "transformer", **network, "patch": joint["network"]["patches"][stream]},
        "path": joint["path"],
        "times": joint["times"],
        "shift": joint["shift"][stream],
        "loss": {"type": "flow-matching", "predicts": joint["loss"]["predicts"]},
        "train": {**joint["train"], **quiet},
        "sample": joint["sample"],
    }


def trained(config: Mapping[str, Any] | str, folder: Path, steps: int) -> Path:
    """The run folder of a config, trained here for so many steps (kept where it is there already)."""
    folder.mkdir(parents=True, exist_ok=True)
    name = config if isinstance(config, str) else str(folder / "config-asked.yaml")
    if not isinstance(config, str):
        Path(name).write_text(yaml.safe_dump(dict(config)))
    run = folder / f"steps-{steps}"
    if not (run / "checkpoints").is_dir() or not any((run / "checkpoints").iterdir()):
        quiet = ["train.validation.every=0", "train.preview.every=0", f"train.log_every={min(10, steps)}"]
        train(
            load(name, [*quiet, f"run={run}", f"train.steps={steps}", f"train.schedule.warmup={min(100, steps // 4)}"])
        )
    return run


def step_seconds(run: Path, batch: int) -> float:
    """The median over the lines of its log but the first."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return batch / statistics.median(line["clips_per_second"] for line in lines[1:] if "clips_per_second" in line)


class Judges:
    def __init__(self, modality: AudioVideo, dataset: BouncingSounds, clips: int) -> None:
        self.modality = modality
        self.sets = draw_sets(dataset, clips, 0)
        self.agreement = BounceAgreement(modality, dataset)
        self.distances = {stream: StreamDistribution(modality, dataset, stream) for stream in STREAMS}  # type: ignore[arg-type]

    def figures(self, stream: str, clips: list[Clip]) -> dict[str, float]:
        """Of one stream of clips that may have both."""
        asked = [clip.conditions for clip in clips]
        own = [clip if isinstance(clip.data, Mapping) else self.modality.combined({stream: clip}) for clip in clips]
        own = [Clip(c.data, c.rate, a, c.source) for c, a in zip(own, asked, strict=True)]
        agreed = self.agreement.measure(own)
        felt = "seen" if stream == "picture" else "heard"
        distance = self.distances[stream].measure(own, self.sets.reference)
        return {
            "frechet": distance[f"{stream}_frechet"],
            "ball": agreed[f"ball_{felt}"],
            "material": agreed[f"material_{felt}"],
        }

    def sampled(self, run: Path, seed: int) -> list[Clip]:
        generator = Generator.load(run)
        asked = [{k: clip.conditions[k] for k in generator.conditioners} for clip in self.sets.real]
        return generator.sample(FromNoise(conditions=asked, seed=seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/alone"))
    options = parser.parse_args()

    registry().register("one-stream", SimpleNamespace(flowgen_components=flowgen_components))
    joint = load(str(options.run)).config
    shown = joint.model_dump(mode="json", exclude_unset=True)
    batch, steps = joint.train.batch_size, joint.train.steps
    both = step_seconds(trained(str(options.run / "config.yaml"), options.folder / "timed-joint", TIMED_STEPS), batch)
    experiment = Generator.load(options.run).experiment
    judges = Judges(experiment.modality, experiment.dataset, options.clips)  # type: ignore[arg-type]
    made = [judges.sampled(options.run, seed) for seed in range(options.seeds)]
    print(f"{'stream':<9}{'model':<26}{'Frechet':>16}{'ball':>8}{'material':>10}")
    for stream in STREAMS:
        config = alone(shown, stream)
        one = step_seconds(trained(config, options.folder / f"timed-{stream}", TIMED_STEPS), batch)
        equal = round(options.share * steps * both / one)
        run = trained(config, options.folder / stream, equal)
        real = judges.figures(stream, judges.sets.real)
        print(row(stream, "real clips", [real]))
        joined = [judges.figures(stream, clips) for clips in made]
        single = [judges.figures(stream, judges.sampled(run, seed)) for seed in range(options.seeds)]
        print(row("", f"joint, {steps} steps", joined))
        print(row("", f"alone, {equal} steps", single))
        ratio = statistics.mean(f["frechet"] for f in joined) / statistics.mean(f["frechet"] for f in single)
        print(f"{'':<9}joint / alone: {ratio:.2f}", flush=True)


def row(stream: str, model: str, figures: list[dict[str, float]]) -> str:
    means = {name: statistics.mean(f[name] for f in figures) for name in figures[0]}
    spread = max(f["frechet"] for f in figures) - min(f["frechet"] for f in figures)
    said = f"{means['frechet']:.2f} +- {spread / 2:.2f}" if len(figures) > 1 else f"{means['frechet']:.2f}"
    return f"{stream:<9}{model:<26}{said:>16}{means['ball']:>8.1%}{means['material']:>10.1%}"


if __name__ == "__main__":
    main()
