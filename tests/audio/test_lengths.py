"""Clips of different lengths in one batch: encoder, network, loss and sampling treat each as if it were alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from flowgen_audio.encoders import AudioEncoder, Mel, Spectrogram, Waveform
from flowgen_audio.folder import AudioFolder
from flowgen_audio.modality import Audio
from flowgen_audio.notes import Notes
from torch import Tensor

from flowgen import FlowMatching, NetworkFlow, sample, uniform_grid
from flowgen.core.interfaces import MASK
from flowgen.core.random import Randomness
from flowgen.core.solvers import Heun
from flowgen.media.clip import Clip
from flowgen.media.conditions import ClassCondition
from flowgen.media.encoder import Latents
from flowgen.nn import Transformer

pytestmark = pytest.mark.exact

AUDIO = Audio(8000, duration_s=2.0)


class FixedNoise(Randomness):
    """Noise that depends on the clip and the place in it, not on the length of the batch."""

    def normal(self, like: Tensor, purpose: str = "noise") -> Tensor:  # type: ignore[override]
        g = torch.Generator().manual_seed(0)
        noise = torch.randn(4, 400, like.shape[2], generator=g)
        return noise[self.rows, : like.shape[1]]


@pytest.fixture(scope="module", params=[Spectrogram, Mel, Waveform], ids=lambda e: e.__name__)
def encoder(request: pytest.FixtureRequest) -> AudioEncoder:
    options = {"patch": 160} if request.param is Waveform else {"window": 512, "hop": 128}
    encoder = request.param(AUDIO, multiple=2, **options)
    encoder.fit([Notes(AUDIO).clip(i, 0) for i in range(4)])
    return encoder


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """0.3 s, 2 s and 0.95 s."""
    notes = Notes(AUDIO)
    return [Clip(notes.clip(i, 0).data[:, :n], 8000) for i, n in enumerate((2400, 16000, 7600))]


@pytest.fixture(scope="module")
def network(encoder: AudioEncoder) -> Transformer:
    torch.manual_seed(0)
    network = Transformer(encoder.spec, {"c": ClassCondition(("a", "b"))}, width=32, depth=2, heads=2, patch=(2,))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def test_network_and_loss_give_each_clip_what_it_gets_alone(
    encoder: AudioEncoder, network: Transformer, clips: list[Clip]
) -> None:
    loss = FlowMatching(predicts="data", space="velocity")
    together = encoder.encode(clips)
    cond = {"c": torch.tensor([0, 1, 2]), MASK: together.mask}
    t = torch.tensor([0.2, 0.5, 0.8])
    with torch.no_grad():
        out = network(together.x, t, cond)
        losses = loss(network, together.x, cond, FixedNoise(0, 0, 3))
        for i, clip in enumerate(clips):
            x = encoder.encode([clip]).x
            alone = {"c": torch.tensor([i])}
            assert (network(x, t[i : i + 1], alone) - out[i : i + 1, : x.shape[1]]).abs().max() < 1e-5
            random = FixedNoise(0, 0, 3, rows=torch.tensor([i]))
            torch.testing.assert_close(
                loss(network, x, alone, random).total, losses.total[i : i + 1], rtol=1e-5, atol=0
            )


def test_what_lies_in_the_padding_changes_nothing(
    encoder: AudioEncoder, network: Transformer, clips: list[Clip]
) -> None:
    x, mask = encoder.encode(clips)
    cond = {"c": torch.tensor([0, 1, 2]), MASK: mask}
    garbage = torch.where(mask[..., None], x, 100.0)
    loss = FlowMatching()
    with torch.no_grad():
        a, b = (network(v, torch.full((3,), 0.4), cond) for v in (x, garbage))
        assert ((a - b) * mask[..., None]).abs().max() < 1e-5
        random = Randomness(0, 0, 3)
        losses = [loss(network, v, cond, random).total for v in (x, garbage)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def test_sampled_lengths_are_those_asked_for(encoder: AudioEncoder, network: Transformer) -> None:
    shapes = [encoder.latent_shape(s) for s in (0.3, 2.0)]
    assert shapes[1] == encoder.spec.shape
    steps = torch.tensor([shape[0] for shape in shapes])
    mask = torch.arange(int(steps.max())) < steps[:, None]
    noise = torch.randn(2, *encoder.spec.shape, generator=torch.Generator().manual_seed(1))
    cond = {"c": torch.tensor([0, 1])}
    flow = NetworkFlow(network, FlowMatching().path)
    x = sample(flow, noise, uniform_grid(3), solver=Heun(), cond={**cond, MASK: mask})
    short, long = encoder.decode(Latents(x, mask))
    assert long.data.shape == (1, 16000)
    assert 0 <= short.data.shape[1] - 2400 < 3 * encoder.hop
    alone = sample(flow, noise[:1, : shapes[0][0]], uniform_grid(3), solver=Heun(), cond={"c": cond["c"][:1]})
    assert (alone - x[:1, : shapes[0][0]]).abs().max() < 1e-4


def test_a_folder_of_any_lengths_encodes_to_masked_latents(tmp_path: Path, encoder: AudioEncoder) -> None:
    for i, n in enumerate((2400, 9000, 16000)):
        soundfile.write(tmp_path / f"{i}.wav", Notes(AUDIO).clip(i, 0).data[0, :n].numpy(), 8000)
    data = AudioFolder(AUDIO, str(tmp_path), held_out=0.0)
    latents = encoder.encode([data.clip(i, 0) for i in range(3)])
    assert latents.mask.sum(1).tolist() == [encoder.latent_shape(n / 8000)[0] for n in (2400, 9000, 16000)]
