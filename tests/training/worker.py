"""Jobs for one rank, done one after the other in one process group: starting ranks costs more than a tiny run.

    torchrun --nproc-per-node N worker.py JOBS.json

A job is {"train": config, "resume": bool} or {"rewind": folder, "into": folder}, which copies a run as it stood at its
first checkpoint. What each rank held at the end of a run goes to held-RANK.json in its folder.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

from rich.console import Console  # noqa: E402

from flowgen.config import Document, resolve  # noqa: E402
from flowgen.runs.experiment import Experiment  # noqa: E402
from flowgen.training import loop  # noqa: E402
from flowgen.training.engine import end_rank, start_ranks  # noqa: E402
from flowgen.training.internals import optimizer_states  # noqa: E402
from flowgen.training.ranks import agree  # noqa: E402
from flowgen.training.trainer import train  # noqa: E402


def held(engine: Any) -> dict[str, int]:
    """Bytes of optimizer state and of parameters on this rank, and the networks that it has built."""
    moments = [t for s in optimizer_states(engine) for k, t in s.items() if k.startswith("exp_avg")]
    own = [p.ds_tensor if hasattr(p, "ds_tensor") else p for p in engine.module.parameters()]
    return {
        "optimizer": sum(t.nbytes for t in moments),
        "parameters": sum(t.nbytes for t in own),
        "networks": len(built),
    }


built: list[Any] = []


def counted(self: Experiment) -> Any:
    built.append(None)
    return new_network(self)


new_network = Experiment.new_network
Experiment.new_network = counted  # type: ignore[method-assign]


class Measured(loop.Trainer):
    def fit(self, *arguments: Any) -> Any:
        result = super().fit(*arguments)
        (self.run.folder / f"held-{self.ranks.rank}.json").write_text(json.dumps(held(self.engine)))
        return result


def main() -> None:
    import flowgen.training.trainer as trainer

    trainer.Trainer = Measured  # type: ignore[misc]
    ranks = start_ranks(120.0)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        if "rewind" in job and ranks.first:
            shutil.copytree(job["rewind"], job["into"], dirs_exist_ok=True)
            saved = sorted(Path(job["into"], "checkpoints").glob("step-*"))
            shutil.rmtree(saved[-1])
        agree(ranks, None)
        if "train" in job:
            train(
                resolve(Document(job["train"])),
                resume=job.get("resume", False),
                console=Console(stderr=True, quiet=True),
            )
    agree(ranks, None)
    end_rank()


main()
