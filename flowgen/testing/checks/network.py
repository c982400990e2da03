"""A network gives the velocity of each sample, from all that it is told and from nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from flowgen.core.interfaces import MASK
from flowgen.core.random import Randomness
from flowgen.core.tree import State, leaves, tree_map
from flowgen.media.interfaces import KeepsFloat32, Patched, RepeatedBlocks
from flowgen.media.streams import StreamSpec
from flowgen.testing.contract import NotApplicable, checks_for
from flowgen.testing.subject import Subject, distance, finite, rows, same, shapes

check = checks_for("network")


def _out(s: Subject, x: State, t: Tensor, cond: dict[str, Any], network: nn.Module | None = None) -> State:
    with torch.no_grad():
        return (network or s.network)(x, t, cond)


@check("a network gives finite numbers of the structure and shape of its state", see="network")
def output_is_like_the_state(s: Subject) -> str | None:
    x = s.state()
    out = _out(s, x, s.times(), s.conditions(s.clips))
    if shapes(out) != shapes(x):
        return f"a state of shape {shapes(x)} gives an output of shape {shapes(out)}"
    return None if finite(out) else "the output is not finite"


@check("a network is deterministic in eval mode", see="network")
def network_is_deterministic(s: Subject) -> str | None:
    arguments = s.state(), s.times(), s.conditions(s.clips)
    return None if same(_out(s, *arguments), _out(s, *arguments)) else "the same input gives two outputs"


@check("the initial weights are a function of the seed alone", see="random-numbers")
def initial_weights_follow_the_seed(s: Subject) -> str | None:
    torch.manual_seed(int(torch.initial_seed() % 1000))
    a, b = s.new_network().state_dict(), s.new_network().state_dict()
    for name, tensor in a.items():
        if not torch.equal(tensor, b[name]):
            return f"the weight {name!r} differs between two networks of the same seed"
    return None


@check("a sample's output does not depend on the others in its batch", see="network")
def network_does_not_leak_across_the_batch(s: Subject) -> str | None:
    x, t, cond = s.state(), s.times(), s.conditions(s.clips)
    together = _out(s, x, t, cond)
    for i in range(len(s.clips)):
        one = slice(i, i + 1)
        off = distance(_out(s, rows(x, one), t[one], tree_map(lambda v, one=one: v[one], cond)), rows(together, one))
        if off > s.tolerances.batch:
            return f"sample {i} alone and among {len(s.clips)} differs by {off:.2g} of its size"
    # in training mode too: statistics of the batch are used only there
    network = copy.deepcopy(s.network).train()
    other = tree_map(lambda leaf: torch.cat([leaf[:1], 3 * leaf[1:] + 1]), x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        a = _out(s, x, t, cond, network)
        torch.manual_seed(0)
        b = _out(s, other, t, cond, network)
    off = distance(rows(a, slice(1)), rows(b, slice(1)))
    return f"in training mode a sample differs by {off:.2g} with other neighbours" if off > s.tolerances.batch else None


@check("the output depends on the time", see="network")
def time_matters(s: Subject) -> str | None:
    x, cond = s.state(), s.conditions(s.clips)
    a, b = (_out(s, x, torch.full((len(s.clips),), t), cond) for t in (0.05, 0.95))
    return "times 0.05 and 0.95 give the same output" if same(a, b) else None


@check("times stay float32: close times are told apart under bfloat16 autocast too", see="precision")
def time_keeps_its_precision(s: Subject) -> str | None:
    x, cond = s.state(), s.conditions(s.clips)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = (_out(s, x, torch.full((len(s.clips),), t), cond) for t in (0.9985, 0.9998))
    return "under autocast, times 0.9985 and 0.9998 give the same output" if distance(a, b) == 0 else None


@check(
    "times may be given for each position, [B, *axes]: equal ones give what [B] gives, different ones matter",
    see="network",
)
def times_may_differ_by_position(s: Subject) -> str | None:
    if not isinstance(s.spec, StreamSpec) or not s.spec.axes:
        raise NotApplicable("the state has no axes, or several streams")
    x, t, cond = s.state(), s.times(), s.conditions(s.clips)
    every = t.reshape(-1, *[1] * len(s.spec.axes)).expand(len(t), *s.spec.shape[:-1]).contiguous()
    off = distance(_out(s, x, every, cond), _out(s, x, t, cond))
    if off > s.tolerances.batch:
        return f"the time t for the sample and t for each of its positions differ by {off:.2g}"
    known = every.clone()
    known[:, : s.spec.axes[0].size // 2] = 1.0
    return "times that differ by position are ignored" if same(_out(s, x, known, cond), _out(s, x, t, cond)) else None


@check(
    "every condition that the network is built with changes its output, and 'not given' is a value of its own",
    see="conditions",
)
def conditions_matter(s: Subject) -> str | None:
    if not s.conditioners:
        raise NotApplicable("there are no conditions")
    x, t = rows(s.state(), slice(1)), s.times()[:1]
    for name in s.conditioners:
        values = list({str(c.conditions[name]): c.conditions[name] for c in s.many}.values())
        outs = {repr(v): _out(s, x, t, _given(s, name, v)) for v in values[:16]}
        outs["nothing"] = _out(s, x, t, s.nulls(1))
        given = list(outs)
        for i, a in enumerate(given):
            for b in given[i + 1 :]:
                if same(outs[a], outs[b]):
                    return f"the condition {name!r} is ignored: {a} and {b} give the same output"
    return None


def _given(s: Subject, name: str, value: Any) -> dict[str, Any]:
    from flowgen.media.conditions import encode_conditions

    return encode_conditions(s.conditioners, [{name: value}])


@check("a conditioner's null value has the structure of a value, and the network takes it", see="conditions")
def null_conditions_are_taken(s: Subject) -> str | None:
    if not s.conditioners:
        raise NotApplicable("there are no conditions")
    given, null = s.conditions(s.clips), s.nulls(len(s.clips))
    for name in given:
        for a, b in zip(leaves(given[name]), leaves(null[name]), strict=True):
            if a.shape != b.shape or a.dtype != b.dtype:
                return f"{name!r} is {a.dtype} {tuple(a.shape)} and its null {b.dtype} {tuple(b.shape)}"
    return None if finite(_out(s, s.state(), s.times(), null)) else "null conditions give values that are not finite"


@check("what is masked out does not reach what is not: the content of padding changes nothing before it", see="padding")
def padding_changes_nothing(s: Subject) -> str | None:
    if not isinstance(s.spec, StreamSpec) or not s.spec.axes:
        raise NotApplicable("the state has no axes, or several streams")
    size = s.spec.axes[0].size
    patch = s.network.patch[0] if isinstance(s.network, Patched) and s.network.patch else 1
    real = size // patch * 3 // 4 * patch
    if not 0 < real < size:
        raise NotApplicable(f"the first axis has {size} steps, too few to pad")
    x, t = s.state(), s.times()
    mask = torch.zeros(x.shape[:-1], dtype=torch.bool)  # type: ignore[union-attr]
    mask[:, :real] = True
    other = torch.where(mask[..., None], x, 3 * torch.ones_like(x))  # type: ignore[arg-type]
    cond = {**s.conditions(s.clips), MASK: mask}
    a, b = (_out(s, state, t, cond)[:, :real] for state in (x, other))  # type: ignore[index]
    off = distance(a, b)
    if off > s.tolerances.batch:
        return f"with cond['mask'], changing the padding after step {real} changes the output before it by {off:.2g}"
    return None


@check("a gradient reaches every parameter: one that is never used breaks training on several ranks", see="network")
def gradient_reaches_every_parameter(s: Subject) -> str | None:
    network = copy.deepcopy(s.network).train().requires_grad_(True)
    x, cond, null = s.latents.x, s.conditions(s.clips), s.nulls(len(s.clips))
    half = torch.arange(len(s.clips)) % 2 == 0
    mixed = tree_map(lambda v, n: torch.where(half.reshape(-1, *[1] * (v.ndim - 1)), v, n), cond, null)
    if s.latents.mask is not None:
        mixed[MASK] = s.latents.mask
    s.loss(network, x, mixed, Randomness(0, 0, len(s.clips))).total.mean().backward()
    trained = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    unused = [n for n, p in trained if p.grad is None]
    silent = [n for n, p in trained if p.grad is not None and not p.grad.any()]
    if unused:
        return f"{len(unused)} of {len(trained)} parameters are not used: {', '.join(unused[:5])}"
    if silent:
        return f"{len(silent)} of {len(trained)} parameters get a gradient of zeros: {', '.join(silent[:5])}"
    return None


@check("what keep_float32 names exists and works in float32 while the rest is bfloat16", see="precision")
def float32_modules_are_kept(s: Subject) -> str | None:
    kept = s.network.keep_float32 if isinstance(s.network, KeepsFloat32) else ()
    for name in kept:
        if not hasattr(s.network, name):
            return f"keep_float32 names {name!r}, which the network does not have"
    arguments = s.state(), s.times(), s.conditions(s.clips)
    exact = _out(s, *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        off = distance(_out(s, *arguments), exact)
    if not off < 0.1:
        return f"under bfloat16 autocast the output is off by {off:.2g} of its size (at most 0.1)"
    if not kept:
        return None
    low = copy.deepcopy(s.network).to(torch.bfloat16)
    for name in kept:
        getattr(low, name).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        off = distance(_out(s, *arguments, low), exact)
    return None if off < 0.1 else f"in bfloat16 but for {', '.join(kept)} the output is off by {off:.2g} (at most 0.1)"


@check(
    "repeated_blocks names lists of like modules, and recomputing them in the backward pass changes nothing",
    see="network",
)
def recomputing_changes_nothing(s: Subject) -> str | None:
    names = s.network.repeated_blocks if isinstance(s.network, RepeatedBlocks) else ()
    for name in names:
        if not isinstance(getattr(s.network, name, None), nn.ModuleList):
            return f"repeated_blocks names {name!r}, which is no nn.ModuleList of the network"
    if not names:
        raise NotApplicable("the network names no repeated_blocks")
    plain, saving = copy.deepcopy(s.network).train(), copy.deepcopy(s.network).train()
    for name in names:
        for block in getattr(saving, name):
            block.forward = partial(recompute, block.forward, use_reentrant=False)
    x, cond = s.state(), s.conditions(s.clips)
    outs = []
    for network in (plain, saving):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out = network(x, s.times(), cond)
            torch.stack([leaf.square().mean() for leaf in leaves(out)]).sum().backward()
        outs.append(out)
    if not same(*(tree_map(torch.Tensor.detach, out) for out in outs)):
        return "the output changes"
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        if a.grad is not None and (b.grad is None or distance(a.grad, b.grad) > 1e-4):
            return f"the gradient of {name!r} changes"
    return None


@check("a network is its state_dict: one that loads it, through safetensors, gives the same output", see="network")
def network_survives_saving(s: Subject) -> str | None:
    from safetensors.torch import load, save

    state = s.network.state_dict()
    for a, b in _shared(state):
        return f"{a!r} and {b!r} are one tensor, which safetensors does not hold twice; keep one of them"
    fresh = s.new_network()
    fresh.load_state_dict(load(save({k: v.contiguous() for k, v in state.items()})))
    arguments = s.state(), s.times(), s.conditions(s.clips)
    _out(s, s.state(seed=1), s.times(), s.nulls(len(s.clips)), fresh.eval())  # nothing may depend on what came first
    off = distance(_out(s, *arguments, fresh), _out(s, *arguments))
    return f"the output changes by {off:.2g} of its size" if off > 1e-6 else None


def _shared(state: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    owners: dict[int, str] = {}
    for name, tensor in state.items():
        if tensor.numel() and owners.setdefault(tensor.untyped_storage().data_ptr(), name) != name:
            yield owners[tensor.untyped_storage().data_ptr()], name
