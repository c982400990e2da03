"""Components of the mathematics that are broken, each in one way."""

from dataclasses import dataclass, replace

import torch

from flowgen.core.couplings import OptimalTransport
from flowgen.core.guidance import CFG
from flowgen.core.losses import FlowMatching
from flowgen.core.paths import VP, Linear
from flowgen.core.solvers import Euler, EulerMaruyama, Heun
from flowgen.core.solvers.ode import RungeKutta, Tableau
from flowgen.core.times import Uniform
from flowgen.core.transports import Transport
from flowgen.core.tree import lincomb, tree_map
from flowgen.testing.oracle import FunctionFlow


class WrongOrder(RungeKutta):
    """."""

    tableau = Tableau(a=((), (1.0,)), b=(0.6, 0.4), order=1)
    order = 2


class WrongEnd(Euler):
    """Goes half the way."""

    def step(self, flow, x, t, s, state, noise, cond):
        end, state = super().step(flow, x, t, s, state, noise, cond)
        return lincomb((0.5, x), (0.5, end)), state


class Rolls(Euler):
    """."""

    def step(self, flow, x, t, s, state, noise, cond):
        x, state = super().step(flow, x, t, s, state, noise, cond)
        return lincomb((1.0, x), (0.001, tree_map(torch.randn_like, x))), state


class InPlace(Euler):
    """."""

    def step(self, flow, x, t, s, state, noise, cond):
        return x.add_(flow(x, t, cond).velocity, alpha=float(s - t)), None


class ChangesTheEstimate(Euler):
    """."""

    def step(self, flow, x, t, s, state, noise, cond):
        return lincomb((1.0, x), (1.0, tree_map(lambda v: v.mul_(float(s - t)), flow(x, t, cond).velocity))), None


class OwnStart(Euler):
    """Ignores the seed: the noise it starts from is its own."""

    def step(self, flow, x, t, s, state, noise, cond):
        own = tree_map(lambda v: torch.ones_like(v), x)
        return super().step(flow, x if state else own, t, s, state, noise, cond)[0], True


class Miscounts(Heun):
    """."""

    evaluations = 1


class BackwardsWithNoise(EulerMaruyama):
    """."""

    def step(self, flow, x, t, s, state, noise, cond):
        if s > t:
            return super().step(flow, x, t, s, state, noise, cond)
        return lincomb((1.0, Euler().step(flow, x, t, s, state, noise, cond)[0]), (0.01, noise(x, t, s))), None


class OneTensor(Euler):
    """."""

    def step(self, flow, x, t, s, state, noise, cond):
        return x + float(s - t) * flow(x, t, cond).velocity, None


class MeanStep(Euler):
    """Sees the batch, a little."""

    def step(self, flow, x, t, s, state, noise, cond):
        x, state = super().step(flow, x, t, s, state, noise, cond)
        return tree_map(lambda v: v + 1e-3 * (s - t) * v.mean(0), x), state


class WrongSign(FlowMatching):
    """."""

    def pair(self, x1, x0, t):
        x, target = super().pair(x1, x0, t)
        return x, lincomb((-1.0, target))


class Ascends(FlowMatching):
    """."""

    def __call__(self, *arguments, **options):
        out = super().__call__(*arguments, **options)
        return out._replace(total=-out.total)


class DrawsGlobally(FlowMatching):
    """."""

    def pair(self, x1, x0, t):
        return super().pair(x1, tree_map(torch.randn_like, x0), t)


class OneSeed(FlowMatching):
    """."""

    def __call__(self, network, x1, cond, random, known=None):
        return super().__call__(network, x1, cond, replace(random, seed=7, step=7), known)


class RankNoise(FlowMatching):
    """Noise by the place in the local batch."""

    def pair(self, x1, x0, t):
        return super().pair(x1, x0.roll(1, 0), t)


class NoMask(FlowMatching):
    """."""

    def __call__(self, network, x1, cond, random, known=None):
        return super().__call__(network, x1, {k: v for k, v in cond.items() if k != "mask"}, random, known)


class LearnsKnown(FlowMatching):
    """Known positions are shown, and learned as well."""

    def __call__(self, network, x1, cond, random, known=None):
        out = super().__call__(network, x1, cond, random, known)
        if known is None:
            return out
        value = network(x1, torch.ones(known.shape), cond)
        return out._replace(total=out.total + (value * known[..., None]).square().flatten(1).mean(1))


class Unbalanced(FlowMatching):
    """Takes the averages of streams and divides by none."""

    def __call__(self, network, x1, cond, random, known=None):
        return super().__call__(network, x1, {k: v for k, v in cond.items() if k != "stream_losses"}, random, known)


class Wanders(CFG):
    """."""

    def __call__(self, flow, null):
        guided = super().__call__(flow, null)

        def noisy(x, t, cond=None):
            estimate = guided(x, t, cond)
            return replace_value(estimate, estimate.value + 1e-3 * torch.randn_like(x))

        return FunctionFlow(noisy, flow.path)


class PushesNothing(CFG):
    """Guides where there is nothing to push away from."""

    def __call__(self, flow, null):
        guided = super().__call__(flow, null)

        def pushed(x, t, cond=None):
            estimate = guided(x, t, cond)
            return replace_value(estimate, estimate.value * 1.1)

        return FunctionFlow(pushed, flow.path)


def replace_value(estimate, value):
    return type(estimate)(estimate.path, estimate.x, estimate.t, estimate.prediction, value)


@dataclass(frozen=True)
class WrongSlope(Linear):
    """."""

    def __call__(self, t):
        return super().__call__(t)._replace(dsigma=-2 * torch.ones_like(t))


@dataclass(frozen=True)
class Mirrored(Linear):
    """From data to noise."""

    def __call__(self, t):
        return super().__call__(1 - t)._replace(dalpha=-torch.ones_like(t), dsigma=torch.ones_like(t))


@dataclass(frozen=True)
class WrongInverse(Linear):
    """."""

    def time_of_snr(self, rho):
        return rho / (2 + rho)


@dataclass(frozen=True)
class Unsaid(VP):
    """Says that its velocity, infinite at t = 1, is bounded."""

    velocity_bounded = True


@dataclass(frozen=True)
class ReachesEnds(Uniform):
    """."""

    leaves_out_ends = True


@dataclass(frozen=True)
class Falling(Uniform):
    """."""

    def __call__(self, u):
        return 1 - u


@dataclass(frozen=True)
class WithReplacement(OptimalTransport):
    """."""

    def __call__(self, x0, x1, group=None):
        return torch.cdist(x1.flatten(1), x0.flatten(1)).argmin(1)


@dataclass(frozen=True)
class AcrossGroups(OptimalTransport):
    """."""

    def __call__(self, x0, x1, group=None):
        return super().__call__(x0, x1)


class AnySource(Transport):
    """Pairs clips with sources of other conditions."""

    def draw_pairs(self, x0, x1, group, random):
        return super().draw_pairs(x0, x1, None, random)
