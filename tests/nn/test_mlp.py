"""Properties of the MLP."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flowgen.media.conditions import ClassCondition, NumberCondition, TextCondition, encode_conditions
from flowgen.media.streams import Axis, StreamSpec
from flowgen.nn import MLP

CONDITIONS = {"kind": ClassCondition(("a", "b")), "level": NumberCondition(0, 1)}


def build(**options: Any) -> MLP:
    torch.manual_seed(0)
    return MLP(StreamSpec(2), CONDITIONS, **{"width": 32, "depth": 2, **options})


def inputs() -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    g = torch.Generator().manual_seed(1)
    cond = encode_conditions(CONDITIONS, [{"kind": "a", "level": 0.2}, {"kind": "b"}, {}])
    return torch.randn(3, 2, generator=g), torch.rand(3, generator=g), cond


def test_every_parameter_learns() -> None:
    net, (x, t, cond) = build(), inputs()
    out = net(x, t, cond)
    assert out.shape == x.shape
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_samples_do_not_meet_and_time_and_conditions_count() -> None:
    net, (x, t, cond) = build(), inputs()
    out = net(x, t, cond)
    torch.testing.assert_close(out[:1], net(x[:1], t[:1], {k: v[:1] for k, v in cond.items()}))
    for other in (
        net(x, 1 - t, cond),
        net(x, t, cond | {"kind": cond["kind"].flip(0)}),
        net(x, t, cond | {"level": cond["level"].flip(0)}),
    ):
        assert (out - other).abs().max() > 1e-3


def test_the_time_embedding_is_the_tutorials() -> None:
    net, (_, t, _) = build(), inputs()
    net.embed.weight.data.zero_()
    seen = []
    net.time.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(*inputs())
    half = 16
    frequency = torch.exp(-torch.arange(half) * torch.log(torch.tensor(10_000.0)) / (half - 1))
    angle = t[:, None] * 10_000 * frequency
    torch.testing.assert_close(seen[0], torch.cat([angle.sin(), angle.cos()], 1), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("option", "value"), [("width", 64), ("depth", 1), ("max_frequency", 10.0), ("octaves", 2)])
def test_every_option_changes_the_result(option: str, value: float) -> None:
    assert (build()(*inputs()) - build(**{option: value})(*inputs())).abs().max() > 1e-4


def test_bfloat16_autocast_keeps_time_exact() -> None:
    net, (x, t, cond) = build(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        assert (net(x, t, cond) - net(x, t, cond).float()).abs().max() == 0
        close = net(x, t, cond)
    assert (close - net(x, t, cond)).abs().max() < 0.02


def test_axes_and_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="plain vectors"):
        MLP(StreamSpec(2, (Axis("time", 3),)), {})
    with pytest.raises(ValueError, match="takes no sequences"):
        MLP(StreamSpec(2), {"text": TextCondition(4)})
