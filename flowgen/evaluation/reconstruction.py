"""Measuring an autoencoder: clips that it gives back, beside the clips themselves and a linear code of equal size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from flowgen.core.interfaces import Autoencoder, CausalAutoencoder
from flowgen.evaluation.evaluate import Evaluation, draw_sets, machine
from flowgen.evaluation.pool import training_clips
from flowgen.evaluation.rows import Row, finite, measure
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents
from flowgen.media.interfaces import ComparesReconstructions, Dataset, Metric
from flowgen.runs.generator import Generator, Weights

COLUMNS = ("round_trip", "linear_code", "real")
_POOL = 512
"""Training clips that the linear code is fitted on."""


def evaluate_autoencoder(
    generator: Generator, dataset: Dataset, metrics: Sequence[tuple[str, Metric]], *, weights: Weights = "ema"
) -> Evaluation:
    """Measure an autoencoder as its config's `eval` section says, by the metrics and by the medium's own distances.

    The linear code has as many numbers a second: the principal components of the steps of the state in training clips.
    """
    config = generator.config
    seed, sets = config.eval.seed, draw_sets(dataset, config.eval.clips, config.eval.seed)
    linear = linear_code(generator, training_clips(dataset, _POOL))
    clips = {"round_trip": generator.reconstruct(sets.real), "linear_code": linear(sets.real), "real": sets.real}
    rows = []
    if isinstance(generator.modality, ComparesReconstructions):
        found = {
            c: generator.modality.compare_reconstructions(clips[c], sets.real) for c in ("round_trip", "linear_code")
        }
        for name, value in found["round_trip"].items():
            other = {"linear_code": finite(found["linear_code"][name])}
            rows.append(Row("reconstruction", name, None, finite(value), None, controls=other))
    for name, metric in metrics:
        rows += measure(name, metric, clips, sets.reference, seed)
    settings = {
        "name": config.name,
        "step": generator.step,
        "weights": weights,
        "clips": len(sets.real),
        "clips_asked": config.eval.clips,
        "seed": seed,
        "reference": sets.origin,
        "numbers_per_step": _channels(generator),
        "metrics": [m.model_dump(mode="json") for m in config.eval.metrics],
        **machine(generator.device),
    }
    return Evaluation(tuple(rows), settings)


@torch.no_grad()
def linear_code(
    generator: Generator, clips: Sequence[Clip], channels: int | None = None
) -> Callable[[Sequence[Clip]], list[Clip]]:
    """What gives clips back from as many numbers a step as the latent has (or `channels`): the principal components of their
    states, step by step, or of what each position of the latent codes.
    """
    network = generator.network
    coded = network if isinstance(network, CausalAutoencoder) else None
    mean, covariance = _moments(_steps(generator.encoder.encode([clip]), coded) for clip in clips)
    basis = torch.linalg.eigh(covariance).eigenvectors[:, -(channels or _channels(generator)) :]

    @torch.no_grad()
    def code(clips: Sequence[Clip]) -> list[Clip]:
        out: list[Clip] = []
        for clip in clips:
            x, mask = generator.encoder.encode([clip])
            assert isinstance(x, Tensor)
            parts = x.cpu() if coded is None else coded.split(x).cpu()
            kept = ((parts.double() - mean) @ basis @ basis.T + mean).to(x)
            if coded is not None:
                kept = coded.join(kept)[:, : x.shape[1]]
            (new,) = generator.encoder.decode(Latents(kept, mask))
            out.append(Clip(new.data, new.rate, clip.conditions, clip.source))
        return out

    return code


def _steps(latents: Latents, coded: CausalAutoencoder | None) -> Tensor:
    """What is coded of states, where they are real, [n, C]."""
    x, mask = latents
    assert isinstance(x, Tensor)
    if coded is not None:
        return coded.split(x).flatten(0, -2)
    return x.flatten(0, -2) if mask is None else x[mask]  # type: ignore[index]


def _moments(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [C] and covariance [C, C] of rows, float64 on the CPU."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        rows = part.double().cpu()
        count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.T @ rows
    mean = total / count
    return mean, squares / count - mean[:, None] * mean


def _channels(generator: Generator) -> int:
    assert isinstance(generator.network, Autoencoder)
    return generator.network.channels
