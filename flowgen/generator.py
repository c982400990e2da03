"""A trained generator: what a run folder holds, ready to sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowgen import __version__
from flowgen.clip import Clip
from flowgen.conditions import MASK, Conditioner, encode_conditions
from flowgen.config import Config, build
from flowgen.config.schema import Sample
from flowgen.contracts import Modality
from flowgen.encoder import Encoder, Latents
from flowgen.errors import FlowgenError, UsageError
from flowgen.experiment import build_conditioners, build_encoder, build_loss, build_modality, build_network, build_shift
from flowgen.flow import Flow, OnPath
from flowgen.losses import Loss
from flowgen.paths import Paths
from flowgen.random import normal_rows
from flowgen.regions import KnownFlow
from flowgen.run import Run
from flowgen.sampler import prior, sample
from flowgen.streams import StreamSpec
from flowgen.times import make_grid, shift_factor
from flowgen.tree import State, tree_map

Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class Given:
    """Clips that are a part of what is sampled (one for all, or one for each): from `at_s` seconds on, or (None) up to the end."""

    clips: Sequence[Clip]
    at_s: float | None = 0.0


@dataclass
class Generator:
    """Encoder, network and everything between, with one `sample`: the command line, previews and evaluation all call it."""

    config: Config
    modality: Modality
    encoder: Encoder
    conditioners: dict[str, Conditioner]
    loss: Loss
    network: nn.Module
    device: torch.device
    step: int = 0

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
        config = run.config(overrides)
        modality = build_modality(config)
        encoder = build_encoder(config, modality)
        checkpoint = run.newest_checkpoint()
        run.load_encoder(encoder, checkpoint)
        conditioners = build_conditioners(config)
        network = build_network(config, encoder.spec, conditioners)
        checkpoint.load_weights(network, weights)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        parts = (modality, encoder.to(place), conditioners, build_loss(config), network.to(place).eval())
        return cls(config, *parts, place, checkpoint.step)

    def sample(
        self,
        conditions: Sequence[Mapping[str, Any]],
        *,
        seed: int = 0,
        settings: Sample | None = None,
        negative: Mapping[str, Any] | None = None,
        seconds: float | Sequence[float] | None = None,
        given: Sequence[Given] = (),
        on_step: Callable[[int, int], None] | None = None,
        on_state: Callable[[float, list[Clip]], None] | None = None,
    ) -> list[Clip]:
        """One clip for each mapping of raw condition values; what a mapping leaves out is not conditioned on.

        Clip i is a function of (seed, i, its conditions and length, settings), whatever else is sampled with it.

        Args:
            settings: steps, solver and guidance; those of the config by default.
            negative: conditions that guidance leads away from; nothing given by default.
            seconds: length of all clips, or of each; the length trained on by default.
            given: clips that are to be part of every sample; they are kept and the rest is made to fit.
            on_step: called with the number of solver steps done and their total.
            on_state: called with the time and the decoded state, at the start and after each step (for animations).

        Raises UsageError for an unknown condition or value, FlowgenError for a setting that this flow cannot follow.
        """
        settings = settings or self.config.sample
        cond = encode_conditions(self.conditioners, conditions)
        away = encode_conditions(self.conditioners, [negative or {}] * len(conditions))
        shapes = self._shapes(seconds, len(conditions))
        clips: list[Clip] = []
        total = -(-len(conditions) // settings.batch_size) * settings.steps
        for start in range(0, len(conditions), settings.batch_size):
            rows = range(start, min(start + settings.batch_size, len(conditions)))
            batch = _Batch(seed, rows, shapes[rows.start : rows.stop], self.device)

            def show(t: float, x: State, batch: _Batch = batch) -> None:
                if on_state is not None:
                    on_state(t, self.encoder.decode(Latents(x, batch.mask)))

            def step(i: int, t: float, x: State, start: int = start, show: Any = show) -> None:
                if on_step is not None:
                    on_step(start // settings.batch_size * settings.steps + i + 1, total)
                show(t, x)

            x = prior(self._path(settings), batch.noise("sample"))
            show(0.0, x)
            part, null = (self._part(c, rows) for c in (cond, away))
            if batch.mask is not None:
                part[MASK] = batch.mask
            x = self._solve(x, part, null, settings, batch, step, given)
            clips += self.encoder.decode(Latents(x, batch.mask))
        return [_with_conditions(clip, asked) for clip, asked in zip(clips, conditions, strict=True)]

    def describe(self, **facts: Any) -> dict[str, Any]:
        """The settings of a sample, for the metadata of its file."""
        settings = self.config.sample.model_dump(mode="json", exclude={"batch_size"})
        return {"generator": f"flowgen {__version__}", "name": self.config.name, "step": self.step, **facts, **settings}

    def _solve(
        self,
        x: State,
        cond: dict[str, Any],
        null: dict[str, Any],
        settings: Sample,
        batch: _Batch,
        on_step: Any,
        given: Sequence[Given],
    ) -> State:
        flow: Flow = self.loss.flow(self.network)
        guidances = (
            settings.guidance
            if isinstance(settings.guidance, list)
            else [settings.guidance]
            if settings.guidance
            else []
        )
        known = KnownFlow(flow, *self._place(given, x, batch.rows)) if given else None
        flow = known or flow
        solver = build("solver", settings.solver)

        def noise(x: State, t: Tensor, s: Tensor) -> State:
            return batch.noise(f"solver {float(t)!r}")

        try:
            grid = self._grid(settings, x)
            if settings.path is not None:
                flow = OnPath(flow, build("path", settings.path), float(grid[0]), float(grid[-1]))
            for guidance in guidances if self.conditioners else []:
                flow = build("guidance", guidance)(flow, null)
            x = sample(flow, x, grid, solver=solver, cond=cond, noise=noise, on_step=on_step)
        except ValueError as error:  # what the mathematics refuses: a singular grid, values that are not finite
            raise FlowgenError(f"cannot sample {self.config.name}: {error}") from error
        return known.restore(x) if known is not None else x

    def _path(self, settings: Sample) -> Paths:
        return self.loss.path if settings.path is None else build("path", settings.path)

    def _grid(self, settings: Sample, x: State) -> Tensor:
        """The times of the solver; ValueError where the path does not have them."""
        path = self._path(settings)
        single = None if isinstance(path, Mapping) else path
        return make_grid(settings.grid, settings.steps, single, shift_factor(build_shift(self.config), x))

    def _place(self, given: Sequence[Given], x: State, rows: range) -> tuple[State, State]:
        """The latents of given clips at their places [B, ...], and where they hold [B, *axes]."""
        values = tree_map(torch.zeros_like, x)
        known = tree_map(lambda x: torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device), x)
        for part in given:
            clips = part.clips if len(part.clips) == 1 else part.clips[rows.start : rows.stop]
            name = clips[0].source or "the given clip"

            def leaf(
                spec: StreamSpec, value: Tensor, known: Tensor, latent: Tensor, part: Given = part, name: str = name
            ) -> None:
                if not spec.axes or spec.axes[0].name != "time" or latent.shape[2:] != value.shape[2:]:
                    raise UsageError(f"{name} cannot be a part: its latents are {tuple(latent.shape[1:])}")
                size, length = value.shape[1], latent.shape[1]
                start = size - length if part.at_s is None else round(part.at_s * spec.axes[0].rate)
                if start < 0 or start + length > size or length == size:
                    raise UsageError(
                        f"{name} takes {length} of {size} steps in time from step {start}; "
                        f"give a shorter part, or ask for a longer clip with --seconds"
                    )
                # where a part is cut, the encoder's window has seen silence in place of what is to come
                edge = int(getattr(self.encoder, "context", 0))
                first = start + (edge if start > 0 else 0)
                last = start + length - (edge if start + length < size else 0)
                value[:, start : start + length] = latent
                known[:, first:last] = True

            tree_map(leaf, self.encoder.spec, values, known, self.encoder.encode(clips).x)
        return values, known

    def _shapes(self, seconds: float | Sequence[float] | None, n: int) -> list[Any]:
        """The latent shape of each clip (by stream, where there are several)."""
        if seconds is None:
            return [tree_map(lambda spec: spec.shape, self.encoder.spec)] * n
        shape = getattr(self.encoder, "latent_shape", None)
        if shape is None:
            raise UsageError(f"the encoder {self.config.encoder.type!r} has no length in seconds to choose")
        each = [seconds] * n if isinstance(seconds, (int, float)) else seconds
        return [shape(s) for s in each]

    def _part(self, cond: Mapping[str, Any], rows: range) -> dict[str, Any]:
        return tree_map(lambda v: v[rows.start : rows.stop].to(self.device), dict(cond))


@dataclass(frozen=True)
class _Batch:
    """Some rows of what is sampled, padded to the longest of them."""

    seed: int
    rows: range
    shapes: Sequence[Any]
    device: torch.device

    def noise(self, purpose: str) -> State:
        """Standard normal noise; that of a row depends on the row and its own shape alone."""

        def leaf(*shapes: tuple[int, ...]) -> Tensor:
            rows = torch.tensor(self.rows)
            if len(set(shapes)) == 1:
                return normal_rows((self.seed, purpose), rows, shapes[0], self.device)
            padded = torch.zeros(len(shapes), *_longest(shapes), device=self.device)
            for i, shape in enumerate(shapes):
                padded[i][_corner(shape)] = normal_rows((self.seed, purpose), rows[i : i + 1], shape, self.device)[0]
            return padded

        return tree_map(leaf, *self.shapes)

    @property
    def mask(self) -> State | None:
        """Which positions are real, bool [B, *axes]; None where all are."""

        def leaf(*shapes: tuple[int, ...]) -> Tensor:
            real = torch.zeros(len(shapes), *_longest(shapes), dtype=torch.bool, device=self.device)
            for i, shape in enumerate(shapes):
                real[i][_corner(shape)] = True
            return real[..., 0]

        return tree_map(leaf, *self.shapes) if len({str(shape) for shape in self.shapes}) > 1 else None


def _longest(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(max(sizes) for sizes in zip(*shapes, strict=True))


def _corner(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in shape)


def _with_conditions(clip: Clip, conditions: Mapping[str, Any]) -> Clip:
    return Clip(clip.data, clip.rate, dict(conditions), clip.source)
