"""The loop over steps, and what meets in it."""

from __future__ import annotations

import json
import math
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from flowgen.config import Config
from flowgen.core.interfaces import MASK
from flowgen.core.random import Randomness, seed_of
from flowgen.core.tree import State, tree_map
from flowgen.data.loader import Split
from flowgen.device import seed_device, send
from flowgen.errors import FlowgenError
from flowgen.files import errors_named
from flowgen.media.clip import Clip
from flowgen.media.conditions import drop_conditions, null_conditions
from flowgen.media.regions import draw_known
from flowgen.media.streams import Spec, StreamSpec
from flowgen.plugins import registry
from flowgen.runs.generator import Generator
from flowgen.runs.run import Checkpoint, Run
from flowgen.training.balance import Balance
from flowgen.training.checkpoints import Saver, network_weights
from flowgen.training.ema import Average, power, ramped
from flowgen.training.figures import Figures
from flowgen.training.guard import Guard
from flowgen.training.internals import forget_gradients, load_scaler, master_shards, scaler_state, skipped_its_step
from flowgen.training.loggers import Loggers, keep_steps
from flowgen.training.mirror import Mirror
from flowgen.training.optimizers import peak_rate
from flowgen.training.progress import ProgressDisplay
from flowgen.training.ranks import Ranks, gather_objects, together
from flowgen.training.schedule import learning_rate
from flowgen.training.shards import collect
from flowgen.training.stages import Stages, Watchdog
from flowgen.training.watch import Validator, batch_tensors


@dataclass(frozen=True)
class Result:
    """How a run ended: at which step, and whether all its steps are done."""

    folder: Path
    step: int
    finished: bool


class Trainer:
    """The loop over steps. Everything random in a step is a function of (seed, step, row of the global batch)."""

    def __init__(
        self,
        config: Config,
        run: Run,
        ranks: Ranks,
        engine: Any,
        generator: Generator,
        console: Console,
        mirror: Mirror | None = None,
    ) -> None:
        self.config, self.run, self.ranks, self.engine, self.console = config, run, ranks, engine, console
        self.generator = generator
        self.regions = generator.experiment.regions
        ema, saving = config.train.ema, config.train.checkpoint
        self.averages = {"ema": Average(engine, ranks, ramped(ema.decay))}
        self.averages |= {f"ema-{width:g}": Average(engine, ranks, power(width)) for width in ema.profiles}
        self.validator: Validator | None = None
        """What looks at the run, on the first rank."""
        self.averaged: nn.Module | None = None
        """A network that shows the averaged weights to a loss that asks them."""
        self.step = 0
        self._peak = peak_rate(config.train.optimizer)
        self._stop = False
        self._skipped_in_a_row = 0
        self._stage = engine.zero_optimization_stage()
        self._parameters = list(engine.module.parameters())
        self._stages = Stages()
        self._figures = Figures(ranks, self._stages)
        self._balance = Balance(generator.loss, generator.encoder.spec, ranks)
        self._parts: int | None = None
        self._whole = tree_map(lambda stream: stream.shape, generator.encoder.spec)
        self._guard = Guard(engine.module, ranks)
        self._saver = Saver(
            run, engine, self.averages, ranks, keep=saving.keep, background=saving.background, mirror=mirror
        )
        self._saved: Path | None = None
        null = null_conditions(generator.conditioners, 1)
        self._null = tree_map(lambda v: v.to(ranks.device), null)

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue the counts of a checkpoint."""
        self.step = checkpoint.step
        state = checkpoint.manifest["trainer"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        load_scaler(self.engine, state.get("scaler"))
        self._balance.load(state.get("balance"))
        self._parts = state.get("parts")  # into which the batches of buckets were made to fall
        parts = state["figures"]
        if len(parts) == self.ranks.count:
            self._figures.load(parts[self.ranks.rank])
        # another number of ranks: the first line of the log begins at this step

    def fit(self, data: Iterator[Any], split: Split) -> Result:
        """Train to the last step, or to the end of the step in which a stop is asked for."""
        options = self.config.train
        self._parts = self._parts or split.parts
        finished = False
        with ExitStack() as stack:
            stack.enter_context(self._stopping_cleanly())
            stack.enter_context(Watchdog(self._stages, self.ranks, options.watchdog_s))
            loggers = Loggers(self.config.loggers if self.ranks.first else [], self.run.folder, self.step)
            stack.callback(loggers.close)
            if self.ranks.first:
                keep_steps(self.run.folder / "skipped.jsonl", self.step - 1)
            label = f"train {self.config.name}"
            bar = stack.enter_context(
                ProgressDisplay(label, options.steps, self.step, console=self.console, visible=self.ranks.first)
            )
            self._notify("flowgen_run_started", config=self.config, step=self.step)
            stack.callback(lambda: self._notify("flowgen_run_ended", step=self.step, finished=finished))
            self.engine.train()
            while self.step < options.steps:
                stop = self._train_step(data, split, bar)
                self.step += 1
                figures = self._figures.take() if self._due(options.log_every) else {}
                if figures:
                    figures["learning_rate"] = self._rate(self.step - 1)
                    figures |= self._balance.figures()
                bar.update(self.step, f"loss {figures['loss']:.4f}" if "loss" in figures else "")
                if stop or self._due(options.checkpoint.every) or self.step == options.steps:
                    self._save()
                if self._due(options.validation.every) or self._due(options.preview.every):
                    self._stages.enter("watch")
                    figures |= self._watch(bar)
                if figures:
                    loggers.log(self.step, figures)
                self._notify("flowgen_step_done", step=self.step, figures=figures)
                if stop:
                    break
            saved = self._save()
            self._saver.finish()
            finished = self.step >= options.steps
        if self.ranks.first:
            self._print_summary(saved, finished)
        return Result(self.run.folder, self.step, finished)

    def _train_step(self, data: Iterator[Any], split: Split, bar: ProgressDisplay) -> bool:
        """One optimizer step over all micro-batches; returns whether to stop after it."""
        seed, stages = self.config.train.seed, self._stages
        stages.step = self.step
        self._set_rates()
        if self.averaged is not None:
            stages.enter("average")
            self.averages["ema"].show(self.averaged)
        stop, seen = False, []
        for micro_step in range(split.accumulation):
            stages.enter("data")
            clips = next(data)
            stages.enter("encode")
            held = split.of(len(clips) * split.parts)  # as many as the bucket of this step gives
            rows = held.rows(micro_step)
            random = Randomness(seed, self.step, held.batch, rows, whole=self._whole)
            x1, cond = batch_tensors(self.generator, clips)
            cond = self._drop(cond, random) | self._balance.shown(len(rows))
            # layers that draw from torch's own generator (dropout) do so as a function of the step too
            self._seed_layers(seed_of(seed, "layers", self.step, int(rows[0])))
            known = draw_known(self.regions, self.generator.encoder.spec, x1, cond.get(MASK), random)
            inputs = (x1, cond, known)
            stages.enter("forward")
            if self._stage == 3:  # its forward pass communicates already
                self._guard.before(self.step, inputs)
            output = self.engine(x1, cond, random, known)
            stop |= self._guard.after(self.step, inputs, self._stop)
            losses = output.total.detach()
            stages.enter("backward")
            self.engine.backward(output.total.mean() * self._unless_exploding(losses))
            self._balance.add(output)
            self._figures.add(output, *_extent(self.generator.encoder.spec, x1, cond.get(MASK)))
            seen.append((rows, clips, losses))
            stages.enter("optimizer")
            norm, skipped = self._update(last=micro_step == split.accumulation - 1)
        if skipped:
            self._skip(seen, bar)
        else:
            self._skipped_in_a_row = 0
            for average in self.averages.values():
                average.update(self.step)
        self._figures.add_step(norm, skipped)
        self._balance.step(skipped)
        stages.enter("other")
        return stop

    def _seed_layers(self, seed: int) -> None:
        # torch.manual_seed asks the driver about every GPU, each time
        torch.default_generator.manual_seed(seed)
        if self.ranks.device.type != "cpu":
            seed_device(self.ranks.device, seed)

    def _unless_exploding(self, losses: Tensor) -> Tensor:
        """1, or not-a-number where a loss is beyond the limit: the gradient then is, and the step is skipped on all ranks."""
        return torch.where((losses <= self.config.train.max_loss).all(), 1.0, math.nan)

    def _update(self, last: bool) -> tuple[Any, bool]:
        """The optimizer's step after the last micro-batch; the norm of the gradient, and whether the step was skipped."""
        if not last:
            self.engine.step()
            return None, False
        if self._stage > 0:
            self.engine.step()
            if self._stage == 3:
                forget_gradients(self.engine)
            return self.engine.get_global_grad_norm(), skipped_its_step(self.engine)
        # ZeRO 1 to 3 clip, and skip a step whose gradients are not finite; stage 0 would write them into the weights
        parameters = [p for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        skipped = not bool(norm.isfinite())
        if skipped:
            for parameter in parameters:
                parameter.grad = None
        elif self.config.train.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.train.clip, norm)
        self.engine.step()
        return norm, skipped

    def _skip(self, seen: Sequence[tuple[Tensor, Sequence[Clip], Tensor]], bar: ProgressDisplay) -> None:
        """Write down whose loss it was; FlowgenError after too many in a row."""
        self._skipped_in_a_row += 1
        bad: list[dict[str, Any]] = []
        for rows, clips, losses in seen:
            for row, clip, loss in zip(rows.tolist(), clips, losses.tolist(), strict=True):
                if not loss <= self.config.train.max_loss:
                    bad.append({"row": row, "source": clip.source, "loss": repr(loss)})
        found = {
            entry["row"]: entry for part in gather_objects(bad, self.ranks) for entry in part
        }  # ranks may share a row
        everyone = [entry for _, entry in sorted(found.items())]
        sources = ", ".join(dict.fromkeys(entry["source"] or f"row {entry['row']}" for entry in everyone[:3]))
        culprit = f"the loss of {sources}" if everyone else "the gradient"
        if self.ranks.first:
            path = self.run.folder / "skipped.jsonl"
            with errors_named(path), path.open("a") as file:
                file.write(json.dumps({"step": self.step, "clips": everyone}) + "\n")
            bar.say(f"step {self.step} skipped: {culprit} is not finite, or above train.max_loss; see {path}")
        if self._skipped_in_a_row > self.config.train.max_skipped:
            raise FlowgenError(
                f"{self._skipped_in_a_row} steps in a row were skipped, the last being step {self.step}: {culprit} is not finite, "
                f"or above train.max_loss; lower train.optimizer.lr or check these clips; the newest checkpoint is unharmed"
            )

    def _drop(self, cond: dict[str, Any], random: Randomness) -> dict[str, Any]:
        """Replace conditions by their null values, each with its own probability and all together with one."""
        conditions = self.config.conditions or {}
        if not conditions:
            return cond
        everything = random.uniform("drop all") < self.config.train.condition_dropout
        dropped = {
            name: (everything | (random.uniform(f"drop {name}") < c.dropout) if c.dropout else everything)
            for name, c in conditions.items()
        }
        return drop_conditions(cond, self._null, {name: send(d, self.ranks.device) for name, d in dropped.items()})

    def _set_rates(self) -> None:
        """The schedule owns the learning rate; a group has a factor, and a step before which it stands still."""
        rate = self._rate(self.step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate * group["rate"] if self.step >= group["start"] else 0.0

    def _rate(self, step: int) -> float:
        options = self.config.train
        return learning_rate(options.schedule, self._peak, step, options.steps)

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.train.steps)

    def _watch(self, bar: ProgressDisplay) -> dict[str, float]:
        """Validation and previews, of the raw and of the averaged weights. All ranks gather; the first one looks."""
        figures: dict[str, float] = {}
        options = self.config.train
        for name in ("raw", "ema"):
            shards = master_shards(self.engine) if name == "raw" else self.averages["ema"].shards
            trained = collect(self.engine, shards, self.ranks)
            with together(self.ranks):
                if self.validator is not None:
                    with self.validator.showing(network_weights(self.engine, trained)):
                        if self._due(options.preview.every):
                            with _surviving(f"preview of the {name} weights", self.step):
                                self._preview(self.validator, name, bar)
                        if name == "ema" and self._due(options.validation.every):
                            with _surviving("validation", self.step):
                                figures = self.validator.validate(options.validation.quantiles)
                                bar.say(f"step {self.step}: validation loss {figures['validation/loss']:.4f}")
        return figures

    def _preview(self, validator: Validator, name: str, bar: ProgressDisplay) -> None:
        sheet = validator.preview(self.step, name, self.config.train.preview.clips)
        bar.say(f"preview  {sheet}") if name == "ema" else None
        self._notify("flowgen_preview_made", step=self.step, weights=name, sheet=sheet)

    def _save(self) -> Path:
        self._stages.enter("checkpoint")
        figures = gather_objects(self._figures.state(), self.ranks)
        facts = {
            "encoder": self.generator.encoder.identity,
            "name": self.config.name,
            "trainer": {
                "skipped_in_a_row": self._skipped_in_a_row,
                "figures": figures,
                "parts": self._parts,
                "scaler": scaler_state(self.engine),
                "balance": self._balance.state(),
            },
        }
        saved = self._saver.save(self.step, facts)
        if saved != self._saved:  # the last step may have been saved by its number already
            self._saved = saved
            self._notify("flowgen_checkpoint_saved", step=self.step, checkpoint=saved)
        self._stages.enter("other")
        return saved

    def _notify(self, event: str, **facts: Any) -> None:
        """Plugins hear of it in the first process."""
        if self.ranks.first:
            registry().notify(event, folder=self.run.folder, **facts)

    def _print_summary(self, saved: Path, finished: bool) -> None:
        done = "done" if finished else f"stopped at step {self.step} of {self.config.train.steps}"
        use = "eval" if self.generator.experiment.reconstructs else "sample"
        follow = f"flowgen {use} {self.run.folder}" if finished else f"flowgen train {self.run.folder} --resume"
        self.console.print(f"[bold]{done}[/bold]; saved {saved}; go on with: {follow}", highlight=False, soft_wrap=True)

    @contextmanager
    def _stopping_cleanly(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGUSR1 finish the step, save, and end the run; a second SIGINT interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = True

        before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)


@contextmanager
def _surviving(what: str, step: int) -> Iterator[None]:
    """A block that looks at the run; where it fails that is said, and training goes on."""
    try:
        yield
    except (Exception, SystemExit) as error:
        warnings.warn(
            f"the {what} at step {step} failed, and training goes on: {type(error).__name__}: {error}", stacklevel=3
        )


def _extent(spec: Spec, x1: State, mask: State | None) -> tuple[Any, Any]:
    """Positions of some clips' latents over all streams, and their length in seconds (0: they have no time), without padding."""
    positions: Any = 0
    seconds: list[Any] = [0.0]

    def leaf(stream: StreamSpec, x: Tensor, mask: Tensor | None) -> None:
        nonlocal positions
        sizes = x.shape[1:-1]
        count = len(x) * math.prod(sizes) if mask is None else mask.sum() * math.prod(sizes[mask.ndim - 1 :])
        positions = positions + count
        for axis, size in zip(stream.axes, sizes, strict=True):
            if axis.name == "time":
                seconds.append(count / (math.prod(sizes) / size * axis.rate))

    tree_map(leaf, spec, x1, mask)
    return positions, seconds[-1]
