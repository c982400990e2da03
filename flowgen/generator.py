"""A trained generator: what a run folder holds, ready to sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from flowgen import __version__
from flowgen.clip import Clip
from flowgen.conditions import Conditioner, encode_conditions, null_conditions
from flowgen.config import Config, build
from flowgen.config.schema import Sample
from flowgen.contracts import Modality
from flowgen.encoder import Encoder, Latents
from flowgen.experiment import build_conditioners, build_encoder, build_loss, build_modality, build_network
from flowgen.losses import Loss
from flowgen.random import normal_rows
from flowgen.run import Run
from flowgen.sampler import sample
from flowgen.streams import StreamSpec
from flowgen.times import uniform_grid
from flowgen.tree import State, tree_map

Weights = Literal["ema", "raw"]


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
        on_step: Callable[[int, int], None] | None = None,
        on_state: Callable[[float, list[Clip]], None] | None = None,
    ) -> list[Clip]:
        """One clip for each mapping of raw condition values; what a mapping leaves out is not conditioned on.

        Clip i is a function of (seed, i, its conditions, settings), whatever else is sampled with it.

        Args:
            settings: steps, solver and guidance; those of the config by default.
            negative: conditions that guidance leads away from; nothing given by default.
            on_step: called with the number of solver steps done and their total.
            on_state: called with the time and the decoded state, at the start and after each step (for animations).
        """
        settings = settings or self.config.sample
        cond = encode_conditions(self.conditioners, conditions)
        away = encode_conditions(self.conditioners, [negative] * len(conditions)) if negative else None
        clips: list[Clip] = []
        total = -(-len(conditions) // settings.batch_size) * settings.steps
        for start in range(0, len(conditions), settings.batch_size):
            rows = torch.arange(start, min(start + settings.batch_size, len(conditions)))

            def step(i: int, t: float, x: State, done: int = start // settings.batch_size * settings.steps) -> None:
                if on_step is not None:
                    on_step(done + i + 1, total)
                if on_state is not None:
                    on_state(t, self.encoder.decode(Latents(x)))

            x = self._noise(rows, seed)
            if on_state is not None:
                on_state(0.0, self.encoder.decode(Latents(x)))
            part = self._take(cond, rows)
            null = self._take(away, rows) if away else self._to_device(null_conditions(self.conditioners, len(rows)))
            clips += self.encoder.decode(Latents(self._solve(x, part, null, settings, step, (seed, start))))
        return [_with_conditions(clip, asked) for clip, asked in zip(clips, conditions, strict=True)]

    def describe(self, **facts: Any) -> dict[str, Any]:
        """The settings of a sample, for the metadata of its file."""
        settings = self.config.sample.model_dump(mode="json", exclude={"batch_size"})
        return {"generator": f"flowgen {__version__}", "name": self.config.name, "step": self.step, **facts, **settings}

    def _solve(
        self, x: State, cond: dict[str, Any], null: dict[str, Any], settings: Sample, on_step: Any, key: tuple[int, int]
    ) -> State:
        flow = self.loss.flow(self.network)
        if settings.guidance is not None and self.conditioners:
            flow = build("guidance", settings.guidance)(flow, null)
        grid = uniform_grid(settings.steps, self.config.shift)

        def noise(x: State, t: torch.Tensor, s: torch.Tensor) -> State:
            rows = torch.arange(len(next(iter(x.values())) if isinstance(x, dict) else x)) + key[1]
            return self._noise(rows, key[0], f"solver {float(t)!r}")

        return sample(flow, x, grid, solver=build("solver", settings.solver), cond=cond, noise=noise, on_step=on_step)

    def _noise(self, rows: torch.Tensor, seed: int, purpose: str = "sample") -> State:
        def leaf(spec: StreamSpec) -> torch.Tensor:
            return normal_rows((seed, purpose), rows, spec.shape, self.device)

        return tree_map(leaf, self.encoder.spec)

    def _take(self, cond: Mapping[str, Any], rows: torch.Tensor) -> dict[str, Any]:
        return self._to_device(tree_map(lambda v: v[rows], dict(cond)))

    def _to_device(self, cond: Any) -> dict[str, Any]:
        return tree_map(lambda v: v.to(self.device), cond)


def _with_conditions(clip: Clip, conditions: Mapping[str, Any]) -> Clip:
    return Clip(clip.data, clip.rate, dict(conditions), clip.source)
