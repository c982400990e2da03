"""Inpainting by a flow that never saw a region, against the exact conditional distribution."""

import math

import pytest
import torch

from flowgen.core.editing import Replaced
from flowgen.core.estimate import Estimate
from flowgen.core.guidance import CFG
from flowgen.core.inpainting import inpaint
from flowgen.core.paths import VE, Cosine, Linear
from flowgen.core.sampler import sample
from flowgen.core.solvers import Heun
from flowgen.core.times import uniform_grid
from flowgen.testing.oracle import FunctionFlow
from tests.core.test_editing import TARGET, conditional, distance

pytestmark = pytest.mark.exact


def completed(first, n, particles, steps, g, path=None, predicts="velocity"):
    x1 = torch.full((n, 2, 1), first, dtype=torch.float64)
    known = torch.tensor([[True, False]]).expand(n, 2)
    noise = torch.randn(x1.shape, generator=g, dtype=x1.dtype)
    flow = TARGET.flow(path or Linear(), predicts)
    x = inpaint(
        flow,
        x1,
        known,
        noise,
        uniform_grid(steps),
        particles=particles,
        draws=lambda x, t, s: torch.randn(x.shape, generator=g, dtype=x.dtype),
    )
    assert torch.equal(x[:, 0], x1[:, 0])
    return distance(x[:, 1, 0], conditional(first)[1])


def test_particles_find_the_conditional_that_replacement_misses(g):
    n, first = 1200, 0.6
    x1 = torch.full((n, 2, 1), first, dtype=torch.float64)
    x0 = torch.randn(x1.shape, generator=g, dtype=x1.dtype)
    replaced = Replaced(TARGET.flow(Linear()), x1, x0, torch.tensor([[True, False]]).expand(n, 2))
    x = sample(replaced, x0, uniform_grid(60), solver=Heun())
    limit = 1.95 / math.sqrt(n)
    assert distance(x[:, 1, 0], conditional(first)[1]) > 1.5 * limit
    assert completed(first, n, 32, 60, g) < limit
    assert completed(first, n, 1, 60, g) > 1.5 * limit  # the gradient alone is no answer either


@pytest.mark.parametrize(("path", "predicts"), [(Cosine(), "data"), (VE(0.02, 10.0), "noise")], ids=["cosine", "ve"])
def test_on_any_path_from_any_prediction(path, predicts, g):
    assert completed(0.6, 600, 32, 50, g, path, predicts) < 1.95 / math.sqrt(600)


def _by_label(rows):
    """Noise of some rows of four that depends on row and label alone."""

    def draws(x, t, s):
        g = torch.Generator().manual_seed(int(float(t) * 1e9))
        z = torch.randn(4, 2, 1, generator=g, dtype=torch.float64)[rows]
        return z if isinstance(x, torch.Tensor) else {"a": z[:, 0], "b": z[:, 1]}

    return draws


def test_a_row_is_the_same_alone_and_among_others_under_guidance(g):
    x1, noise = torch.randn(2, 4, 2, 1, generator=g, dtype=torch.float64)
    known = torch.tensor([[True, False]]).expand(4, 2)
    cond, null = ({"modes": torch.eye(3, dtype=torch.bool)[torch.tensor(k)]} for k in ([0, 1, 2, 1], [1, 2, 0, 2]))

    def run(rows):
        flow = CFG(1.5)(TARGET.flow(Linear()), {"modes": null["modes"][rows]})
        here = {"modes": cond["modes"][rows]}
        draws = _by_label(rows)
        return inpaint(flow, x1[rows], known[rows], noise[rows], uniform_grid(8), particles=3, cond=here, draws=draws)

    together = run(slice(0, 4))
    for i in range(4):
        torch.testing.assert_close(run(slice(i, i + 1))[0], together[i], rtol=1e-9, atol=1e-9)


def test_streams_are_parts_of_one_state(g):
    x1, noise = torch.randn(2, 4, 2, 1, generator=g, dtype=torch.float64)
    flow = TARGET.flow(Linear(), "data")

    def split(x):
        return {"a": x[:, 0], "b": x[:, 1]}

    def by_stream(x, t, cond):
        said = flow(torch.stack([x["a"], x["b"]], 1), t, cond)
        return Estimate(said.path, x, t, said.prediction, split(said.value))

    known = torch.tensor([[True, False]]).expand(4, 2)
    options = {"particles": 4, "draws": _by_label(slice(0, 4))}
    whole = inpaint(flow, x1, known, noise, uniform_grid(10), **options)
    streams = FunctionFlow(by_stream, Linear(), "data")
    parts = inpaint(streams, split(x1), split(known), split(noise), uniform_grid(10), **options)
    for name, part in split(whole).items():
        torch.testing.assert_close(parts[name], part)


def test_what_has_no_gradient_or_no_particle_is_refused():
    x = torch.zeros(2, 2, 1, dtype=torch.float64)
    known = torch.tensor([[True, False]]).expand(2, 2)
    with pytest.raises(ValueError, match="at least one particle"):
        inpaint(TARGET.flow(Linear()), x, known, x, uniform_grid(4), particles=0)
    with pytest.raises(ValueError, match="noise prediction cannot be read as data at t = 0"):
        inpaint(TARGET.flow(Linear(), "noise"), x, known, x, uniform_grid(4))
