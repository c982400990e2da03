"""Sound with picture on one page: train one model of both for a while, then ask it for both, and for each from the other.

    python examples/joint_clip.py [STEPS]        # 1,500 by default: about 15 minutes on two CPU cores

The clips lie in runs/joint-clip/samples, and what the figures of synchrony say of them is printed.
"""

import sys
from pathlib import Path

from flowgen_av.synchrony import EventSynchrony

from flowgen.config import load
from flowgen.media.clip import Clip
from flowgen.runs.generator import Generator
from flowgen.runs.requests import FromNoise, FromStream
from flowgen.training.trainer import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
run = Path("runs/joint-clip")
config = load("av/bouncing-sounds", [f"run={run}", f"train.steps={steps}", f"train.schedule.warmup={steps // 10}"])
if not (run / "checkpoints").is_dir():
    train(config)

generator = Generator.load(run)
held_out = generator.experiment.dataset.validation()
real = [held_out.clip(i, 0) for i in range(16)]
asked = [dict(clip.conditions) for clip in real]


def only(stream: str) -> dict[str, list[Clip]]:
    """One stream of the real clips."""
    medium = generator.modality
    return {stream: [medium.combined({stream: medium.stream_of(clip, stream)}) for clip in real]}


ways = {
    "both": FromNoise(conditions=asked, seed=1),
    "sound-for-picture": FromStream(only("picture"), conditions=asked, seed=1),
    "picture-for-sound": FromStream(only("sound"), conditions=asked, seed=1),
}
synchrony = EventSynchrony(generator.modality, generator.experiment.dataset)
for name, request in ways.items():
    clips = generator.sample(request)
    path = run / "samples" / f"{name}.mp4"
    path.parent.mkdir(exist_ok=True)
    generator.modality.write(clips[:1], path, generator.describe(request))
    found = ", ".join(f"{k} {v:.3g}" for k, v in synchrony.measure(clips).items())
    print(f"{path}: {found}")
