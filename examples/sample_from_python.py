"""Sample a trained run from Python: the same object that the command line uses.

flowgen demo                                # or any run of your own
python examples/sample_from_python.py runs/demo/audio
"""

import sys
from pathlib import Path

from flowgen.media.conditions import ClassCondition
from flowgen.runs.generator import Generator

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/audio")
generator = Generator.load(run, overrides=["sample.steps=12"])
print(f"{generator.config.name}, step {generator.step}; conditions:")
for name, conditioner in generator.conditioners.items():
    print(f"  {name}: {conditioner.describe()}")

# every class of the first condition, nothing asked of the others
name, conditioner = next(iter(generator.conditioners.items()))
values = conditioner.names[:8] if isinstance(conditioner, ClassCondition) else ()
clips = generator.sample([{name: value} for value in values], seed=1)

suffix = next(iter(generator.modality.formats))
for value, clip in zip(values, clips, strict=True):
    path = run / "samples" / f"{name}-{value}{suffix}"
    path.parent.mkdir(exist_ok=True)
    generator.modality.write([clip], path, generator.describe(conditions=dict(clip.conditions)))
    print(path)
