"""A network's output that is not of the shape of the state is refused with both shapes wherever it enters."""

import pytest
import torch

from flowgen.core.couplings import Independent
from flowgen.core.flow import NetworkFlow
from flowgen.core.flow_map import NetworkFlowMap
from flowgen.core.losses import EDM, FlowMapMatching, FlowMatching, Likelihood, Uncertainty
from flowgen.core.paths import VP, Linear
from flowgen.core.random import Randomness
from flowgen.core.sampler import sample

LOSSES = {
    "velocity": FlowMatching(),
    "data": FlowMatching(predicts="data"),
    "score": FlowMatching(predicts="score"),
    "noise": FlowMatching(VP(), predicts="noise"),
    "edm": EDM(),
    "uncertainty": Uncertainty(),
    "likelihood": Likelihood(),
    **{t: FlowMapMatching(target=t) for t in ("mean-flow", "improved-mean-flow", "lagrangian", "semigroup")},
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_does_not_broadcast_what_the_network_said(loss):
    x1 = torch.ones(4, 1)
    with pytest.raises(ValueError, match=r"the network made \[4\] of a state \[4, 1\]; it must keep the shape"):
        loss(lambda x, t, cond: x[:, 0], x1, {}, Randomness(0, 0, 4))
    with pytest.raises(ValueError, match=r"the network made one tensor of a state of \['a', 'b'\]"):
        loss(lambda x, t, cond: x["a"], {"a": x1, "b": x1}, {}, Randomness(0, 0, 4))


@pytest.mark.parametrize(
    "flow",
    [
        NetworkFlow(lambda x, t, cond: x[:, 0], Linear()),
        NetworkFlowMap(lambda x, t, cond: x[:, 0], Linear()),
        EDM().flow(lambda x, t, cond: x[:, 0]),
        FlowMapMatching().flow(lambda x, t, cond: x[:, 0]),
    ],
    ids=["flow", "map", "edm", "flow-map"],
)
def test_sampling_does_not_broadcast_what_the_network_said(flow):
    with pytest.raises(ValueError, match=r"the network made \[4\] of a state \[4, 1\]"):
        sample(flow, torch.ones(4, 1), 2)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_loss_of_an_empty_batch_is_empty(loss):
    none = torch.zeros(0, 3)
    assert loss(lambda x, t, cond: 0.5 * x, none, {}, Randomness(0, 0, 0)).total.shape == (0,)
    assert Independent()(none, none) is None
