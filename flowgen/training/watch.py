"""What is looked at and listened to while a run goes on: loss at fixed times, and previews."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from flowgen.core.interfaces import MASK, REJECTED, SOURCE, LossWithPairs
from flowgen.core.random import Randomness, seed_of
from flowgen.core.tree import tree_map
from flowgen.data.balance import balanced
from flowgen.data.latents import Encoded, stack
from flowgen.device import CPU, send
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.conditions import encode_conditions
from flowgen.media.encoder import Latents
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator
from flowgen.runs.given import source_states
from flowgen.runs.preferences import rejected_clips
from flowgen.runs.requests import request_like

_VALIDATION_BATCH = 32


@dataclass
class Validator:
    """Owns a network of its own, into which the run's weights are copied, so that looking never disturbs training.

    Only the first rank has one. The network is on the device only while it is looked at.
    """

    generator: Generator
    held_out: list[Clip]
    folder: Path

    @classmethod
    def of(cls, experiment: Experiment, device: torch.device, folder: Path) -> Validator:
        """Held-out clips of all classes, as many as the config asks for and the same ones for the whole run, and a network.

        UsageError: nothing is held out.
        """
        config, held_out = experiment.config, experiment.dataset.validation()
        if not len(held_out):
            raise UsageError(
                "the data set holds out no clip to validate and preview with; hold some out (flowgen plugins show "
                f"{config.data.type}), or set train.validation.every=0 and train.preview.every=0"
            )
        picked = balanced(held_out, max(config.train.validation.clips, config.train.preview.clips))
        clips = [held_out.clip(i, seed_of(config.train.seed, "validation", i)) for i in picked]
        generator = Generator(experiment, experiment.new_network().eval().requires_grad_(False), device)
        return cls(generator, clips, folder)

    @contextmanager
    def showing(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """A block in which the network has these weights, and is on the device."""
        network = self.generator.network
        network.load_state_dict(weights)
        network.to(self.generator.device)
        try:
            yield
        finally:
            network.to(CPU)

    @torch.no_grad()
    def validate(self, quantiles: Sequence[float]) -> dict[str, float]:
        """Mean loss of the shown weights at each quantile of the training times, with fixed noise, and that of each stream.

        A loss that is taken at no times (an autoencoder's) is taken once, with its parts.
        """
        if self.generator.experiment.reconstructs:
            return self._validate_once()
        sums = dict.fromkeys(quantiles, 0.0)
        parts: dict[str, float] = {}
        streams: dict[str, list[Tensor]] = {}
        for start in range(0, len(self.held_out), _VALIDATION_BATCH):
            clips = self.held_out[start : start + _VALIDATION_BATCH]
            x1, cond = batch_tensors(self.generator, clips)
            rows = torch.arange(start, start + len(clips))
            random = Randomness(self.generator.config.train.seed, -1, len(self.held_out), rows)
            for q in quantiles:
                output = self.generator.loss(self.generator.network, x1, cond, random.at_quantile(q))
                sums[q] += float(output.total.sum())
                for name, each in output.parts.items():
                    parts[name] = parts.get(name, 0.0) + float(each.nansum()) / len(quantiles)
                for name, each in output.by_stream.items():
                    streams.setdefault(name, []).append(each)
        losses = {f"validation/loss_at_{q:g}": total / len(self.held_out) for q, total in sums.items()}
        losses |= {f"validation/loss/{name}": total / len(self.held_out) for name, total in parts.items()}
        for name, found in streams.items():
            if there := float(torch.cat(found).isfinite().sum()):  # clips that have the stream
                losses[f"validation/loss_by_stream/{name}"] = float(torch.cat(found).nansum()) / there
        return {"validation/loss": sum(sums.values()) / len(sums) / len(self.held_out), **losses}

    def _validate_once(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        for start in range(0, len(self.held_out), _VALIDATION_BATCH):
            clips = self.held_out[start : start + _VALIDATION_BATCH]
            x1, cond = batch_tensors(self.generator, clips)
            rows = torch.arange(start, start + len(clips))
            random = Randomness(self.generator.config.train.seed, -1, len(self.held_out), rows)
            output = self.generator.loss(self.generator.network, x1, cond, random)
            for name, each in {"loss": output.total, **{f"loss/{k}": v for k, v in output.parts.items()}}.items():
                sums[name] = sums.get(name, 0.0) + float(each.sum())
        return {f"validation/{name}": total / len(self.held_out) for name, total in sums.items()}

    def preview(self, step: int, name: str, clips: int) -> Path:
        """Sample with the conditions of held-out clips at a fixed seed, as `flowgen sample` does; returns the sheet.

        Of an autoencoder: the clips given back, and on the sheet each beside the clip itself.
        """
        modality = self.generator.modality
        shown = self.held_out[:clips]
        if modality.clips_per_file is None:
            shown = (shown * 2000)[:2000]  # one plot of many points
        reconstructs = self.generator.experiment.reconstructs
        if reconstructs:
            made = self.generator.reconstruct(shown)
        else:
            asked = [{k: c.conditions.get(k) for k in self.generator.conditioners} for c in shown]
            made = self.generator.sample(request_like(shown, asked))
        folder = self.folder / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        suffix = next(iter(modality.formats))
        metadata = {"step": step, "weights": name, "seed": 0}
        if modality.clips_per_file is not None:
            for i, clip in enumerate(made):
                modality.write(
                    [clip], folder / f"{name}-{i:02d}{suffix}", {**metadata, "conditions": dict(clip.conditions)}
                )
        sheet = folder / f"{name}.png"
        captions = [caption(c.conditions) for c in made]
        if reconstructs:
            made = [clip for pair in zip(shown, made, strict=True) for clip in pair]
            captions = [text for own in captions for text in (own, f"{own} (reconstructed)".strip())]
        modality.sheet(made, sheet, captions)
        return sheet


def caption(conditions: Any) -> str:
    """Conditions in a few words."""
    return ", ".join(f"{k} {v}" for k, v in conditions.items() if v is not None)


def batch_tensors(generator: Generator, clips: Sequence[Clip] | Sequence[Encoded]) -> tuple[Any, dict[str, Any]]:
    """Latents and conditions of real clips, or of those of a latent cache, on the generator's device."""
    if isinstance(clips[0], Encoded):
        return _stored(generator, cast("Sequence[Encoded]", clips))
    clips = cast("Sequence[Clip]", clips)
    lost = rejected_clips(clips) if isinstance(generator.loss, LossWithPairs) else []
    with torch.no_grad():
        latents = generator.encoder.encode([*clips, *lost])
    beside, latents = _halves(latents) if lost else (None, latents)
    names = generator.conditioners
    cond = encode_conditions(names, [{k: c.conditions.get(k) for k in names} for c in clips])
    cond = tree_map(lambda v: send(v, generator.device), cond)
    if latents.mask is not None:
        cond[MASK] = latents.mask
    if beside is not None:
        cond[REJECTED] = {"x": beside.x} | ({} if beside.mask is None else {MASK: beside.mask})
    if generator.pairs is not None:
        with torch.no_grad():
            cond[SOURCE] = source_states(generator.encoder, clips, generator.pairs, latents.x)
    return latents.x, cond


def _halves(both: Latents) -> tuple[Latents, Latents]:
    """Latents of pairs, coded together so that they are of one length: the rejected ones, and the preferred."""

    def half(part: Any, i: int) -> Any:
        return None if part is None else tree_map(lambda v: v.chunk(2)[i], part)

    second, first = (Latents(half(both.x, i), half(both.mask, i)) for i in (1, 0))
    return second, first


def _stored(generator: Generator, clips: Sequence[Encoded]) -> tuple[Any, dict[str, Any]]:
    x, mask, found = stack(clips)
    cond = {name: found[name] for name in generator.conditioners}
    if mask is not None:
        cond[MASK] = mask
    return tree_map(lambda v: send(v, generator.device), x), tree_map(lambda v: send(v, generator.device), cond)
