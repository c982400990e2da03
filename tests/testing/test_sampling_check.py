"""The check of sampling tells what kernels round from what leaks between batch-mates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowgen.core.tree import batch_size
from flowgen.media.encoder import Latents
from flowgen.runs.generator import Generator
from flowgen.testing.checks.run import sampling_follows_the_seed
from flowgen.testing.subject import Subject

pytestmark = pytest.mark.exact


@pytest.fixture(scope="module")
def subject():
    return Subject.of("demo/audio", ["network.width=32", "network.depth=1", "network.heads=2"])


def test_what_the_kernels_round_passes(subject):
    assert sampling_follows_the_seed(subject) is None


def test_a_network_that_sees_its_batch_mates_is_caught(subject, monkeypatch):
    honest = subject.generator.network.forward

    def leaking(x: Tensor, t: Tensor, cond: dict) -> Tensor:
        return honest(x, t, cond) + 1e-3 * x.mean(0)

    monkeypatch.setattr(subject.generator.network, "forward", leaking)
    assert "the latent of a clip sampled alone differs" in (sampling_follows_the_seed(subject) or "")


def test_a_decoder_that_sees_its_batch_mates_is_caught(subject, monkeypatch):
    encoder = subject.generator.encoder

    class Leaking(type(encoder)):
        def decode(self, latents: Latents):
            x = latents.x
            return super().decode(Latents(x + 0.2 * (x.mean(0) - x) * (batch_size(x) > 1), latents.mask))

    monkeypatch.setattr(encoder, "__class__", Leaking)
    assert "a clip decoded alone differs" in (sampling_follows_the_seed(subject) or "")


def test_a_seed_that_does_nothing_is_caught(subject, monkeypatch):
    honest = Generator.sample
    monkeypatch.setattr(Generator, "sample", lambda *a, seed, **options: honest(*a, seed=7, **options))
    assert sampling_follows_the_seed(subject) == "another seed gives the same clips"


def test_draws_that_no_seed_reaches_are_caught(subject, monkeypatch):
    honest = subject.generator.network.forward
    monkeypatch.setattr(
        subject.generator.network, "forward", lambda x, t, cond: honest(x, t, cond) + torch.randn_like(x)
    )
    assert sampling_follows_the_seed(subject) == "the same seed gives other clips the second time"
