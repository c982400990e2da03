"""A flowgen run as a job of Ray: `python examples/ray_train.py my.yaml --workers 2`; needs `pip install 'ray[train]'`.

Ray finds the machines and starts the ranks; flowgen trains as under any launcher, and goes on from the newest checkpoint.
"""

import argparse
import os

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def rank(settings: dict) -> None:
    """One rank, in a worker of Ray, which has set RANK, WORLD_SIZE and the address to meet at."""
    from flowgen.config import load
    from flowgen.runs.run import Run
    from flowgen.training.prepare import run_folder
    from flowgen.training.trainer import train

    os.chdir(settings["folder"])  # so that paths in the config mean what they mean here
    resolved = load(settings["config"], settings["overrides"])
    train(resolved, resume=bool(Run(run_folder(resolved.config)).checkpoints()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpu", action="store_true", help="one for each worker")
    asked = parser.parse_args()
    trainer = TorchTrainer(
        rank,
        train_loop_config={"config": asked.config, "overrides": asked.overrides, "folder": os.getcwd()},
        scaling_config=ScalingConfig(num_workers=asked.workers, use_gpu=asked.gpu),
        run_config=RunConfig(name="flowgen"),
    )
    trainer.fit()


if __name__ == "__main__":
    main()
