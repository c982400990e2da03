"""Losses and solvers can be had by name, built with their defaults, and used (what they keep: tests/testing/test_components.py)."""

import json
import subprocess
import sys

import pytest
import torch

import flowgen
from flowgen.config import build
from flowgen.config.schema import ComponentConfig
from flowgen.core.couplings import Independent
from flowgen.core.paths import Linear
from flowgen.core.random import Randomness
from flowgen.core.sampler import prior, sample
from flowgen.core.solvers import Euler, NonStationary
from flowgen.core.times import Uniform, uniform_grid
from flowgen.plugins import registry
from flowgen.testing.oracle import GaussianMixture

MIXTURE = GaussianMixture.random(3, 2, seed=1)
NAMED = {
    "affine": {"alpha": "tests.core.test_registry_core:alpha", "sigma": "tests.core.test_registry_core:sigma"},
    "autoguidance": None,  # wants a trained run
    "distill": None,  # likewise
    "distill-trajectories": None,
    "flow-dpo": None,  # wants pairs, too: tests/core/test_preferences.py
    "learned": None,  # belongs to a run: tests/cli/test_distill_solver.py
    "consistency": None,  # jumps to the data and is no flow between: test_flow_map_losses.py
}


def alpha(t):
    return t**1.5


def sigma(t):
    return (1 - t) ** 1.2


def core(kind):
    return [
        c.name
        for c in registry().components(kind)
        if c.target.startswith("flowgen.") and NAMED.get(c.name, {}) is not None
    ]


def make(kind, name, tmp_path=None, **given):
    options = dict(NAMED.get(name) or {})
    if name == "affine":
        sys.modules.setdefault("tests.core.test_registry_core", sys.modules[__name__])
    if name == "table":
        NonStationary.of(Euler(), uniform_grid(4)).save(tmp_path / "table.json")
        options["file"] = str(tmp_path / "table.json")
    return build(kind, ComponentConfig(type=name, **options), **given)


@pytest.mark.parametrize("name", core("loss"))
def test_losses_train_and_sample_by_their_own_flow(name):
    loss = make("loss", name, path=Linear(), times=Uniform(), coupling=Independent(), shift=1.0)
    weight = torch.nn.Parameter(torch.tensor(0.5))
    x1 = MIXTURE.sample(16, torch.Generator().manual_seed(0)).float()

    def network(x, t, cond):
        return weight * x

    out = loss(network, x1, {}, Randomness(0, 0, 16))
    assert out.total.shape == out.t.shape == (16,)
    out.total.mean().backward()
    assert float(weight.grad.abs()) > 0
    flow = loss.flow(network)
    assert (flow.path, flow.predicts) == (loss.path, loss.predicts)
    x = sample(flow, prior(loss.path, x1), 0.01 + 0.98 * uniform_grid(4))
    assert x.isfinite().all()


@pytest.mark.parametrize("name", core("solver"))
def test_solvers_come_near_the_exact_end(name, tmp_path):
    solver = make("solver", name, tmp_path)
    one = GaussianMixture(torch.ones(1, 2, dtype=torch.float64), *torch.tensor([[0.5], [1.0]], dtype=torch.float64))
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(2000, 2, generator=g, dtype=torch.float64)
    grid = solver.grid if name == "table" else uniform_grid(60)
    x = sample(
        one.flow(Linear()), x0, grid, solver=solver, noise=lambda x, t, s: torch.randn(x.shape, generator=g).double()
    )
    tolerance = 0.2 if name == "table" else 0.06
    assert float(x.mean()) == pytest.approx(1.0, abs=tolerance)
    assert float(x.std()) == pytest.approx(0.5, abs=tolerance)
    assert solver.order >= 1
    assert solver.evaluations >= 1


def test_every_public_name_exists():
    for name in flowgen.__all__:
        assert getattr(flowgen, name) is not None


def test_the_mathematics_needs_torch_and_einops_alone():
    """`import flowgen` and every public name of the core, with the other dependencies made impossible to import."""
    code = """
import sys, json
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in sys.argv[2].split():
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import flowgen, torch
names = [n for n, home in flowgen._HOME.items() if home in sys.argv[1].split()]
for n in names: getattr(flowgen, n)
flow = flowgen.NetworkFlow(lambda x, t, c: -x, flowgen.Linear())
x = flowgen.sample(flow, torch.ones(2, 2), flowgen.uniform_grid(4), solver=flowgen.UniPC())
loss = flowgen.FlowMatching()(lambda x, t, c: x, x, {}, flowgen.Randomness(0, 0, 2))
print(json.dumps([len(names), bool(loss.total.isfinite().all())]))
"""
    parts = "paths estimate flow losses times couplings guidance solvers sampler editing likelihood random"
    homes = " ".join(f"core.{part}" for part in parts.split())
    blocked = "scipy numpy pluggy pydantic click deepspeed av sklearn matplotlib rich ot safetensors"
    out = subprocess.run([sys.executable, "-c", code, homes, blocked], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    count, finite = json.loads(out.stdout.splitlines()[-1])
    assert count > 40
    assert finite
