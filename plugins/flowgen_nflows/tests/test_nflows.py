"""Densities, inverses, and the whole way through flowgen's trainer and sampler."""

import json
import math
import re
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch

pytest.importorskip("zuko")

from flowgen_nflows.loss import NormalisingFlow
from flowgen_nflows.networks import Autoregressive, Coupling
from flowgen_nflows.residual import Residual

from flowgen.core.random import Randomness
from flowgen.core.sampler import sample
from flowgen.core.times import uniform_grid
from flowgen.media.clip import Clip
from flowgen.media.conditions import ClassCondition, encode_conditions
from flowgen.media.streams import Axis, StreamSpec
from flowgen.runs.generator import Generator

FAMILIES = [Coupling, Autoregressive, Residual]
PLANE = StreamSpec(2)
CLASSES = {"side": ClassCondition(("left", "right"))}


def rough(network, size=0.3):
    """Weights far from those at the start, where every family is near the identity."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(size * torch.randn(p.shape, generator=g) / math.sqrt(max(1, p.shape[-1])))
    return network.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", [PLANE, StreamSpec(2, (Axis("time", 3),))], ids=["plane", "sequence"])
def test_decoding_inverts_and_the_density_is_that_of_the_map(family, spec):
    torch.manual_seed(0)
    network = rough(family(spec, CLASSES, width=16))
    z = torch.randn(4, *spec.shape)
    cond = {"side": torch.tensor([0, 1, 0, 2])}
    x = network(z, torch.zeros(4), cond)
    assert x.shape == z.shape
    assert (x - z).abs().max().item() > 0.05
    for i in range(4):
        one = {"side": cond["side"][i : i + 1]}
        jacobian = torch.autograd.functional.jacobian(
            lambda v, one=one: network(v.reshape(1, *spec.shape), torch.zeros(1), one).flatten(), z[i].flatten()
        )
        expected = -0.5 * (z[i].square() + math.log(2 * math.pi)).sum() - torch.linalg.slogdet(jacobian).logabsdet
        assert float(network.log_prob(x[i : i + 1], one)) == pytest.approx(float(expected), abs=5e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_conditions_matter(family):
    torch.manual_seed(0)
    network = rough(family(PLANE, CLASSES, width=16))
    z = torch.randn(1, 2).expand(2, 2)
    left, right = network(z, torch.zeros(2), {"side": torch.tensor([0, 1])})
    assert not torch.allclose(left, right, atol=1e-3)


def test_maximum_likelihood_finds_the_density():
    """Two moons' worth of structure is not needed to prove it: a shifted, narrow Gaussian has a known entropy."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    x1 = torch.tensor([1.0, -0.5]) + torch.tensor([0.3, 0.8]) * torch.randn(1024, 2, generator=g)
    loss, network = NormalisingFlow(), Coupling(PLANE, {}, transforms=4, width=32)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(300):
        total = loss(network, x1, {}, Randomness(0, step, 1024)).total.mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    entropy = sum(0.5 * math.log(2 * math.pi * math.e * s * s) for s in (0.3, 0.8)) / 2
    assert total.item() == pytest.approx(entropy, abs=0.05)
    x = sample(loss.flow(network), torch.randn(4096, 2, generator=g), uniform_grid(1))
    torch.testing.assert_close(x.mean(0), torch.tensor([1.0, -0.5]), atol=0.06, rtol=0)
    torch.testing.assert_close(x.std(0), torch.tensor([0.3, 0.8]), atol=0.06, rtol=0)


def test_more_steps_than_one_are_refused():
    flow = NormalisingFlow().flow(Coupling(PLANE, {}))
    with pytest.raises(ValueError, match=r"sample\.steps=1"):
        sample(flow, torch.zeros(2, 2), uniform_grid(2))


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="wants an invertible network"):
        NormalisingFlow()(torch.nn.Linear(2, 2), torch.zeros(2, 2), {}, Randomness(0, 0, 2))


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="two numbers"):
        Coupling(StreamSpec(1), {})
    with pytest.raises(ValueError, match="at most 64"):
        Residual(StreamSpec(65), {})
    with pytest.raises(ValueError, match="bound"):
        Residual(PLANE, {}, bound=1.0)
    with pytest.raises(ValueError, match="one stream"):
        Coupling({"a": PLANE, "b": PLANE}, {})


@pytest.mark.slow
@pytest.mark.parametrize("family", ["coupling", "autoregressive", "residual"])
def test_trained_and_sampled_by_the_same_commands(family, tmp_path):
    if "nflows" not in entry_points(group="flowgen").names:
        pytest.skip("flowgen-nflows is not installed")
    run, out = tmp_path / "run", tmp_path / "points.npy"
    options = [f"network.type={family}", "network.width=32", "train.steps=60", "train.batch_size=128"]
    options += ["train.validation.every=60", "train.checkpoint.every=60", "train.preview.every=60"]
    flowgen("train", "nflows/ring-coupling", f"run={run}", *options)
    losses = [json.loads(line).get("loss") for line in (run / "log.jsonl").read_text().splitlines()]
    assert any(value is not None for value in losses)
    flowgen("sample", str(run), "-n", "64", "-o", str(out))
    said = flowgen("likelihood", str(run), str(out))
    generator = Generator.load(run)
    points = [Clip(point) for point in torch.from_numpy(np.load(out))]
    cond = generator.on_device(encode_conditions(generator.conditioners, [{}] * 64))
    with torch.no_grad():  # the flow's own density, where an ODE would have to be integrated and this flow has none
        exact = generator.network.log_prob(generator.encoder.encode(points).x, cond)
    nats = re.search(r"64 clips: (\S+) \+-", said)
    assert nats
    assert float(nats[1]) == pytest.approx(float(exact.double().mean()) / 2, abs=1e-4)  # four decimals are printed


def flowgen(*arguments):
    done = subprocess.run([sys.executable, "-m", "flowgen", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
