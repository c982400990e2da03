"""Autoencoders of waveforms: what they give back, in parts and whole, trained, resumed, and as the encoder of a generator."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from flowgen_audio.autoencoder import mdct_basis
from flowgen_audio.fidelity import fidelity
from safetensors.torch import load_file
from sklearn.decomposition import PCA

from flowgen.cli import cli
from flowgen.config import build
from flowgen.core.bottlenecks import FSQ, KL, Plain, SoftNorm
from flowgen.core.interfaces import MASK
from flowgen.core.random import Randomness
from flowgen.errors import FlowgenError, UsageError
from flowgen.evaluation.reconstruction import linear_code
from flowgen.media.chunks import in_chunks
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents
from flowgen.runs.generator import Generator

RATE, PATCH = 8000, 128
NETWORKS = {
    "audio-spectral": {
        "width": 16,
        "latent_width": 24,
        "blocks": [1, 1],
        "latent_blocks": [1, 1],
        "hop": 32,
        "window": 64,
    },
    "audio-snake": {"strides": [4, 4, 8], "width": 8, "dilations": [1, 3]},
}


def network(name, sounds=1, channels=8, bottleneck="plain", seed=0):
    modality = build("modality", {"type": "audio", "sample_rate": RATE, "duration_s": 0.512, "channels": sounds})
    encoder = build("encoder", {"type": "waveform", "patch": PATCH}, modality=modality)
    torch.manual_seed(seed)
    section = {"type": name, "channels": channels, "bottleneck": bottleneck, **NETWORKS[name]}
    return build("network", section, spec=encoder.spec, conditions={}, inputs=(), modality=modality).eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sounds", [1, 2])
@torch.no_grad()
def test_in_parts_is_the_whole(name, sounds):
    made = network(name, sounds)
    x = torch.randn(1, 70, PATCH * sounds)
    z = made.encode(x)
    whole = made.decode(z)
    assert z.shape == (1, 70, 8)
    assert whole.shape == x.shape
    g = torch.Generator().manual_seed(0)
    for chunk in torch.randint(1, 40, (12,), generator=g).tolist():
        torch.testing.assert_close(in_chunks(made.encode, x, chunk, made.context), z, rtol=0, atol=1e-5)
        torch.testing.assert_close(in_chunks(made.decode, z, chunk, made.context), whole, rtol=0, atol=1e-5)
    off = (in_chunks(made.decode, z, 5, 0) - whole).abs().max()  # without neighbours there are seams
    assert float(off) > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_padding_is_not_seen_and_is_silent(name):
    made = network(name)
    x, mask = torch.randn(2, 12, PATCH), torch.arange(12).expand(2, 12) < torch.tensor([[12], [7]])
    other = torch.where(mask[..., None], x, 9.0)
    given = [made(v, torch.zeros(()), {MASK: mask}) for v in (x, other)]
    torch.testing.assert_close(given[0], given[1])
    assert not given[0][1, 7:].any()


def test_the_transform_it_starts_from_is_orthonormal():
    basis = mdct_basis(16)
    torch.testing.assert_close(basis @ basis.T, torch.eye(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(basis[:, :16] @ basis[:, 16:].T, torch.zeros(16, 16), rtol=0, atol=1e-5)


def test_bottlenecks_do_what_they_are_named_for():
    h = 3 * torch.randn(4096, 5, 2)
    mean, log = torch.full((64, 1, 2), 0.5), torch.full((64, 1, 2), -1.0)
    code = KL(2, weight=1.0)(torch.cat([mean, log], -1))
    torch.testing.assert_close(code.z, mean)
    torch.testing.assert_close(code.penalty, torch.full((64,), (0.25 + torch.tensor(-1.0).exp() - 1 + 1).item() / 2))
    drawn = KL(2)(torch.cat([mean, log], -1).repeat(64, 1, 1), Randomness(0, 0, 4096)).z
    assert float(drawn.std()) == pytest.approx(float(torch.tensor(-0.5).exp()), rel=0.03)
    norm = SoftNorm(2, noise=0.1)
    optimizer = torch.optim.Adam(norm.parameters(), 1e-3)
    for _ in range(300):
        optimizer.zero_grad()
        norm(h).penalty.mean().backward()
        optimizer.step()
    assert norm(h).z.detach().std((0, 1)).tolist() == pytest.approx([1, 1], rel=0.05)
    noised = norm(h, Randomness(0, 0, 4096)).z - norm(h).z
    assert float(noised.detach().std()) == pytest.approx(0.1, rel=0.05)
    for levels in (2, 5, 8):
        fsq = FSQ(2, levels)
        assert set(fsq.codes(fsq(5 * h).z).unique().tolist()) == set(range(levels))
        with pytest.raises(ValueError, match="codes go from 0"):
            fsq.latents(torch.tensor([levels]))
    assert torch.equal(Plain(2)(h).z, h)


def test_fidelity_is_what_its_papers_say():
    t = torch.arange(8000) / 8000
    tone = torch.sin(2 * torch.pi * 440 * t)[None]
    noise = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    noise -= (noise @ tone.T) / (tone @ tone.T) * tone  # nothing of it along the tone
    noise *= 0.1 * tone.norm() / noise.norm()
    same, off, loud = (fidelity([made], [tone], 8000) for made in (tone, tone + noise, 0.5 * (tone + noise)))
    assert same["stft"] == same["log_mel"] == 0
    assert off["si_sdr_db"] == pytest.approx(20, abs=0.05) == loud["si_sdr_db"]
    half = fidelity([0.5 * tone], [tone], 8000)
    assert half["si_sdr_db"] > 60
    assert 0.5 < half["stft"] < 0.5 + 0.6932  # a relative norm of 1/2, and log 2 where there is sound


CONFIG = """
name: tiny
modality: {type: audio, sample_rate: 8000, duration_s: 0.512}
data: {type: audio-folder, folder: sounds, held_out: 0.2}
conditions: {}
encoder: {type: waveform, patch: 128}
network: {type: audio-spectral, channels: 16, width: 32, latent_width: 48, blocks: [1, 2], latent_blocks: [1, 1], hop: 32, window: 128}
loss: {type: audio-reconstruction, windows: [256, 64], mel_window: 256, bands: 20}
train: {steps: 30, batch_size: 8, optimizer: {lr: 2.0e-3}, validation: {every: 15}, preview: {every: 30, clips: 2},
  checkpoint: {every: 15, keep: 3}}
eval: {clips: 4, metrics: []}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    (folder / "sounds").mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        t = np.arange(6000) / 8000
        wave = 0.4 * np.sin(2 * np.pi * rng.uniform(200, 900) * t) * np.exp(-t * rng.uniform(2, 9))
        soundfile.write(folder / "sounds" / f"{i}.wav", wave, 8000)
    (folder / "tiny.yaml").write_text(CONFIG.replace("folder: sounds", f"folder: {folder}/sounds"))
    invoke("train", folder / "tiny.yaml", f"run={folder}/ae", "--quiet")
    return folder


def invoke(*arguments):
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_it_trains_by_name_and_resumes_bit_for_bit(trained):
    lines = [json.loads(line) for line in (trained / "ae" / "log.jsonl").read_text().splitlines()]
    losses = [line["validation/loss"] for line in lines if "validation/loss" in line]
    assert losses[-1] < losses[0]
    named = {key for line in lines for key in line}
    assert {f"loss/{name}" for name in ("l1", "log", "convergence", "phase", "mel", "bottleneck")} <= named
    assert len(list((trained / "ae" / "previews").rglob("*.wav"))) == 4  # averaged and raw
    again = trained / "again"
    shutil.copytree(trained / "ae", again)
    shutil.rmtree(again / "checkpoints" / "step-00000030")
    invoke("train", trained / "tiny.yaml", f"run={again}", "--resume", "--quiet")
    ours, theirs = (load_file(run / "checkpoints/step-00000030/ema.safetensors") for run in (trained / "ae", again))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
def test_it_is_measured_beside_a_linear_code_and_generates_nothing(trained):
    said = invoke("eval", trained / "ae")
    assert "given back from 16 numbers a step" in said
    rows = {row["name"]: row for row in json.loads((trained / "ae" / "eval.json").read_text())["figures"]}
    assert {"si_sdr_db", "stft", "log_mel"} <= rows.keys()
    generator = Generator.load(trained / "ae")
    clips = [generator.experiment.dataset.clip(i, 0) for i in range(12)]
    states = [generator.encoder.encode([clip]).x[0] for clip in clips]
    pca = PCA(16).fit(torch.cat(states).numpy())
    for clip, x, made in zip(clips, states, linear_code(generator, clips)(clips), strict=True):
        expected = pca.inverse_transform(pca.transform(x.numpy()))
        (known,) = generator.encoder.decode(Latents(torch.from_numpy(expected).float()[None]))
        torch.testing.assert_close(made.data, known.data, rtol=0, atol=1e-4)
        assert made.data.shape == clip.data.shape
    for command in (["sample", trained / "ae"], ["eval", trained / "ae", "--controls"]):
        with pytest.raises(UsageError, match="generates nothing"):
            CliRunner().invoke(cli, [str(a) for a in command], catch_exceptions=False)


@pytest.mark.slow
def test_it_is_the_encoder_of_a_generator(trained, tmp_path):
    overrides = [
        f"encoder={{type: trained, run: {trained}/ae}}",
        "network={type: transformer, width: 16, depth: 1, heads: 1}",
        "loss={type: flow-matching, predicts: data}",
        "train.steps=4",
        "train.preview.every=0",
        f"run={tmp_path}/gen",
    ]
    invoke("train", trained / "tiny.yaml", *overrides, "--quiet")
    generator = Generator.load(tmp_path / "gen")
    encoder = generator.encoder
    assert encoder.spec.channels == 16
    latents = encoder.encode([generator.experiment.dataset.clip(i, 0) for i in range(8)]).x
    assert latents.std().item() == pytest.approx(1, abs=0.25)
    assert not any(p.requires_grad for p in encoder._held[1].parameters())
    long = Clip(torch.randn(1, 8 * 4096), 8000)
    short, encoder.chunk = encoder.encode([long]).x, 3
    torch.testing.assert_close(encoder.encode([long]).x, short, rtol=0, atol=1e-5)
    invoke("sample", tmp_path / "gen", "-o", tmp_path / "x.wav", "--steps", 2)
    assert soundfile.info(tmp_path / "x.wav").samplerate == 8000
    # another autoencoder in its place is refused, and so is a generator
    weights = trained / "ae" / "checkpoints" / "step-00000030" / "ema.safetensors"
    moved = trained / "away"
    weights.rename(moved)
    with pytest.raises(FlowgenError, match=r"encoder\.run"):
        Generator.load(tmp_path / "gen")
    moved.rename(weights)
    with pytest.raises(UsageError, match="is a generator"):
        build("encoder", {"type": "trained", "run": str(tmp_path / "gen")}, modality=generator.modality)
    with pytest.raises(UsageError, match="so that they go together"):
        invoke("train", trained / "tiny.yaml", "loss=flow-matching", f"run={tmp_path}/x", "--quiet")
