"""Operations of a step counted against closed forms, and the time that rates and links make of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from flowgen.cli import cli
from flowgen.config import Document, dumps, resolve
from flowgen.nn.attention import attended
from flowgen.training.forecast import (
    Cluster,
    Costs,
    Rates,
    costs_of_step,
    forecast,
    forecasts,
    measured_rates,
    rates_of,
)
from flowgen.training.internals import fake_tensors
from flowgen.training.plan import plan

SLOW = Rates(matrix=1e6, memory=1e9, launch=0.0)
CLUSTER = Cluster(nodes=2, gpus=4, link=1e9, interconnect=1e8, watts=500)


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(30, 50, bias=False)

    def forward(self, x):
        return SimpleNamespace(total=self.linear(x))


def arithmetic(costs):
    return sum(flops * count for (flops, _), count in costs.found.items())


def test_the_arithmetic_of_a_product_is_told():
    """2 n m k forward, and as much backward for the weights; the input asks for no gradient."""
    with fake_tensors():
        costs = costs_of_step(Product(), lambda: (torch.zeros(7, 30),))
    assert arithmetic(costs) == 2 * (2 * 7 * 30 * 50)


def test_the_arithmetic_of_attention_is_told():
    """Two products forward; five backward, the logits made again among them."""
    with fake_tensors():
        q, k, v = (torch.zeros(2, 3, 40, 16, requires_grad=True) for _ in range(3))
        with Costs() as costs:
            attended(q, k, v, None).sum().backward()
    assert arithmetic(costs) == (2 + 5) * 2 * (2 * 3 * 40 * 40 * 16)


def test_views_cost_nothing_and_changes_in_place_do():
    with fake_tensors(), Costs() as costs:
        x = torch.zeros(4, 6)
        costs.found.clear()
        x.view(24).unflatten(0, (6, 4)).t()
        assert not costs.found
        x.add_(1.0)
        assert list(costs.found) == [(0, 2 * 4 * 24)]


def test_an_operation_takes_the_longer_of_both_or_on_a_cpu_the_sum():
    costs = Costs()
    costs.found.update({(3_000_000, 1_000_000_000): 2})
    assert costs.seconds(SLOW) == pytest.approx(2 * 3.0)
    assert costs.seconds(Rates(1e6, 1e9, 0.5, overlaps=False)) == pytest.approx(2 * (3.0 + 1.0 + 0.5))


@pytest.fixture
def config(tiny, tmp_path):
    return resolve(Document(tiny(tmp_path / "run", batch_size=32))).config


def test_parts_of_a_step_and_of_the_run_add_up(config):
    made = plan(config, 8)
    found = forecasts(config, made, SLOW, CLUSTER)
    for stage, each in found.items():
        assert each.step == each.passes + each.update + each.messages
        assert each.positions_per_second * each.step == pytest.approx(made.positions)
        assert each.days * 86400 == pytest.approx(config.train.steps * each.step)
        assert each.kilowatt_hours == pytest.approx(8 * 0.5 * each.days * 24)
        sent = made.communicated[stage] / 1e8  # the link between the nodes is the slowest
        assert each.messages == pytest.approx(sent if stage < 3 else max(0.0, sent - each.passes))
    assert found[0].update == pytest.approx(8 * found[1].update)


def test_more_ranks_compute_less_each_and_one_node_sends_by_its_own_link(config):
    one, eight = (forecasts(config, plan(config, n), SLOW, Cluster(1, n, 1e9, 1.0, 500))[1] for n in (1, 8))
    assert 6 < one.passes / eight.passes < 8.1  # what a pass does once, whatever the batch, is little here
    assert one.messages == 0
    assert eight.messages == pytest.approx(plan(config, 8).communicated[1] / 1e9)


def test_what_stage_3_sends_is_hidden_behind_the_passes(config):
    made, costs = plan(config, 8), Costs()
    costs.found[10**9, 0] = 1
    assert forecast(config, made, costs, SLOW, CLUSTER, 3).messages == 0
    assert forecast(config, made, costs, SLOW, CLUSTER, 2).messages > 0


def test_rates_are_measured_where_they_are_not_given(config):
    here = measured_rates(torch.device("cpu"), torch.float32, 256)
    assert here.matrix > 1e8
    assert here.memory > 1e7
    assert not here.overlaps
    given, where = rates_of(config, 600.0, 3000.0)
    assert (given.matrix, given.memory, where) == (600e12, 3000e9, "as given")


def test_the_forecast_as_a_person_reads_it(config, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(dumps(config.model_dump(mode="json")))
    asked = ["plan", str(path), "--gpus", "4", "--nodes", "2", "--matrix-rate", "600", "--memory-rate", "3000"]
    done = CliRunner().invoke(cli, [*asked, "--interconnect", "400"])
    assert done.exit_code == 0, done.output
    *_, title, head, zero, one, two, three = done.output.splitlines()
    assert "8 x 4 clips" in done.output
    assert "600 TFLOP/s" in title
    assert head.split() == ["ZeRO", "step", "passes", "update", "messages", "positions/s", "run", "energy"]
    assert [line.split()[0] for line in (zero, one, two, three)] == ["0", "1", "2", "3"]
    done = CliRunner().invoke(cli, asked)
    assert "needs --interconnect, the Gbit/s out of each node" in str(done.exception)
