"""A trained generator: what a run folder holds, ready to sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowgen import __version__
from flowgen.config import ComponentConfig, Config, build
from flowgen.config.schema import Sample
from flowgen.core.editing import Replaced, between, vary
from flowgen.core.flow import OnPath
from flowgen.core.interfaces import MASK, Loss, Paths
from flowgen.core.likelihood import log_prob, rademacher
from flowgen.core.rows import Rows
from flowgen.core.sampler import prior, sample
from flowgen.core.times import make_grid, shift_factor
from flowgen.core.tree import State, tree_map
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.conditions import Conditioner, asked_lengths, encode_conditions, told_lengths
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.interfaces import Modality
from flowgen.media.regions import KnownFlow
from flowgen.runs.experiment import Experiment
from flowgen.runs.given import Given, Variation, begin, clips_of, place
from flowgen.runs.run import Run

Weights = Literal["ema", "raw"]


@dataclass
class Generator:
    """Encoder, network and everything between, with one `sample`: the command line, previews and evaluation all call it."""

    experiment: Experiment
    network: nn.Module
    device: torch.device
    step: int = 0

    @property
    def config(self) -> Config:
        return self.experiment.config

    @property
    def modality(self) -> Modality:
        return self.experiment.modality

    @property
    def encoder(self) -> Encoder:
        return self.experiment.encoder

    @property
    def conditioners(self) -> dict[str, Conditioner]:
        return self.experiment.conditioners

    @property
    def loss(self) -> Loss:
        return self.experiment.loss

    @classmethod
    def load(
        cls, folder: Path | str, *, weights: Weights = "ema", device: str | None = None, overrides: Sequence[str] = ()
    ) -> Generator:
        """Load the newest checkpoint of a run.

        Args:
            weights: the averaged weights, or those of the last step.
            device: where to sample; the first GPU where there is one.
            overrides: changes to the run's config such as "sample.steps=8".

        Raises FlowgenError where there is no checkpoint, or weights or encoder do not match the config.
        """
        run = Run(Path(folder))
        experiment = Experiment(run.config(overrides))
        checkpoint = run.newest_checkpoint()
        run.load_encoder(experiment.encoder, checkpoint)
        checkpoint.load_weights(experiment.network, weights)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        experiment.encoder.to(place)
        return cls(experiment, experiment.network.to(place).eval(), place, checkpoint.step)

    @cached_property
    def pairs(self) -> Literal["noise", "clips"] | None:
        """What clips are paired with in training, where that is given: noise of their own, or clips to start from (a bridge)."""
        return getattr(self.experiment.coupling, "start", None)

    def noise(self, n: int, seed: int) -> State:
        """The standard normal noise that `sample` makes n clips of at this seed (on VE it is scaled first, see `prior`)."""
        return Rows(seed, range(n), self._shapes(None, n), self.device).noise("sample")

    def sample(
        self,
        conditions: Sequence[Mapping[str, Any]],
        *,
        seed: int = 0,
        settings: Sample | None = None,
        negative: Mapping[str, Any] | None = None,
        seconds: float | Sequence[float] | None = None,
        given: Sequence[Given] = (),
        variation: Variation | None = None,
        starts: Sequence[Clip] = (),
        on_step: Callable[[int, int], None] | None = None,
        on_state: Callable[[float, list[Clip]], None] | None = None,
    ) -> list[Clip]:
        """One clip for each mapping of raw condition values; what a mapping leaves out is not conditioned on.

        Clip i is a function of (seed, i, its conditions and length, settings), whatever else is sampled with it.

        Args:
            settings: steps, solver and guidance; those of the config by default.
            negative: conditions that guidance leads away from; nothing given by default.
            seconds: length of all clips, or of each; by default what a condition says, or else the length trained on. A
                condition that says the length of a clip takes this value where a mapping leaves it out.
            given: clips that are to be part of every sample; they are kept and the rest is made to fit.
            variation: clips to start from, in place of noise alone.
            starts: of a bridge: the clip that each sample starts from, or one for all.
            on_step: called with the number of solver steps done and their total.
            on_state: called with the time and the decoded state, at the start and after each step (for animations).

        Raises UsageError for an unknown condition or value, FlowgenError for a setting that this flow cannot follow.
        """
        settings = settings or self.config.sample
        if not starts:
            self._from_noise("a sample without --source FILE")
        elif self.pairs != "clips":
            raise UsageError("this run starts from noise and not from clips; --vary FILE makes variations of a clip")
        elif len(starts) not in (1, len(conditions)):
            raise UsageError(f"give one clip to start from, or one for each of {len(conditions)}; got {len(starts)}")
        if variation is not None:
            self._from_noise("a variation")
        if seconds is not None:
            conditions = told_lengths(self.conditioners, conditions, seconds)
        cond = encode_conditions(self.conditioners, conditions)
        lengths: float | Sequence[float | None] | None = seconds
        if seconds is None and not given and hasattr(self.encoder, "latent_shape"):
            lengths = asked_lengths(self.conditioners, conditions)
        away = encode_conditions(self.conditioners, [negative or {}] * len(conditions))
        shapes = self._shapes(lengths, len(conditions))
        first = variation.clips[:1] if variation is not None else starts[:1]
        if first:
            latents = self.encoder.encode(first).x
            shapes = [tree_map(lambda x: tuple(x.shape[1:]), latents)] * len(conditions)
        clips: list[Clip] = []
        total = -(-len(conditions) // settings.batch_size) * settings.steps
        for start in range(0, len(conditions), settings.batch_size):
            rows = range(start, min(start + settings.batch_size, len(conditions)))
            batch = Rows(seed, rows, shapes[rows.start : rows.stop], self.device)
            x0 = begin(self.encoder, clips_of(starts, rows), len(rows)) if starts else batch.noise("sample")

            def show(t: float, x: State, batch: Rows = batch) -> None:
                if on_state is not None:
                    on_state(t, self.encoder.decode(Latents(x, batch.mask)))

            def step(i: int, t: float, x: State, start: int = start, show: Any = show) -> None:
                if on_step is not None:
                    on_step(start // settings.batch_size * settings.steps + i + 1, total)
                show(t, x)

            if on_state is not None:
                show(0.0, prior(self._path(settings), x0))
            part, null = (self._part(c, rows) for c in (cond, away))
            if batch.mask is not None:
                part[MASK] = batch.mask
            x = self._solve(x0, part, null, settings, batch, step, Start(given, variation))
            clips += self.encoder.decode(Latents(x, batch.mask))
        return [_with_conditions(clip, asked) for clip, asked in zip(clips, conditions, strict=True)]

    def describe(self, **facts: Any) -> dict[str, Any]:
        """The settings of a sample, for the metadata of its file."""
        settings = self.config.sample.model_dump(mode="json", exclude={"batch_size"})
        return {"generator": f"flowgen {__version__}", "name": self.config.name, "step": self.step, **facts, **settings}

    def morph(self, a: Clip, b: Clip, conditions: Sequence[Mapping[str, Any]]) -> list[Clip]:
        """Clips on the way from a to b, one for each mapping of conditions: both are taken back to their noise, which is
        interpolated on the sphere and sampled again. The solver must be one of an ODE.
        """
        self._from_noise("a morph")
        n = len(conditions)
        cond = self._part(encode_conditions(self.conditioners, conditions), range(n))
        x, y = (tree_map(lambda x: x.expand(n, *x.shape[1:]), self.encoder.encode([clip]).x) for clip in (a, b))
        shares = torch.linspace(0, 1, n) if n > 1 else torch.tensor([0.5])
        with self._refusals():
            grid = self._grid(self.config.sample, x)
            if self.loss.predicts == "data":  # its velocity is singular at t = 1, where the way back begins
                grid[-1] = 1 - min(1e-3, float(1 - grid[-2]) / 2)
            solver = build("solver", self.config.sample.solver)
            x = between(self.loss.flow(self.network), x, y, shares, grid, solver=solver, cond=cond)
        return [
            _with_conditions(clip, asked)
            for clip, asked in zip(self.encoder.decode(Latents(x)), conditions, strict=True)
        ]

    @torch.no_grad()
    def velocity(self, clips: Sequence[Clip], t: float, conditions: Mapping[str, Any] | None = None) -> State:
        """Where the flow carries the latents of clips at time t, under one mapping of conditions: of their structure."""
        cond = encode_conditions(self.conditioners, [conditions or {}])
        cond = self._part(
            {k: tree_map(lambda v: v.repeat(len(clips), *[1] * (v.ndim - 1)), c) for k, c in cond.items()},
            range(len(clips)),
        )
        x = self.encoder.encode(clips).x
        with self._refusals():
            return tree_map(
                lambda v: v.cpu(), self.loss.flow(self.network)(x, torch.tensor(t, dtype=torch.float64), cond).velocity
            )

    def log_prob(
        self,
        clips: Sequence[Clip],
        conditions: Sequence[Mapping[str, Any]] | None = None,
        *,
        exact: bool = False,
        seed: int = 0,
    ) -> Tensor:
        """log p of the latents of clips, in nats [B]: along the ODE of the flow, by its exact trace or one probe a clip.

        Without conditions it is that of the unconditional model.
        """
        self._from_noise("a likelihood")
        asked = conditions or [{}] * len(clips)
        cond = self._part(encode_conditions(self.conditioners, asked), range(len(clips)))
        x, mask = self.encoder.encode(clips)
        if mask is not None:
            raise UsageError("a likelihood compares latents of one size; give clips of one length")
        probe = None if exact else rademacher(x, seed)
        end = 1.0 if self.loss.predicts == "velocity" else 0.999  # where the velocity of other predictions is singular
        with self._refusals():
            grid = torch.tensor([0.0, end], dtype=torch.float64)
            return log_prob(self.loss.flow(self.network), x, grid, cond=cond, probe=probe).log_prob

    def _from_noise(self, what: str) -> None:
        if self.pairs == "clips":
            raise UsageError(f"this run is a bridge from clips to clips; {what} wants one that starts from noise")

    def _solve(
        self,
        noise: State,
        cond: dict[str, Any],
        null: dict[str, Any],
        settings: Sample,
        batch: Rows,
        on_step: Any,
        start: Start,
    ) -> State:
        """The state at t = 1 of a batch that starts from `noise`."""
        x = prior(self._path(settings), noise)
        with self._refusals():
            grid = self._grid(settings, x)
            flow: Any = self.loss.flow(self.network)
            kept: KnownFlow | Replaced | None = None
            if start.given and self.config.known:
                flow = kept = KnownFlow(flow, *place(self.encoder, start.given, x, batch.rows))
            if settings.path is not None:
                flow = OnPath(flow, build("path", settings.path), float(grid[0]), float(grid[-1]))
            for guidance in _chain(settings):
                flow = build("guidance", guidance, encoder=self.encoder)(flow, null)
            if start.given and not self.config.known:  # a network that has never seen a known region
                x1, known = place(self.encoder, start.given, x, batch.rows)
                flow = kept = Replaced(flow, x1, noise, known)

            def draws(x: State, t: Tensor, s: Tensor) -> State:
                if self.pairs == "clips":
                    raise ValueError(
                        "a bridge starts from no noise, and knows no score: take a solver of the ODE, as heun"
                    )
                return batch.noise(f"solver {float(t)!r}")

            solver = build("solver", settings.solver)
            if start.vary is not None:
                x1 = self.encoder.encode(clips_of(start.vary.clips, batch.rows)).x
                x1 = tree_map(lambda x1, x: x1.expand_as(x), x1, x)
                x = vary(flow, x1, noise, start.vary.t, grid, solver=solver, cond=cond, draws=draws)
            else:
                x = sample(flow, x, grid, solver=solver, cond=cond, noise=draws, on_step=on_step)
        return kept.restore(x) if kept is not None else x

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What the mathematics refuses (a singular grid, values that are not finite) as an error of the request."""
        try:
            yield
        except ValueError as error:
            raise FlowgenError(f"cannot sample {self.config.name}: {error}") from error

    def _path(self, settings: Sample) -> Paths:
        return self.loss.path if settings.path is None else build("path", settings.path)

    def _grid(self, settings: Sample, x: State) -> Tensor:
        """The times of the solver; ValueError where the path does not have them."""
        path = self._path(settings)
        single = None if isinstance(path, Mapping) else path
        return make_grid(settings.grid, settings.steps, single, shift_factor(self.experiment.shift, x))

    def _shapes(self, seconds: float | Sequence[float | None] | None, n: int) -> list[Any]:
        """The latent shape of each clip (by stream, where there are several); as trained where no length is given."""
        trained = tree_map(lambda spec: spec.shape, self.encoder.spec)
        if seconds is None:
            return [trained] * n
        shape = getattr(self.encoder, "latent_shape", None)
        if shape is None:
            raise UsageError(f"the encoder {self.config.encoder.type!r} has no length in seconds to choose")
        each = [seconds] * n if isinstance(seconds, (int, float)) else seconds
        return [trained if s is None else shape(s) for s in each]

    def _part(self, cond: Mapping[str, Any], rows: range) -> dict[str, Any]:
        return tree_map(lambda v: v[rows.start : rows.stop].to(self.device), dict(cond))


@dataclass(frozen=True)
class Start:
    """What a sample starts from besides noise."""

    given: Sequence[Given] = ()
    vary: Variation | None = None


def _chain(settings: Sample) -> list[ComponentConfig]:
    guidance = settings.guidance
    return guidance if isinstance(guidance, list) else [guidance] if guidance is not None else []


def _with_conditions(clip: Clip, conditions: Mapping[str, Any]) -> Clip:
    return Clip(clip.data, clip.rate, dict(conditions), clip.source)
