"""Flow matching on one screen: a plain PyTorch loop around flowgen's loss and sampler. About 20 s on one core.

python examples/nano_flow.py [STEPS]
"""

import sys

import torch
from torch import nn

import flowgen

torch.manual_seed(0)
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 2000


def two_moons(n: int) -> torch.Tensor:
    angle, upper = torch.rand(n) * torch.pi, torch.rand(n) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return torch.stack([x, y], 1) * 1.5 + 0.05 * torch.randn(n, 2)


class Net(nn.Module):
    """v(x, t): a velocity at each point and time."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2),
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: dict) -> torch.Tensor:
        return self.layers(torch.cat([x, t[:, None]], 1))


net = Net()
loss_fn = flowgen.FlowMatching(path=flowgen.Linear(), times=flowgen.LogitNormal())
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
for step in range(STEPS):
    x1 = two_moons(512)
    loss = loss_fn(net, x1, {}, flowgen.Randomness(seed=0, step=step, batch=len(x1))).total.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 500 == 0:
        print(f"step {step}: loss {loss:.3f}")

flow = loss_fn.flow(net)
x0 = torch.randn(2000, 2)
for solver in (flowgen.Euler(), flowgen.Heun(), flowgen.DPMSolverPP2M()):
    steps = 16 // solver.evaluations
    x1 = flowgen.sample(flow, x0, flowgen.uniform_grid(steps), solver=solver)
    distance = torch.cdist(x1, two_moons(4000)).min(1).values.mean()
    print(f"{type(solver).__name__:>14}, 16 evaluations: mean distance to the nearest data point {distance:.3f}")
