"""A network gives the velocity of each sample, from all that it is told and from nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from flowgen.core.interfaces import MASK, Autoencoder
from flowgen.core.random import Randomness
from flowgen.core.tree import State, leaves, tree_map
from flowgen.media.interfaces import KeepsFloat32, Patched, RepeatedBlocks
from flowgen.media.streams import StreamSpec
from flowgen.testing.contract import NotApplicable, checks_for
from flowgen.testing.part import touches_global_generators
from flowgen.testing.subject import Subject, distance, finite, rows, same, shapes

check = checks_for("network")


def _out(s: Subject, x: State, t: Any, cond: dict[str, Any], network: nn.Module | None = None) -> Any:
    with torch.no_grad():
        return (network or s.network)(x, t, cond)


@check("a network gives finite numbers of the structure and shape of its state", see="network", basic=True)
def output_is_like_the_state(s: Subject) -> str | None:
    x = s.state()
    out = _out(s, x, s.times(), s.conditions(s.clips))
    if shapes(out) != shapes(x):
        return f"a state of shape {shapes(x)} gives an output of shape {shapes(out)}"
    return None if finite(out) else "the output is not finite"


@check("a network leaves state, times and conditions as they are: a solver uses them again", see="network", basic=True)
def network_leaves_its_input_alone(s: Subject) -> str | None:
    arguments = s.state(), s.times(), s.conditions(s.clips)
    kept = [tree_map(torch.clone, tree) for tree in arguments]
    _out(s, *arguments)
    for what, now, before in zip(("the state", "the times", "the conditions"), arguments, kept, strict=True):
        if any(
            not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(leaves(now), leaves(before), strict=True)
        ):
            return f"it changes {what} in place"
    return None


@check("a network is deterministic in eval mode", see="network", basic=True)
def network_is_deterministic(s: Subject) -> str | None:
    arguments = s.state(), s.times(), s.conditions(s.clips)
    if not same(_out(s, *arguments), _out(s, *arguments)):
        return "the same input gives two outputs"
    if touches_global_generators(lambda: _out(s, *arguments)):
        return "it changes the state of a global generator (random, numpy.random or torch)"
    return None


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


def _has_times(s: Subject) -> None:
    if isinstance(s.network, Autoencoder):
        raise NotApplicable("an autoencoder gives back its state, whatever the time")


@check("the output depends on the time", see="network")
def time_matters(s: Subject) -> str | None:
    _has_times(s)
    x, cond = s.state(), s.conditions(s.clips)
    a, b = (_out(s, x, torch.full((len(s.clips),), t), cond) for t in (0.05, 0.95))
    return "times 0.05 and 0.95 give the same output" if same(a, b) else None


@check(
    "times stay float32: close times are told apart under bfloat16 autocast too", see="precision", needs=(time_matters,)
)
def time_keeps_its_precision(s: Subject) -> str | None:
    _has_times(s)
    x, cond = s.state(), s.conditions(s.clips)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = (_out(s, x, torch.full((len(s.clips),), t), cond) for t in (0.9985, 0.9998))
    return "under autocast, times 0.9985 and 0.9998 give the same output" if distance(a, b) == 0 else None


@check(
    "times may be given for each position, [B, *axes]: equal ones give what [B] gives, different ones matter, in every stream",
    see="network",
    needs=(time_matters,),
)
def times_may_differ_by_position(s: Subject) -> str | None:
    _has_times(s)
    named = _streams(s)
    if not any(spec.axes for spec in named.values()):
        raise NotApplicable("the state has no axes")
    x, t, cond = s.state(), s.times(), s.conditions(s.clips)
    every = tree_map(lambda spec: t.reshape(-1, *[1] * len(spec.axes)).expand(len(t), *spec.shape[:-1]).clone(), s.spec)
    off = distance(_out(s, x, every, cond), _out(s, x, t, cond))
    if off > s.tolerances.batch:
        return f"the time t for the sample and t for each of its positions differ by {off:.2g}"
    plain = _out(s, x, every, cond)
    for name, spec in named.items():
        if not spec.axes:
            continue
        known = {**every, name: every[name].clone()} if name else every.clone()
        leaf = known[name] if name else known
        leaf[:, : spec.axes[0].size // 2] = 1.0
        if same(_out(s, x, known, cond), plain):
            return f"times that differ by position are ignored{_of(name)}"
    return None


@check(
    "streams have times of their own, and each of them matters", see="network", needs=(times_may_differ_by_position,)
)
def streams_have_times_of_their_own(s: Subject) -> str | None:
    if isinstance(s.spec, StreamSpec):
        raise NotApplicable("the state is one stream")
    x, cond = s.state(), s.conditions(s.clips)
    alike = dict.fromkeys(s.spec, s.times())
    plain = _out(s, x, alike, cond)
    off = distance(plain, _out(s, x, s.times(), cond))
    if off > s.tolerances.batch:
        return f"one time for all streams, and the same for each of them, differ by {off:.2g}"
    for name in s.spec:
        if same(_out(s, x, {**alike, name: 1 - 0.5 * s.times()}, cond), plain):
            return f"the time{_of(name)} is ignored"
    return None


@check("streams see one another: each changes what the network says of another", see="network")
def streams_see_one_another(s: Subject) -> str | None:
    if isinstance(s.spec, StreamSpec):
        raise NotApplicable("the state is one stream")
    x, t, cond = s.state(), s.times(), s.conditions(s.clips)
    plain: Any = _out(s, x, t, cond)
    for name in s.spec:
        other: Any = _out(s, {**x, name: 2 * x[name] + 1}, t, cond)  # type: ignore[dict-item, index]
        if all(same(other[k], plain[k]) for k in s.spec if k != name):
            return f"what the network says of the other streams does not depend on stream {name!r}"
    return None


def _streams(s: Subject) -> dict[str, StreamSpec]:
    """Specs by stream; of a state that is one, by the empty name."""
    return {"": s.spec} if isinstance(s.spec, StreamSpec) else dict(s.spec)


def _of(name: str) -> str:
    return f" in stream {name!r}" if name else ""


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
    x: Any = s.state()
    t, named, tried = s.times(), _streams(s), 0
    for name, spec in named.items():
        real = _real_steps(s, name, spec)
        if not real:
            continue
        tried += 1
        full = tree_map(lambda leaf: torch.ones(leaf.shape[:-1], dtype=torch.bool), x)
        mask, leaf = (full[name], x[name]) if name else (full, x)
        mask[:, real:] = False
        padded = torch.where(mask[..., None], leaf, 3 * torch.ones_like(leaf))
        other = {**x, name: padded} if name else padded
        cond = {**s.conditions(s.clips), MASK: full}
        a, b = (_out(s, state, t, cond) for state in (x, other))
        for key in named:
            end = real if key == name else None
            off = distance(*((out[key] if key else out)[:, :end] for out in (a, b)))
            if off > s.tolerances.batch:
                where = "the output before it" if key == name else f"the output of stream {key!r}"
                return (
                    f"with cond['mask'], changing the padding after step {real}{_of(name)} changes {where} by {off:.2g}"
                )
    if not tried:
        raise NotApplicable("no stream has an axis long enough to pad")
    return None


def _real_steps(s: Subject, name: str, spec: StreamSpec) -> int:
    """Three quarters of the first axis, in whole patches; 0 where it is too short for that."""
    if not spec.axes:
        return 0
    size = spec.axes[0].size
    patches: Any = s.network.patch if isinstance(s.network, Patched) else ()
    own = patches[name] if isinstance(patches, Mapping) else patches
    patch = own[0] if own else 1
    real = size // patch * 3 // 4 * patch
    return real if real < size else 0


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


@check(
    "what keep_float32 names exists and works in float32 while the rest is bfloat16",
    see="precision",
    needs=(network_does_not_leak_across_the_batch,),
)
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
