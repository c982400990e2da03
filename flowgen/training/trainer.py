"""Training: the loop, and what meets in it."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from flowgen.conditions import MASK, drop_conditions, null_conditions
from flowgen.config import Config, Resolved, build
from flowgen.data.loader import Split, batches
from flowgen.errors import FlowgenError
from flowgen.experiment import (
    build_conditioners,
    build_dataset,
    build_encoder,
    build_loss,
    build_modality,
    build_network,
    build_regions,
    settle_conditions,
)
from flowgen.generator import Generator
from flowgen.plugins import registry
from flowgen.random import Randomness, seed_of
from flowgen.regions import draw_known
from flowgen.run import Run
from flowgen.training.checkpoints import load_checkpoint, network_weights, save_checkpoint
from flowgen.training.deepspeed_config import deepspeed_config, micro_batch_size
from flowgen.training.ema import ShardedEMA, gather
from flowgen.training.engine import Objective, Ranks, barrier, reduce, start_engine, start_ranks
from flowgen.training.loggers import Logger
from flowgen.training.prepare import (
    FIT_CLIPS,
    check_encoder,
    refuse_changes,
    refuse_existing,
    run_folder,
    sample_clips,
    write_run,
)
from flowgen.training.progress import ProgressDisplay
from flowgen.training.schedule import learning_rate
from flowgen.training.watch import Watcher, batch_tensors

_TIME_BINS = 5


@dataclass(frozen=True)
class Result:
    """How a run ended: at which step, and whether all its steps are done."""

    folder: Path
    step: int
    finished: bool


def train(
    resolved: Resolved, *, resume: bool = False, init_from: str | None = None, console: Console | None = None
) -> Result:
    """Train what a config describes, in this process or as one rank of many.

    Args:
        resume: continue the run folder of this config exactly; refused where the config differs in what matters.
        init_from: a run whose averaged weights to start from; step, optimizer, schedule and EMA begin anew.

    Raises UsageError and FlowgenError before the first step where something does not fit.
    """
    ranks = start_ranks()
    display = console or Console(stderr=True)
    say = display.print if ranks.first else (lambda *args, **options: None)
    config, run = resolved.config, Run(run_folder(resolved.config))
    engine_config = deepspeed_config(config, ranks.count)

    modality = build_modality(config)
    dataset = build_dataset(config, modality)
    config = settle_conditions(config, dataset)
    resuming = resume and bool(run.checkpoints())
    if resuming:
        refuse_changes(run, config)
    elif not resume or not (run.folder / "config.yaml").is_file():
        refuse_existing(run)
    say(f"[bold]data[/bold]     {_facts(dataset.describe())}", highlight=False, soft_wrap=True)

    encoder = build_encoder(config, modality).to(ranks.device)
    clips = sample_clips(dataset, config.train.seed, FIT_CLIPS)
    if resuming:
        run.load_encoder(encoder, run.newest_checkpoint())
    else:
        encoder.fit(clips)
    say(f"[bold]latents[/bold]  {check_encoder(encoder, clips[:8])}", highlight=False, soft_wrap=True)

    conditioners = build_conditioners(config)
    loss = build_loss(config)
    network = build_network(config, encoder.spec, conditioners)
    if init_from is not None:
        source = Run(Path(init_from)).newest_checkpoint()
        source.load_weights(network, "ema")
        say(f"[bold]weights[/bold]  from {source.folder} (averaged), all {len(network.state_dict())} tensors match")
    count = sum(p.numel() for p in network.parameters())
    say(f"[bold]network[/bold]  {config.network.type}, {count:,} parameters", highlight=False)
    say(f"[bold]run[/bold]      {run.folder}", highlight=False, soft_wrap=True)
    if ranks.first and not resuming:
        write_run(run, config, resolved, encoder)
    barrier(ranks)

    shadow = build_network(config, encoder.spec, conditioners).to(ranks.device).requires_grad_(False)
    generator = Generator(config, modality, encoder, conditioners, loss, shadow, ranks.device)
    engine = start_engine(Objective(network, loss), config.train.optimizer, engine_config)
    trainer = Trainer(config, run, ranks, engine, generator, display)
    if config.train.validation.every or config.train.preview.every:
        wanted = max(config.train.validation.clips, config.train.preview.clips)
        trainer.watcher = Watcher.of(generator, dataset, wanted, run.folder / "previews")
    if resuming:
        trainer.step = load_checkpoint(run.newest_checkpoint(), engine, trainer.ema, ranks)
        say(f"[bold]resume[/bold]   from step {trainer.step} of {config.train.steps}", highlight=False)
    elif resume:
        say("[bold]resume[/bold]   nothing saved yet, starting at step 0", highlight=False)
    split = Split(config.train.batch_size, micro_batch_size(config, ranks.count), ranks.count, ranks.rank)
    data = batches(dataset, config.train.seed, split, trainer.step, config.train.workers)
    try:
        return trainer.fit(data, split)
    finally:
        engine.destroy()


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in facts.items())


class Trainer:
    """The loop over steps. Everything random in a step is a function of (seed, step, row of the global batch)."""

    def __init__(
        self, config: Config, run: Run, ranks: Ranks, engine: Any, generator: Generator, console: Console
    ) -> None:
        self.config, self.run, self.ranks, self.engine, self.console = config, run, ranks, engine, console
        self.generator = generator
        self.regions = build_regions(config, generator.encoder.spec)
        self.ema = ShardedEMA(engine, config.train.ema.decay)
        self.watcher: Watcher | None = None
        self.step = 0
        self._stop = self._finished = False
        self._saved: Path | None = None
        self._skipped_in_a_row = 0
        self._figures = _Figures(ranks)

    def fit(self, data: Iterator[Any], split: Split) -> Result:
        """Train to the last step, or to the end of the step in which a stop is asked for."""
        options = self.config.train
        with ExitStack() as stack:
            stack.enter_context(self._stopping_cleanly())
            loggers: list[Logger] = []
            if self.ranks.first:
                loggers = [build("logger", c, folder=self.run.folder) for c in self.config.loggers]
            for logger in loggers:
                stack.callback(logger.close)
            bar = stack.enter_context(
                ProgressDisplay(
                    f"train {self.config.name}",
                    options.steps,
                    self.step,
                    console=self.console,
                    visible=self.ranks.first,
                )
            )
            self._tell("flowgen_run_started", config=self.config, step=self.step)
            stack.callback(lambda: self._tell("flowgen_run_ended", step=self.step, finished=self._finished))
            while self.step < options.steps:
                self._train_step(data, split)
                self.step += 1
                figures = self._figures.take(self.step) if self._due(options.log_every) else {}
                if figures:
                    figures["learning_rate"] = self._rate(self.step - 1)
                bar.update(self.step, self._note(figures))
                if self._due(options.validation.every) or self._due(options.preview.every):
                    figures |= self._watch(bar)
                for logger in loggers if figures else []:
                    logger.log(self.step, figures)
                self._tell("flowgen_step_done", step=self.step, figures=figures)
                if self._due(options.checkpoint.every):
                    self._save()
                if self._asked_to_stop():
                    break
            saved = self._save()
            self._finished = self.step >= options.steps
        if self.ranks.first:
            self._farewell(saved, self._finished)
        return Result(self.run.folder, self.step, self._finished)

    def _train_step(self, data: Iterator[Any], split: Split) -> None:
        """One optimizer step over all micro-batches."""
        self.engine.train()
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        total = 0.0
        for micro_step in range(split.accumulation):
            began = time.monotonic()
            clips = next(data)
            self._figures.waited += time.monotonic() - began
            rows = split.rows(micro_step)
            random = Randomness(self.config.train.seed, self.step, split.batch, rows)
            x1, cond = batch_tensors(self.generator, clips)
            cond = self._drop(cond, random)
            # layers that draw from torch's own generator (dropout) do so as a function of the step too
            torch.manual_seed(seed_of(self.config.train.seed, "layers", self.step, int(rows[0])))
            known = draw_known(self.regions, self.generator.encoder.spec, x1, cond.get(MASK), random)
            output = self.engine(x1, cond, random, known)
            loss = output.total.mean()
            self.engine.backward(loss)
            total += float(loss.detach()) / split.accumulation
            self._figures.add(output.total.detach(), output.t, output.by_stream)
            if not math.isfinite(total):
                self._refuse_at_stage_0()
            self.engine.step()
        self._count_skips(total)
        self.ema.update(self.step)

    def _refuse_at_stage_0(self) -> None:
        """ZeRO 1 to 3 skip a step whose gradients are not finite; stage 0 would write them into the weights."""
        if self.engine.zero_optimization_stage() == 0:
            for parameter in self.engine.module.parameters():
                parameter.grad = None

    def _count_skips(self, loss: float) -> None:
        bad = reduce(torch.tensor(float(not math.isfinite(loss)), device=self.ranks.device), self.ranks, "max")
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if bad else 0
        if self._skipped_in_a_row > self.config.train.max_skipped:
            raise FlowgenError(
                f"the loss was not finite in {self._skipped_in_a_row} steps in a row, the last being step {self.step}; "
                f"lower train.optimizer.lr or check the data; the newest checkpoint is unharmed"
            )

    def _drop(self, cond: dict[str, Any], random: Randomness) -> dict[str, Any]:
        """Replace conditions by their null values, each with its own probability and all together with one."""
        conditions = self.config.conditions or {}
        everything = random.uniform("drop all") < self.config.train.condition_dropout
        dropped = {name: everything | (random.uniform(f"drop {name}") < c.dropout) for name, c in conditions.items()}
        dropped = {name: d.to(self.ranks.device) for name, d in dropped.items()}
        null = null_conditions(self.generator.conditioners, 1)
        null = {k: _to(v, self.ranks.device) for k, v in null.items()}
        return drop_conditions(cond, null, dropped)

    def _rate(self, step: int) -> float:
        options = self.config.train
        return learning_rate(options.schedule, options.optimizer.lr, step, options.steps)

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.train.steps)

    def _note(self, figures: dict[str, float]) -> str:
        return f"loss {figures['loss']:.4f}" if "loss" in figures else ""

    def _watch(self, bar: ProgressDisplay) -> dict[str, float]:
        """Validation and previews, of the averaged and of the raw weights. All ranks gather; the first one looks."""
        figures: dict[str, float] = {}
        options = self.config.train
        averaged = network_weights(self.engine, self.ema.gather())
        raw = network_weights(self.engine, gather(self.engine))
        if self.ranks.first and self.watcher is not None:
            for name, weights in (("raw", raw), ("ema", averaged)):
                self.watcher.show(weights)
                if self._due(options.preview.every):
                    sheet = self.watcher.preview(self.step, name, options.preview.clips)
                    bar.say(f"preview  {sheet}") if name == "ema" else None
                    self._tell("flowgen_preview_made", step=self.step, weights=name, sheet=sheet)
            if self._due(options.validation.every):
                figures = self.watcher.validate(options.validation.quantiles)
                bar.say(f"step {self.step}: validation loss {figures['validation/loss']:.4f}")
        barrier(self.ranks)
        return figures

    def _save(self) -> Path:
        facts = {
            "ranks": self.ranks.count,
            "zero_stage": self.engine.zero_optimization_stage(),
            "encoder": self.generator.encoder.identity,
            "name": self.config.name,
        }
        keep = self.config.train.checkpoint.keep
        saved = save_checkpoint(self.run, self.engine, self.ema, self.ranks, self.step, facts, keep)
        if saved != self._saved:  # the last step may have been saved by its number already
            self._saved = saved
            self._tell("flowgen_checkpoint_saved", step=self.step, checkpoint=saved)
        return saved

    def _tell(self, event: str, **facts: Any) -> None:
        """Plugins hear of it in the first process."""
        if self.ranks.first:
            registry().tell(event, folder=self.run.folder, **facts)

    def _farewell(self, saved: Path, finished: bool) -> None:
        done = "done" if finished else f"stopped at step {self.step} of {self.config.train.steps}"
        follow = f"flowgen sample {self.run.folder}" if finished else f"flowgen train {self.run.folder} --resume"
        self.console.print(f"[bold]{done}[/bold]; saved {saved}; go on with: {follow}", highlight=False, soft_wrap=True)

    @contextmanager
    def _stopping_cleanly(self) -> Iterator[None]:
        """SIGINT and SIGTERM finish the step, save, and end the run; a second SIGINT interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = True

        before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _asked_to_stop(self) -> bool:
        """Whether any rank was asked to stop; all ranks agree."""
        return bool(reduce(torch.tensor(float(self._stop), device=self.ranks.device), self.ranks, "max"))


class _Figures:
    """Losses since the last log line: the mean, by time and by stream, over all ranks."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.waited = 0.0
        self._reset()

    def _reset(self) -> None:
        self._sum = torch.zeros(_TIME_BINS, dtype=torch.float64)
        self._count = torch.zeros(_TIME_BINS, dtype=torch.float64)
        self._streams: dict[str, list[float]] = {}
        self._began, self._clips, self.waited = time.monotonic(), 0, 0.0

    def add(self, losses: Tensor, t: Tensor, by_stream: dict[str, Tensor]) -> None:
        bins = (t.cpu() * _TIME_BINS).long().clamp(0, _TIME_BINS - 1)
        self._sum.index_add_(0, bins, losses.cpu().double())
        self._count.index_add_(0, bins, torch.ones(len(bins), dtype=torch.float64))
        self._clips += len(bins)
        for name, each in by_stream.items():
            self._streams.setdefault(name, []).append(float(each.detach().mean()))

    def take(self, step: int) -> dict[str, float]:
        elapsed = max(time.monotonic() - self._began, 1e-9)
        totals = reduce(torch.stack([self._sum, self._count]).to(self.ranks.device).float(), self.ranks).cpu()
        sums, counts = totals
        figures = {"loss": float(sums.sum() / counts.sum())}
        for i in range(_TIME_BINS):
            if counts[i]:
                figures[f"loss_by_time/{i / _TIME_BINS:.1f}-{(i + 1) / _TIME_BINS:.1f}"] = float(sums[i] / counts[i])
        for name, values in self._streams.items():
            figures[f"loss_by_stream/{name}"] = sum(values) / len(values)
        figures["clips_per_second"] = self._clips * self.ranks.count / elapsed
        figures["share_waiting_for_data"] = self.waited / elapsed
        self._reset()
        return figures


def _to(tree: Any, device: torch.device) -> Any:
    return {k: _to(v, device) for k, v in tree.items()} if isinstance(tree, dict) else tree.to(device)
