"""Everything together: it learns, samples, and trains on several ranks."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgen.config import dumps, in_force
from flowgen.config.schema import Sample
from flowgen.core.interfaces import MASK
from flowgen.core.random import Randomness
from flowgen.core.tree import leaves, tree_map
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents
from flowgen.testing.checks.dataset import equal
from flowgen.testing.contract import NotApplicable, checks_for
from flowgen.testing.subject import Subject, distance
from flowgen.training.optimizers import peak_rate

check = checks_for("recipe")

_STEPS = 20
_ROUNDING = 1e-5
"""Kernels depend on the shape of a batch; by this share of its size a latent of float32 may differ between two shapes."""
_PATIENCE_S = 600


@check(f"{_STEPS} steps on one batch lower its loss", see="training")
def training_lowers_the_loss(s: Subject) -> str | None:
    network = s.new_network().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=max(peak_rate(s.config.train.optimizer), 2e-3))
    cond = s.conditions(s.clips)
    if s.latents.mask is not None:
        cond[MASK] = s.latents.mask
    random = Randomness(0, 0, len(s.clips))
    losses = []
    for _ in range(_STEPS + 1):
        optimizer.zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss = s.loss(network, s.latents.x, cond, random).total.mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    if not all(map(math.isfinite, losses)):
        return f"the loss is not finite at step {next(i for i, v in enumerate(losses) if not math.isfinite(v))}"
    if losses[-1] > 0.9 * losses[0]:
        return f"the loss goes from {losses[0]:.4g} to {losses[-1]:.4g}; expected at most {0.9 * losses[0]:.4g}"
    return None


@check(
    "sampling is a function of seed and conditions: the same clips again bit for bit, and up to rounding whatever else is "
    "sampled with them",
    see="sampling",
)
def sampling_follows_the_seed(s: Subject) -> str | None:
    _generates(s)
    asked = [{k: c.conditions[k] for k in s.conditioners} for c in s.clips[:2]]
    first, latents = _sampled(s, asked, 1)
    if not all(equal(a, b) for a, b in zip(first, _sampled(s, asked, 1)[0], strict=True)):
        return "the same seed gives other clips the second time"
    (alone,), own = _sampled(s, asked[:1], 1)
    off = distance(own.x, tree_map(lambda all_, one: all_[:1][tuple(map(slice, one.shape))], latents.x, own.x))
    if off > _ROUNDING:
        return f"the latent of a clip sampled alone differs by {off:.2g} of its size from the same one among others"
    off, allowed = distance(alone.data, first[0].data), s.tolerances.batch + 4 * _amplified(s, own)
    if off > allowed:
        return (
            f"a clip decoded alone differs by {off:.2g} from the same one among others, where the decoder makes at most "
            f"{allowed:.2g} of the rounding of its latent"
        )
    other, _ = _sampled(s, asked, 2)
    if all(equal(a, b) for a, b in zip(first, other, strict=True)):
        return "another seed gives the same clips"
    if not all(bool(torch.isfinite(leaf.float()).all()) for clip in first for leaf in leaves(clip.data)):
        return "a sampled clip is not finite"
    return None


def _generates(s: Subject) -> None:
    if s.experiment.reconstructs:
        raise NotApplicable("an autoencoder generates nothing")


def _sampled(s: Subject, asked: Sequence[Mapping[str, Any]], seed: int) -> tuple[list[Clip], Latents]:
    """Clips sampled in two steps, and the latents that they were decoded from."""
    settings = Sample.model_validate({**s.config.sample.model_dump(), "steps": 2})
    seen: list[Latents] = []

    def decode(latents: Latents) -> list[Clip]:
        seen.append(latents)
        return type(encoder).decode(encoder, latents)

    encoder = s.generator.encoder
    encoder.decode = decode  # type: ignore[method-assign]
    try:
        clips = s.generator.sample(asked, seed=seed, settings=settings)
    finally:
        del encoder.decode
    return clips, seen[-1]


def _amplified(s: Subject, latents: Latents) -> float:
    """What the decoder makes of a change of its latents by `_ROUNDING` of their size: phase retrieval makes much of it."""
    random = torch.Generator().manual_seed(0)

    def moved(x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=random).to(x)
        return x + _ROUNDING * x.square().mean().sqrt() * noise

    a, b = (s.generator.encoder.decode(Latents(x, latents.mask)) for x in (latents.x, tree_map(moved, latents.x)))
    return distance(b[0].data, a[0].data)


@check("a clip that was sampled can be written", see="sampling")
def samples_can_be_written(s: Subject) -> str | None:
    _generates(s)
    settings = Sample.model_validate({**s.config.sample.model_dump(), "steps": 2})
    clips = s.generator.sample([{k: c.conditions[k] for k in s.conditioners} for c in s.clips[:2]], settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in s.modality.formats:
            path = Path(folder) / f"sample{suffix}"
            s.modality.write(clips if s.modality.clips_per_file is None else clips[:1], path, {"seed": 0})
            if not path.is_file() or not path.stat().st_size:
                return f"write made no file for {suffix!r}"
        s.modality.sheet(clips, Path(folder) / "sheet.png", ["a", "b"])
    return None


@check(
    "it trains under ZeRO-3 on 2 ranks, through the command line, and loses what 1 rank loses",
    see="training",
    slow=True,
)
def trains_on_two_ranks(s: Subject) -> str | None:
    if any(plugin.distribution == "this process" for plugin in s.plugins):
        raise NotApplicable("the plugin is not installed, so another process cannot find it")
    with tempfile.TemporaryDirectory() as folder:
        losses = []
        for ranks, stage in ((1, 1), (2, 3)):
            done = _train(s, Path(folder), ranks, stage)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if "Error" in line or line.startswith("flowgen:")]
                return (
                    f"training on {ranks} ranks with ZeRO-{stage} failed: {' / '.join(said[-2:]) or done.stderr[-400:]}"
                )
            log = (Path(folder) / f"run{ranks}" / "log.jsonl").read_text().splitlines()
            losses.append([json.loads(line)["loss"] for line in log])
        off = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
        return f"the losses are {losses[0]} on 1 rank and {losses[1]} on 2" if off > 1e-3 else None


def _train(s: Subject, folder: Path, ranks: int, stage: int) -> subprocess.CompletedProcess[str]:
    values = {k: v for k, v in in_force(s.written).items() if k not in ("deepspeed", "loggers", "run")}
    values["train"] |= {"steps": 2, "batch_size": 4, "micro_batch_size": None, "log_every": 1, "workers": 0}
    values["train"] |= {"validation": {"every": 0}, "preview": {"every": 0}, "precision": "float32"}
    values |= {
        "run": str(folder / f"run{ranks}"),
        "deepspeed": {"zero_optimization": {"stage": stage}},
        "loggers": ["jsonl"],
    }
    path = folder / f"{ranks}.yaml"
    path.write_text(dumps(values))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if ranks > 1 else []
    command = [sys.executable, *launch, "-m", "flowgen", "train", str(path), "--quiet"]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_PATIENCE_S)
