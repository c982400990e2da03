"""Given pairs from config to samples: reflow straightens a trained run, a bridge leads from one density to another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from flowgen_points.modality import Points, stack

import flowgen
from flowgen.cli import cli
from flowgen.config import build
from flowgen.config.schema import ComponentConfig
from flowgen.errors import FlowgenError, UsageError
from flowgen.evaluation.evaluate import evaluate
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset
from flowgen.runs.generator import Generator
from flowgen.runs.requests import FromClips

pytestmark = [pytest.mark.slow, pytest.mark.exact]
CONFIG = """
name: ring
modality: points
data: {type: ring, radius: 4, std: 0.3}
encoder: {type: points, std: 2.8}
network: {type: mlp, width: 64, depth: 2}
conditions: {}
train:
  {steps: 300, batch_size: 256, optimizer: {lr: 5.0e-3}, ema: {decay: 0.98}, validation: {every: 300}, preview: {every: 0}}
sample: {steps: 16, solver: heun, batch_size: 2000}
eval: {clips: 200}
"""
REFLOW = ["data={type: reflow, run: RING, pairs: 3000}", "coupling=given-pairs"]
BRIDGE = ["data={type: pairs, source: {type: ring, radius: 1, std: 0.1}, target: {type: ring, radius: 4, std: 0.3}}"]
BRIDGE += ["coupling={type: given-pairs, start: clips}", "train.steps=200"]


def run(*args: object) -> None:
    result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "ring.yaml").write_text(CONFIG)
    run("train", folder / "ring.yaml", f"run={folder}/ring", "--quiet")
    return folder / "ring"


@pytest.fixture(scope="module")
def straight(ring: Path) -> Path:
    changes = [change.replace("RING", str(ring)) for change in REFLOW]
    run("train", ring, f"run={ring}-straight", *changes, "--init-from", ring, "--quiet")
    return Path(f"{ring}-straight")


@pytest.fixture(scope="module")
def bridge(ring: Path) -> Path:
    run("train", ring, f"run={ring}-bridge", *BRIDGE, "--quiet")
    return Path(f"{ring}-bridge")


def on_ring(points: torch.Tensor, radius: float = 4.0, std: float = 0.3) -> float:
    """The share of points within three deviations of a mode."""
    angle = torch.arange(8) * torch.pi / 4
    modes = radius * torch.stack([angle.cos(), angle.sin()], 1)
    return float((torch.cdist(points, modes).min(1).values < 3 * std).float().mean())


class OnRing:
    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        return {"share": on_ring(stack(clips))}


def travel(folder: Path) -> tuple[float, float]:
    """The mean length of the ways from noise over the distance they cover, and how many one-step samples are on the ring."""
    generator = Generator.load(folder)
    x0 = generator.noise(1000, seed=5)
    flow, way = generator.loss.flow(generator.network), [x0]
    end = flowgen.sample(
        flow, x0, flowgen.uniform_grid(32), solver=flowgen.Heun(), on_step=lambda i, t, x: way.append(x)
    )
    length = torch.stack([(b - a).norm(dim=1) for a, b in pairwise(way)]).sum(0)
    one_step = generator.config.sample.model_copy(update={"steps": 1, "solver": ComponentConfig(type="euler")})
    once = generator.sample([{}] * 1000, seed=5, settings=one_step)
    return float(length.sum() / (end - x0).norm(dim=1).sum()), on_ring(stack(once))


def test_reflow_straightens_the_ways_and_one_step_suffices(ring: Path, straight: Path) -> None:
    (bent, teacher), (length, student) = travel(ring), travel(straight)
    assert bent > 1.02
    assert length - 1 < (bent - 1) / 4
    assert student > teacher + 0.3


def test_a_pair_is_noise_and_what_the_run_makes_of_it(ring: Path) -> None:
    def dataset(**options: object) -> Dataset:
        return build("dataset", ComponentConfig(type="reflow", run=str(ring), **options), modality=Points())

    data, again = dataset(pairs=300), dataset(pairs=300)
    clips = [data.clip(i, 0) for i in (0, 299)]
    assert torch.equal(stack(clips), stack([again.clip(i, 1) for i in (0, 299)]))
    assert (len(data), len(data.validation())) == (300, 30)
    held_out = data.validation().clip(0, 0)
    assert not torch.equal(held_out.start, clips[0].start)
    assert not torch.equal(dataset(seed=1).clip(0, 0).start, clips[0].start)
    generator = Generator.load(ring)
    for clip in [*clips, held_out]:
        end = flowgen.sample(
            generator.loss.flow(generator.network), clip.start[None], flowgen.uniform_grid(16), solver=flowgen.Heun()
        )
        torch.testing.assert_close(end * generator.encoder.scale, stack([clip]), atol=1e-4, rtol=0)
    few = dataset(pairs=300, steps=1)
    assert torch.equal(few.clip(0, 0).start, clips[0].start)
    assert not torch.equal(few.clip(0, 0).data, clips[0].data)
    with pytest.raises(UsageError, match=r"makes clips of Points\(extent=5.0\)"):
        build("dataset", ComponentConfig(type="reflow", run=str(ring)), modality=Points(extent=3.0)).clip(0, 0)


def test_a_bridge_leads_from_one_density_to_the_other(bridge: Path, tmp_path: Path) -> None:
    run("sample", bridge, "-n", 1000, "-o", tmp_path / "made.npy", "--animate", tmp_path / "way.gif")
    made = torch.from_numpy(np.load(tmp_path / "made.npy"))
    assert on_ring(made) > 0.6
    generator = Generator.load(bridge)
    dataset = build("dataset", generator.config.data, modality=generator.modality)
    starts = [dataset.clip(i, i).start for i in range(500)]
    assert on_ring(stack(starts)) == 0
    assert on_ring(stack(starts), 1.0, 0.1) > 0.98
    first = generator.sample(FromClips(conditions=[{}] * 2, sources=starts[:2]))
    again = generator.sample(FromClips(conditions=[{}] * 2, sources=starts[:2], seed=3))
    assert torch.equal(stack(first), stack(again))  # what it starts from is all there is to it
    found = evaluate(generator, dataset, [("ring", OnRing())])
    assert found.row("share").generated > 0.6
    assert found.row("share").real > 0.98
    np.savetxt(tmp_path / "one.csv", starts[0].data.numpy()[None], delimiter=",")
    run("sample", bridge, "--source", tmp_path / "one.csv", "-n", 2, "-o", tmp_path / "two.npy")
    two = torch.from_numpy(np.load(tmp_path / "two.npy"))
    torch.testing.assert_close(two, stack(first[:1]).expand(2, 2), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def moving(ring: Path) -> Path:
    pytest.importorskip("ot")
    changes = ["coupling={type: schroedinger-bridge, sigma: 0.3}", "loss.predicts=data"]
    solver = "sample.solver={type: brownian-bridge, sigma: 0.3}"
    run("train", ring, f"run={ring}-moving", *BRIDGE, *changes, solver, "sample.steps=40", "train.steps=400", "--quiet")
    return Path(f"{ring}-moving")


def test_a_schroedinger_bridge_carries_clips_to_near_ones_by_chance(moving: Path, tmp_path: Path) -> None:
    generator = Generator.load(moving)
    dataset = build("dataset", generator.config.data, modality=generator.modality)
    starts = [dataset.clip(i, i).start for i in range(500)]
    made = [stack(generator.sample(FromClips(conditions=[{}] * 500, sources=starts, seed=seed))) for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])  # by chance
    assert on_ring(made[0]) > 0.8

    def turn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cosine_similarity(a, b, dim=1)

    assert float(turn(stack(starts), made[0]).mean()) > 0.8  # transport goes straight outwards
    assert abs(float(turn(stack(starts).roll(1, 0), made[0]).mean())) < 0.2
    with pytest.raises(FlowgenError, match=r"take the solver \{type: brownian-bridge, sigma: 0.3\}"):
        generator.sample(
            FromClips(
                conditions=[{}],
                sources=starts[:1],
                settings=generator.config.sample.model_copy(update={"solver": ComponentConfig(type="heun")}),
            )
        )


def test_a_transport_pairs_each_clip_with_a_near_one(ring: Path, bridge: Path) -> None:
    """By exact transport each start goes straight outwards; pairs at random send it anywhere on the ring."""
    run("train", ring, f"run={ring}-transport", *BRIDGE, "coupling=transport", "--quiet")
    ways = []
    for folder in (Path(f"{ring}-transport"), bridge):
        generator = Generator.load(folder)
        dataset = build("dataset", generator.config.data, modality=generator.modality)
        starts = [dataset.clip(i, i).start for i in range(500)]
        made = stack(generator.sample(FromClips(conditions=[{}] * 500, sources=starts)))
        assert on_ring(made) > 0.6
        ways.append(float((made - stack(starts)).square().sum(1).mean()))
    assert ways[0] < 9.6  # the distance of the radii, 9, and what the deviations add
    assert ways[0] < ways[1]


def test_a_bridge_that_could_not_be_sampled_is_refused_before_it_trains(ring: Path) -> None:
    pytest.importorskip("ot")
    with pytest.raises(FlowgenError, match="it would train and never be sampled"):
        CliRunner().invoke(
            cli,
            [
                *("train", str(ring), f"run={ring}-none", *BRIDGE),
                *("coupling={type: schroedinger-bridge, sigma: 0.3}", "loss.predicts=data"),
            ],
            catch_exceptions=False,
        )


def test_pairs_are_made_at_random_or_side_by_side() -> None:
    def pairs(**options: object) -> Dataset:
        parts = {"source": {"type": "ring", "radius": 1.0}, "target": "ring"}
        return build("dataset", ComponentConfig(type="pairs", **{**parts, **options}), modality=Points())

    data, aligned = pairs(), pairs(aligned=True)
    assert torch.equal(data.clip(3, 5).start.data, pairs().clip(3, 5).start.data)
    assert not torch.equal(data.clip(3, 5).start.data, data.clip(3, 6).start.data)
    classes = [
        [(c.conditions["class"], c.start.conditions["class"]) for c in (d.clip(i, 0) for i in range(64))]
        for d in (data, aligned)
    ]
    assert all(a == b for a, b in classes[1])
    assert sum(a == b for a, b in classes[0]) < 24  # 8 of 64 by chance
    assert not torch.equal(data.validation().clip(3, 5).data, data.clip(3, 5).data)
    assert not torch.equal(data.validation().clip(3, 5).start.data, data.clip(3, 5).start.data)


def test_what_does_not_go_together_is_refused(ring: Path, bridge: Path, tmp_path: Path) -> None:
    point = tmp_path / "one.csv"
    point.write_text("1,0\n")

    def refused(message: str, *args: object) -> None:
        with pytest.raises(FlowgenError, match=message):
            CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)

    out = ("-o", tmp_path / "x.npy")
    refused("take a solver of the ODE", "sample", bridge, "--solver", "ancestral", *out)
    refused("vary wants one that starts from noise", "sample", bridge, "--vary", point, *out)
    refused("interpolate wants one that starts from noise", "sample", bridge, "--interpolate", point, point, *out)
    refused("a likelihood wants one", "likelihood", bridge, point)
    refused("starts from noise and not from clips", "sample", ring, "--source", point, *out)
    train = ("train", ring, f"run={tmp_path}/run", "train.steps=1", "--quiet")
    refused("comes with nothing; data sets that give it", *train, "coupling=given-pairs")
    refused("comes with a clip", *train, *BRIDGE[:1], "coupling=given-pairs", f"run={tmp_path}/run2")
    refused(r"unknown key 'data\.source\.sdt'; did you mean 'data\.source\.std'", *train, *BRIDGE, "data.source.sdt=1")
    with pytest.raises(UsageError, match="wants one that starts from noise"):
        Generator.load(bridge).sample([{}])


def test_training_names_the_guidance_that_its_samples_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(FlowgenError, match=r"cross-stream.*change .*sample\.guidance"):
        CliRunner().invoke(
            cli,
            [
                *["train", "points/checkerboard", "train.steps=1", "--quiet"],
                f"run={tmp_path / 'run'}",
                "sample.guidance={type: cross-stream}",
            ],
            catch_exceptions=False,
        )
