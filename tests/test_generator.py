"""A trained run as an object: densities that are densities, grids and chains that the config names."""

import math
import re

import pytest
import torch
from click.testing import CliRunner

from flowgen.config import load
from flowgen.core.flow import NetworkFlow
from flowgen.core.guidance import CFG
from flowgen.core.paths import Linear
from flowgen.core.sampler import evaluation_times
from flowgen.core.solvers.jumps import FlowMapSolver
from flowgen.core.solvers.ode import Euler, Heun
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents
from flowgen.runs.generator import Generator
from flowgen.runs.idle import warn_idle_guidance

pytestmark = pytest.mark.exact

CONFIG = """
name: ring
modality: points
data: ring
encoder: points
network: {type: mlp, width: 32, depth: 2}
train: {steps: 60, batch_size: 256, optimizer: {lr: 1e-2}, schedule: {warmup: 0}, validation: {every: 0}, preview: {every: 0}}
sample: {steps: 4, solver: heun, guidance: {type: cfg, scale: 2.0}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from flowgen.training.trainer import train

    path = tmp_path_factory.mktemp("generator")
    (path / "c.yaml").write_text(CONFIG)
    train(load(str(path / "c.yaml"), [f"run={path}/run"]))
    return path / "run"


def value(folder):
    """A value of the run's one condition."""
    generator = Generator.load(folder)
    ((name, conditioner),) = generator.conditioners.items()
    return {name: conditioner.names[2]}


def test_the_density_of_a_run_integrates_to_one(folder):
    generator = Generator.load(folder)
    ticks = torch.linspace(-8, 8, 41)
    clips = [Clip(torch.stack([x, y])) for x in ticks for y in ticks]
    latent_area = float(generator.encoder.encode([Clip(ticks[[1, 1]]), Clip(ticks[[0, 0]])]).x.diff(dim=0).abs().prod())
    density = generator.log_prob(clips, [value(folder)] * len(clips), exact=True).exp()
    assert float(density.sum()) * latent_area == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    "override",
    [
        "sample.steps=8",
        "sample.solver=euler",
        "sample.grid=karras",
        "sample.grid=[0, 0.3, 1]",
        "sample.guidance.scale=4",
        "sample.guidance.start=0.6",
        "sample.guidance=null",
        "sample.guidance=[{type: cfg, scale: 2}, {type: cfg, scale: 3, start: 0.5}]",
        "sample.path={type: cosine}",
        "shift=3",
    ],
)
def test_every_setting_of_a_sample_changes_it(folder, override):
    asked = [value(folder)] * 8
    plain = torch.stack([c.data for c in Generator.load(folder).sample(asked)])
    changed = torch.stack([c.data for c in Generator.load(folder, overrides=[override]).sample(asked)])
    assert not torch.allclose(plain, changed, atol=1e-4)


def test_sampling_that_begins_after_zero_begins_with_as_much_noise_as_there_is_then(folder):
    made = Generator.load(folder, overrides=["sample.grid=[0.5, 0.50001]", "sample.guidance=null"])
    asked = [value(folder)] * 64
    clips = torch.stack([c.data for c in made.sample(asked)])
    half = made.encoder.decode(Latents(made.noise(64, 0) / 2))
    assert torch.allclose(clips, torch.stack([c.data for c in half]), atol=1e-2)


def test_a_grid_of_the_model_is_for_networks_that_have_one(folder):
    with pytest.raises(FlowgenError, match="the network 'mlp' has none: take uniform"):
        Generator.load(folder, overrides=["sample.grid=model"]).sample([{}])


def test_batches_do_not_matter(folder):
    asked = [value(folder)] * 7
    for override in ("sample.solver=heun", "sample.solver=euler-maruyama"):
        whole = Generator.load(folder, overrides=[override]).sample(asked, seed=3)
        split = Generator.load(folder, overrides=[override, "sample.batch_size=3"]).sample(asked, seed=3)
        for a, b in zip(whole, split, strict=True):
            torch.testing.assert_close(a.data, b.data, atol=1e-5, rtol=1e-5)


def test_a_setting_the_flow_cannot_follow_is_refused(folder):
    with pytest.raises(FlowgenError, match=r"cannot sample ring: .*increasing"):
        Generator.load(folder, overrides=["sample.grid=[0, 1, 0.5]"]).sample([{}])
    with pytest.raises(UsageError, match="no length in seconds"):
        Generator.load(folder).sample([{}], seconds=1.0)


def test_the_field_and_the_way_are_drawn(folder, tmp_path):
    from flowgen.cli import cli

    out, field, way = tmp_path / "ring.png", tmp_path / "field.png", tmp_path / "way.gif"
    args = ["sample", folder, "-n", 50, "-o", out, "--field", field, "--animate", way]
    result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert result.stdout.split() == [str(p) for p in (out, way, field)]
    assert field.read_bytes().startswith(b"\x89PNG")
    assert way.read_bytes().startswith(b"GIF8")


def test_the_velocity_of_a_run_points_from_noise_to_the_ring(folder):
    generator = Generator.load(folder)
    ring = generator.modality
    far = [Clip(torch.tensor([x, y]) * 3 * ring.extent) for x, y in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))]
    inwards = -(generator.velocity(far, 0.5) * generator.encoder.encode(far).x).sum(1)
    assert (inwards > 0).all()


def test_the_likelihood_of_held_out_clips_is_the_mean_of_theirs(folder, tmp_path):
    from flowgen.cli import cli
    from flowgen.data.order import full_size
    from flowgen.evaluation.evaluate import draw_sets

    def said(*args):
        done = CliRunner().invoke(cli, ["likelihood", str(folder), *map(str, args)], catch_exceptions=False)
        return [float(n) for n in re.findall(r"-?\d+\.\d+", done.stdout.rpartition(": ")[2])]

    nats, error, bits, _ = said("--data", "-n", 40, "--exact", "--seed", 3)
    generator = Generator.load(folder)
    clips = draw_sets(full_size(generator.experiment.dataset), 40, 3).real
    asked = [{k: c.conditions[k] for k in generator.conditioners} for c in clips]
    each = generator.log_prob(clips, asked, exact=True) / 2
    assert nats == pytest.approx(float(each.mean()), abs=1e-3)
    assert error == pytest.approx(float(each.std() / 40**0.5), abs=1e-3)
    assert bits == pytest.approx(-nats / math.log(2), abs=1e-3)
    generator.modality.write(clips[:1], tmp_path / "one.csv", {})
    log_p, per_dim, _ = said(tmp_path / "one.csv", "--exact")
    assert log_p == pytest.approx(2 * per_dim, abs=0.01)
    points = [Clip(clip.data) for clip in clips[:3]]
    generator.modality.write(points, tmp_path / "three.npy", {})
    of_three = float(generator.log_prob(points, exact=True).mean()) / 2
    assert said(tmp_path / "three.npy", "--exact")[0] == pytest.approx(of_three, abs=1e-3)
    with pytest.raises(UsageError, match="give FILES, or --data"):
        said()


def test_the_times_at_which_a_solver_asks_tell_where_a_guidance_is_idle(recwarn):
    flow = NetworkFlow(lambda x, t, cond: x, path=Linear(), predicts="velocity")
    grid = torch.linspace(0, 1, 3, dtype=torch.float64)
    assert evaluation_times(flow, grid, Euler()) == [0.0, 0.5]
    assert evaluation_times(flow, grid, Heun()) == [0.0, 0.5, 0.5, 1.0]
    guided = CFG(scale=3.0, start=0.1)(flow, {"kind": torch.zeros(1)})
    warn_idle_guidance(guided, grid, Euler())
    assert not recwarn.list
    with pytest.warns(
        UserWarning, match=r"changes nothing: it acts from t = 0\.1 to 1, and all evaluations are at t = 0;"
    ):
        warn_idle_guidance(guided, torch.tensor([0.0, 1.0], dtype=torch.float64), FlowMapSolver())
