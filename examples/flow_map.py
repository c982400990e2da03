"""A flow map on one screen: one network that makes points in 1, 2 or 4 evaluations, from data alone. About a minute on one core.

python examples/flow_map.py [STEPS]
"""

import sys

import torch
from torch import nn

import flowgen

torch.manual_seed(0)
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 4000


def two_moons(n: int) -> torch.Tensor:
    angle, upper = torch.rand(n) * torch.pi, torch.rand(n) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return torch.stack([x, y], 1) * 1.5 + 0.05 * torch.randn(n, 2)


class Net(nn.Module):
    """u(x, t, s): the average velocity on the way from time t to time s. The loss shows s in `cond["end_time"]`."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2),
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: dict) -> torch.Tensor:
        return self.layers(torch.cat([x, t[:, None], cond["end_time"][:, None]], 1))


net = Net()
# half of the samples have s = t and learn the velocity; the others, that two jumps lead where one does
loss_fn = flowgen.build("loss", {"type": "flow-map", "target": "semigroup"}, path=flowgen.Linear())
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
for step in range(STEPS):
    x1 = two_moons(512)
    loss = loss_fn(net, x1, {}, flowgen.Randomness(seed=0, step=step, batch=len(x1))).total.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % 1000 == 0:
        print(f"step {step}: loss {loss:.3f}")

flow = loss_fn.flow(net)
x0 = torch.randn(2000, 2)
for steps in (1, 2, 4):
    for solver in (flowgen.FlowMapSolver(), flowgen.Euler()):
        x1 = flowgen.sample(flow, x0, steps, solver=solver)
        distance = torch.cdist(x1, two_moons(4000)).min(1).values.mean()
        print(
            f"{type(solver).__name__:>13}, evaluations: {steps}; mean distance to the nearest data point {distance:.3f}"
        )
