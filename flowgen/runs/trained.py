"""An autoencoder that was trained here, as the encoder of another run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from flowgen.config import build
from flowgen.core.interfaces import Autoencoder, CausalAutoencoder
from flowgen.core.ranges import Count
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.chunks import in_chunks
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.interfaces import KnownLengths, Modality
from flowgen.media.streams import Axis, StreamSpec
from flowgen.runs.experiment import Experiment
from flowgen.runs.run import Run


class TrainedEncoder(Encoder):
    """The latents of an autoencoder that `flowgen train` made, frozen, with mean 0 by channel and unit variance in all.

    Its own encoder (patches of a waveform) is taken with the statistics of that run. The length of clips may be another one
    than it was trained on, since it reaches a bounded number of steps; the rate of its steps may not.

    Args:
        run: the run folder of the autoencoder, or an export of it.
        weights: the averaged ones, or those of the last step.
        chunk: latent steps that are coded at a time, which bounds the memory of long clips and changes nothing else.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, modality: Modality, run: str, weights: Literal["ema", "raw"] = "ema", chunk: Count = 1024
    ) -> None:
        super().__init__()
        self.folder, self.chunk = Path(run), chunk
        source = Run(self.folder)
        try:
            experiment = Experiment(source.config())
            network = experiment.network
            if not isinstance(network, Autoencoder):
                raise UsageError(
                    f"encoder.run: {run} is a generator (network {experiment.config.network.type!r}); give the run of an "
                    f"autoencoder, such as of the recipe audio/autoencoder-fsdd or video/autoencoder-small"
                )
            checkpoint = source.read_newest(lambda c: c.load_weights(network, weights))
            source.load_encoder(experiment.encoder, checkpoint)
        except UsageError:
            raise
        except FlowgenError as error:
            raise FlowgenError(f"encoder.run: {error}") from error
        inner = build("encoder", experiment.config.encoder, modality=modality).eval().requires_grad_(False)
        _compare(inner.spec, experiment.spec, run)
        inner.load_state_dict(experiment.encoder.state_dict())
        network.eval().requires_grad_(False)
        # neither is a module of this one: their weights lie in the folder of that run, and are not written again
        self._held: tuple[Encoder, Autoencoder] = (inner, network)
        self._key = _key(network.state_dict(), experiment.encoder.identity)
        self.context = network.context
        axes = _stream(inner.spec).axes
        if isinstance(network, CausalAutoencoder):
            sizes = network.latent_sizes([axis.size for axis in axes])
            axes = tuple(
                Axis(axis.name, size, axis.rate / factor)
                for axis, size, factor in zip(axes, sizes, network.factors, strict=True)
            )
        self.crops_in_time = not isinstance(network, CausalAutoencoder)
        self.spec: StreamSpec = StreamSpec(network.channels, axes)
        self.register_buffer("mean", torch.zeros(network.channels))
        self.register_buffer("std", torch.ones(()))

    @property
    def identity(self) -> str:
        return hashlib.sha256(f"{super().identity}{self._key}".encode()).hexdigest()[:16]

    def latent_shape(self, seconds: float) -> tuple[int, ...]:
        """The shape of the latent of a clip of so many seconds, without the batch."""
        inner, network = self._held
        if not isinstance(inner, KnownLengths):
            raise UsageError(f"the autoencoder in {self.folder} codes clips of one length")
        sizes = inner.latent_shape(seconds)[:-1]
        if isinstance(network, CausalAutoencoder):
            sizes = network.latent_sizes(sizes)
        return (*sizes, self.spec.channels)

    @torch.no_grad()
    def fit(self, clips: Sequence[Clip]) -> None:
        frames = torch.cat([self._encode([clip]).x[0].flatten(0, -2).double() for clip in clips])  # type: ignore[index]
        self.mean.copy_(frames.mean(0))
        self.std.copy_((frames - frames.mean(0)).square().mean().sqrt().clamp(min=1e-5))

    def encode(self, clips: Sequence[Clip]) -> Latents:
        z, mask = self._encode(clips)
        assert isinstance(z, Tensor)
        z = (z - self.mean) / self.std
        return Latents(z if mask is None else z * mask[..., None], mask)  # type: ignore[index]

    def decode(self, latents: Latents) -> list[Clip]:
        z, mask = latents
        assert isinstance(z, Tensor)
        inner, network = self._on_device()
        z = z.float() * self.std + self.mean
        if isinstance(network, CausalAutoencoder):
            x = network.decode_in_parts(z, self.chunk)
            own = _stream(inner.spec).axes[0].size
            # a clip of the modality's own length: the last latent step may stand for fewer frames
            return inner.decode(Latents(x[:, :own] if z.shape[1] == self.spec.axes[0].size else x))
        x = z.new_zeros(*z.shape[:2], _stream(inner.spec).channels)
        for rows, steps in _by_length(mask, z):
            x[rows, :steps] = in_chunks(network.decode, z[rows, :steps], self.chunk, network.context)
        return inner.decode(Latents(x, mask))

    def _encode(self, clips: Sequence[Clip]) -> Latents:
        """Latents as the network gives them; one length at a time, so that what lies beyond a clip is silence to each."""
        inner, network = self._on_device()
        x, mask = inner.encode(clips)
        assert isinstance(x, Tensor)
        if isinstance(network, CausalAutoencoder):
            return Latents(network.encode_in_parts(x, self.chunk))
        z = x.new_zeros(*x.shape[:2], network.channels)
        for rows, steps in _by_length(mask, x):
            z[rows, :steps] = in_chunks(network.encode, x[rows, :steps], self.chunk, network.context)
        return Latents(z, mask)

    def _on_device(self) -> tuple[Encoder, Autoencoder]:
        inner, network = self._held
        assert isinstance(network, torch.nn.Module)
        for module in (inner, network):
            module.to(self.mean.device)
        return self._held


def _by_length(mask: object, x: Tensor) -> list[tuple[list[int], int]]:
    """Rows by the number of steps that are real."""
    steps = mask.sum(1).tolist() if isinstance(mask, Tensor) else [x.shape[1]] * len(x)
    return [([i for i, n in enumerate(steps) if n == count], count) for count in sorted(set(steps))]


def _compare(own: object, theirs: object, run: str) -> None:
    """UsageError: an autoencoder codes other patches, or of another rate, than it was trained on."""
    a, b = _stream(own), _stream(theirs)
    if (a.channels, _rates(a)) != (b.channels, _rates(b)):
        raise UsageError(
            f"encoder.run: the autoencoder in {run} was trained on {b.channels} numbers a step at {_rates(b)} steps a second, and "
            f"this modality gives {a.channels} at {_rates(a)}; set the modality (rate, channels) as it is in that run"
        )


def _rates(spec: StreamSpec) -> dict[str, float]:
    return {axis.name: axis.rate for axis in spec.axes}


def _stream(spec: object) -> StreamSpec:
    if not isinstance(spec, StreamSpec) or not spec.axes or not isinstance(spec.axes[0], Axis):
        raise UsageError("an autoencoder codes one stream with a first axis in time")
    return spec


def _key(state: dict[str, Tensor], encoder: str) -> str:
    """A hash of weights: which checkpoint they came from, or where it lies, plays no part."""
    digest = hashlib.sha256(encoder.encode())
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
