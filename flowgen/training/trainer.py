"""Training: from a config to a run that has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from flowgen.config import Config, Resolved
from flowgen.core.interfaces import Loss, LossWithAverage, StartsFromData
from flowgen.core.tree import State
from flowgen.data.latents import LatentCache
from flowgen.data.loader import Split, batches
from flowgen.data.order import InBuckets, has_buckets
from flowgen.errors import UsageError
from flowgen.media.encoder import Encoder
from flowgen.media.interfaces import Dataset
from flowgen.runs.adapted import parameters_of
from flowgen.runs.base_error import BaseError, error_of_base
from flowgen.runs.checks import check_sampling
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator
from flowgen.runs.levels import Levels
from flowgen.runs.lock import locked
from flowgen.runs.run import Checkpoint, Run
from flowgen.runs.teacher import Frozen, taught
from flowgen.training.batches import check_buckets, resolve_schedule
from flowgen.training.blocks import prepare_blocks
from flowgen.training.caching import load_statistics, stored_clips
from flowgen.training.checkpoints import choose_checkpoint, load_after, load_before
from flowgen.training.deepspeed_config import deepspeed_config, micro_batch_size, user_config
from flowgen.training.engine import Objective, check_config, share_sequences, start_engine, start_ranks
from flowgen.training.failures import counted
from flowgen.training.initial import Source, kept_statistics
from flowgen.training.loop import Result, Trainer
from flowgen.training.mirror import Mirror
from flowgen.training.prepare import (
    FIT_CLIPS,
    check_encoder,
    config_changes,
    refuse_changes,
    refuse_existing,
    run_folder,
    sample_clips,
    write_config,
    write_run,
)
from flowgen.training.ranks import Ranks, lost_ranks_named, together
from flowgen.training.same_data import ALLOW, changes, with_places, write_data
from flowgen.training.watch import Validator

__all__ = ["Result", "Trainer", "train"]


def train(
    resolved: Resolved,
    *,
    resume: bool = False,
    init_from: str | None = None,
    allow: tuple[str, ...] = (),
    console: Console | None = None,
) -> Result:
    """Train what a config describes, in this process or as one rank of many.

    Args:
        resume: continue the run folder of this config exactly; refused where the config differs in what matters.
        init_from: a run or an export whose averaged weights to start from, with the statistics of its encoder; step,
            optimizer, schedule and EMA start from the beginning.
        allow: patterns of the weights that may be missing from it, unexpected or of another shape, and "encoder" for
            statistics of its own; with resume, "data".

    Raises UsageError and FlowgenError before the first step where something does not fit.
    """
    ranks = start_ranks(resolved.config.train.timeout_s)
    run = Run(run_folder(resolved.config))
    engine_config = deepspeed_config(resolved.config, ranks.count)
    check_config(engine_config)
    with lost_ranks_named(ranks), _alone(run, ranks):
        return _train(resolved, run, ranks, engine_config, resume, init_from, allow, console or Console(stderr=True))


@contextmanager
def _alone(run: Run, ranks: Ranks) -> Iterator[None]:
    """A block in which no other process trains this run. FlowgenError: one does."""
    with ExitStack() as stack:
        with together(ranks):
            if ranks.first:
                stack.enter_context(locked(run.folder))
        yield


def _train(
    resolved: Resolved,
    run: Run,
    ranks: Ranks,
    engine_config: dict[str, Any],
    resume: bool,
    init_from: str | None,
    allow: tuple[str, ...],
    console: Console,
) -> Result:
    heading = _Heading(console, ranks.first)
    user = {"deepspeed": user_config(resolved.config)}  # the run folder describes the run by itself
    experiment = Experiment(resolved.config.model_copy(update=user)).complete()
    experiment.check_loss()
    config, dataset = experiment.config, experiment.dataset
    config = with_places(config, dataset)
    mirror = _mirror(run, config, dataset, ranks, resume, heading)
    checkpoint = _checkpoint(run, config, dataset, ranks, resume, ALLOW in allow, heading)
    heading("data", ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in dataset.describe().items()))
    shared = config.train.sequence_parallel
    split = Split(
        config.train.batch_size, micro_batch_size(config, ranks.count), ranks.count // shared, ranks.rank // shared
    )
    schedule = resolve_schedule(dataset, config, split, checkpoint)
    if isinstance(schedule, InBuckets):
        sizes = ", ".join(f"{bucket.batch} x {bucket.name}" for bucket in schedule.buckets)
        heading("batches", f"{schedule.per_epoch} an epoch, each of one bucket: {sizes}")
    source = None if init_from is None else Source(Path(init_from), allow)
    cache = None if config.train.cache is None else LatentCache(Path(config.train.cache))
    encoder, levels = _fitted_encoder(experiment, run, checkpoint, source, cache, ranks, heading)
    stored = None if cache is None else stored_clips(experiment, cache)
    if stored is not None:
        heading("cache", f"{len(stored.prints)} clips in {config.train.cache}, read in place of encoding")

    loss, averaged = complete_loss(experiment, ranks.device)
    network = experiment.network
    if checkpoint is None and source is None and isinstance(network, StartsFromData):
        network.start_from(_states(experiment))
    ranks = share_sequences(network, ranks, shared)
    generator = Generator(experiment, network, ranks.device)  # of the network that is trained; no rank samples with it
    check_sampling(generator)
    if source is not None:
        heading("weights", source.load_network(network, experiment))
    heading("network", f"{config.network.type}, {_counted(network)}")
    heading("run", str(run.folder))
    with together(ranks):
        if ranks.first and checkpoint is None:
            write_run(run, config, resolved, encoder)
            if levels is not None:
                levels.write(run.folder)
        elif ranks.first:
            write_config(run, config)
        if ranks.first:
            write_data(run.folder, dataset)
    if checkpoint is not None:
        load_before(checkpoint, network, loss)
    with together(ranks):
        if ranks.first and (error := _error_of_base(run, experiment, network, ranks.device)):
            heading("base", str(error))

    check_buckets(generator, dataset, schedule)
    prepare_blocks(network, recompute=config.train.activation_checkpointing, backend=config.train.compile)
    engine = start_engine(Objective(network, loss), config.train.optimizer, engine_config, config.train.timeout_s)
    trainer = Trainer(config, run, ranks, engine, generator, console, mirror)
    trainer.averaged = averaged
    if config.train.validation.every or config.train.preview.every:
        with together(ranks):
            if ranks.first:
                trainer.validator = Validator.of(experiment, ranks.device, run.folder / "previews")
    if checkpoint is not None:
        load_after(checkpoint, engine, trainer.averages, ranks)
        trainer.load(checkpoint)
        heading("resume", f"from step {trainer.step} of {config.train.steps}{_moved(checkpoint, engine, ranks)}")
    data = batches(
        dataset, config.train.seed, split, trainer.step, config.train.workers, schedule, stored, ranks.device
    )
    data = counted(data, dataset, ranks)
    try:
        return trainer.fit(data, split)
    finally:
        engine.destroy()


def complete_loss(experiment: Experiment, device: torch.device) -> tuple[Loss, nn.Module | None]:
    """The loss of an experiment, from now on with the networks that it asks for; and the one that is to show averaged weights.

    UsageError: it asks for a teacher that does not fit.
    """
    loss, averaged = taught(experiment.loss, experiment, device), None
    if isinstance(loss, LossWithAverage):
        averaged = experiment.new_network().to(device)
        loss = loss.with_average(Frozen(averaged))
    experiment.loss = loss
    return loss, averaged


def _error_of_base(run: Run, experiment: Experiment, network: nn.Module, device: torch.device) -> BaseError | None:
    """As it was measured when the run began, or now."""
    kept = BaseError.read(run.folder, experiment.config)
    found = kept or error_of_base(experiment, network, device)
    if found is not None and kept is None:
        found.write(run.folder)
    return found


@torch.no_grad()
def _states(experiment: Experiment) -> Iterator[State]:
    """States of training clips, one at a time."""
    for clip in sample_clips(experiment.dataset, experiment.config.train.seed, FIT_CLIPS):
        yield experiment.encoder.encode([clip]).x


def _counted(network: nn.Module) -> str:
    trained, every = parameters_of(network)
    return f"{every:,} parameters" + (
        f", {trained:,} of them trained ({trained / every:.1%})" if trained < every else ""
    )


class _Heading:
    """The lines above the progress bar, said by the first rank."""

    def __init__(self, console: Console, visible: bool) -> None:
        self.console, self.visible = console, visible

    def __call__(self, what: str, text: str) -> None:
        if self.visible:
            self.console.print(f"[bold]{what:<8}[/bold] {text}", highlight=False, soft_wrap=True)


def _checkpoint(
    run: Run, config: Config, dataset: Dataset, ranks: Ranks, resume: bool, allow_data: bool, heading: _Heading
) -> Checkpoint | None:
    """What to continue from; None: begin. UsageError: the run exists, or is another."""
    with together(ranks):
        begun = bool(run.checkpoints())
        if resume and begun:
            refuse_changes(run, config, dataset, allow_data)
        elif not resume or not (run.folder / "config.yaml").is_file():
            refuse_existing(run)
    if not resume:
        return None
    if not begun:
        heading("resume", "nothing saved yet, starting at step 0")
        return None
    checkpoint = choose_checkpoint(run, ranks, config.train.checkpoint.on_damage, lambda text: heading("damaged", text))
    if "exported" in checkpoint.manifest:
        raise UsageError(f"{run.folder} is an export: weights alone; start from it with --init-from {run.folder}")
    return checkpoint


def _mirror(run: Run, config: Config, dataset: Dataset, ranks: Ranks, resume: bool, heading: _Heading) -> Mirror | None:
    """The copy of the run elsewhere, on the first rank; what it has and this machine lacks is brought here to resume."""
    mirror = None
    url, earlier = config.train.checkpoint.mirror, config.train.checkpoint.on_damage == "previous"
    with together(ranks):
        if ranks.first and url is not None:
            mirror = Mirror(url, run)
            if not resume:
                mirror.refuse_existing()
            elif (brought := mirror.fetch(partial(_changed, config, dataset), earlier=earlier)) is not None:
                heading("mirror", f"{brought} brought from {url}")
    return mirror


def _changed(config: Config, dataset: Dataset, there: Run) -> list[str]:
    return config_changes(there, config, dataset, changes(there.folder, dataset))


def _moved(checkpoint: Checkpoint, engine: Any, ranks: Ranks) -> str:
    made = (checkpoint.manifest["ranks"], checkpoint.manifest["zero_stage"])
    if made == (ranks.count, engine.zero_optimization_stage()):
        return ""
    return f"; saved by {made[0]} ranks at ZeRO stage {made[1]}, so equal up to the order of sums"


def _fitted_encoder(
    experiment: Experiment,
    run: Run,
    checkpoint: Checkpoint | None,
    source: Source | None,
    cache: LatentCache | None,
    ranks: Ranks,
    heading: _Heading,
) -> tuple[Encoder, Levels | None]:
    """The encoder, with what it measured on the data or on those of the source, tried on real clips; and their levels."""
    encoder, dataset, seed = experiment.encoder.to(ranks.device), experiment.dataset, experiment.config.train.seed
    clips = sample_clips(dataset, seed, 8 if checkpoint else FIT_CLIPS)
    levels = Levels.of(experiment.modality, clips)
    if checkpoint is not None:
        run.load_encoder(encoder, checkpoint)
    else:
        if cache is None:
            encoder.fit(clips)
        else:
            load_statistics(encoder, cache.folder)
        kept = kept_statistics(experiment, encoder, source)
        if kept:
            heading("encoder", kept)
    if has_buckets(dataset):
        clips = sample_clips(dataset, seed, 8, alike=True)
    heading("latents", check_encoder(encoder, clips[:8]))
    return encoder, levels
