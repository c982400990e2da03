"""A bottleneck makes latents of features, each sample by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowgen.core.interfaces import Code, Quantised
from flowgen.core.random import Randomness
from flowgen.testing.contract import COMPONENT_CHECKS, NotApplicable, checks_for
from flowgen.testing.part import Part, normal, shaken, touches_global_generators

_CHANNELS = 3

check = checks_for("bottleneck", COMPONENT_CHECKS)


def _features(p: Part, batch: int = 4, steps: int = 6) -> tuple[Any, Tensor]:
    built = p.new(channels=_CHANNELS)
    return built, normal(batch, steps, int(built.features)).float()


@check(
    "a bottleneck gives latents [B, T, channels] of features [B, T, features], and one finite penalty a sample",
    see="bottlenecks",
)
def bottleneck_gives_latents(p: Part) -> str | None:
    built, h = _features(p)
    for random in (None, Randomness(0, 0, 4)):
        z, penalty = code = built(h, random)
        if not isinstance(code, Code) or z.shape != (4, 6, _CHANNELS) or penalty.shape != (4,):
            return f"latents have shape {list(z.shape)} and penalties {list(penalty.shape)}; expected [4, 6, 3] and [4]"
        if not bool(torch.isfinite(z).all() and torch.isfinite(penalty).all()):
            return "a latent or a penalty is not finite"
    return None


@check(
    "what it draws comes from its Randomness; without one it draws nothing",
    see="bottlenecks",
    needs=(bottleneck_gives_latents,),
)
def bottleneck_draws_from_its_randomness(p: Part) -> str | None:
    built, h = _features(p)
    random = Randomness(0, 0, 4)
    with shaken(1):
        first, plain = built(h, random).z, built(h).z
    with shaken(2):
        again, plain_again = built(h, random).z, built(h).z
    if not torch.equal(first, again) or not torch.equal(plain, plain_again):
        return "with another global seed it gives other latents"
    if touches_global_generators(lambda: built(h, random)):
        return "it changes the state of a global generator (random, numpy.random or torch)"
    return None


@check(
    "a sample's latent and penalty depend on its number in the global batch, on no other sample, and on no step that the mask leaves out",
    see="bottlenecks",
    needs=(bottleneck_draws_from_its_randomness,),
)
def bottleneck_keeps_samples_apart(p: Part) -> str | None:
    built, h = _features(p)
    other = torch.cat([h[:1], 3 * h[1:] + 1])
    mask = torch.arange(6).expand(4, 6) < 4
    padded = torch.where(mask[..., None], h, 5.0)
    for what, changed, given, steps in (("the other samples", other, None, 6), ("masked steps", padded, mask, 4)):
        for random in (None, Randomness(0, 0, 4)):
            a, b = built(h, random, given), built(changed, random, given)
            if not torch.allclose(a.z[0, :steps], b.z[0, :steps], atol=1e-5):
                return f"{what} change the latent of a sample"
            if not torch.allclose(a.penalty[0], b.penalty[0], atol=1e-5):
                return f"{what} change the penalty of a sample"
    last = built(h[2:], Randomness(0, 0, 4, torch.tensor([2, 3]))).z
    if not torch.allclose(last, built(h, Randomness(0, 0, 4)).z[2:], atol=1e-5):
        return "samples 2 and 3 of a batch of 4 are others where another rank holds the first two"
    return None


@check(
    "a gradient passes through it to every feature that its latent is made of",
    see="bottlenecks",
    needs=(bottleneck_gives_latents,),
)
def bottleneck_passes_gradients(p: Part) -> str | None:
    built, h = _features(p)
    h.requires_grad_()
    z, penalty = built(h, Randomness(0, 0, 4))
    (z.square().sum() + penalty.sum()).backward()
    if h.grad is None or not bool(torch.isfinite(h.grad).all()) or not bool(h.grad.flatten(0, 1).any(0).all()):
        return "features get no gradient, or one that is not finite"
    silent = [name for name, weight in built.named_parameters() if weight.grad is None or not weight.grad.any()]
    return f"its parameters {', '.join(silent)} get no gradient" if silent else None


@check(
    "codes are integers that give back the latents they are of", see="bottlenecks", needs=(bottleneck_gives_latents,)
)
def bottleneck_codes_are_its_latents(p: Part) -> str | None:
    built, h = _features(p)
    if not isinstance(built, Quantised):
        raise NotApplicable("it has no codes")
    network: Any = built
    z = network(4 * h).z
    codes = built.codes(z)
    if codes.dtype != torch.int64 or codes.shape != z.shape:
        return f"codes are {codes.dtype} {list(codes.shape)}; expected int64 {list(z.shape)}"
    return None if torch.allclose(built.latents(codes), z, atol=1e-5) else "the latents of its codes are others"
