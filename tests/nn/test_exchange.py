"""What streams exchange: within a window in time, and gated by the noise level of who speaks."""

import torch

from flowgen.media.conditions import encode_conditions
from flowgen.nn import ExchangeTransformer
from tests.nn.test_multistream import CONDITIONS, PATCHES, SPEC, gap, given


def test_what_lies_beyond_the_window_is_not_heard() -> None:
    torch.manual_seed(0)
    x, t, cond = given()
    net = ExchangeTransformer(SPEC, CONDITIONS, width=32, depth=1, heads=2, patches=PATCHES, window_s=0.5)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
        net.blocks[0].attention["sound"].out.weight.zero_()  # what the sound tells itself reaches everywhere
    x["sound"].requires_grad_()
    seen = torch.autograd.grad(net(x, t, cond)["picture"][:, 0].square().sum(), x["sound"])[0].abs().amax((0, 2))
    # the first frame's token lies at 0.25 s; those of the sound at 0.25, 0.75, 1.25, 1.75 s, two samples each
    assert bool((seen[:4] > 0).all())
    assert bool((seen[4:] == 0).all())
    title = torch.autograd.grad(net(x, t, cond)["title"].square().sum(), x["sound"])[0].abs().amax((0, 2))
    assert bool((title > 0).all())


def test_what_a_stream_says_is_gated_by_its_own_noise_level() -> None:
    """With its gate closed at a time, a stream in that noise changes nothing of the others."""
    x, t, cond = given()
    net = ExchangeTransformer(SPEC, CONDITIONS, width=32, depth=1, heads=2, patches=PATCHES)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    project, table = net.project["sound"], net.blocks[0].tables["sound"]
    times = {**dict.fromkeys(x, t), "sound": torch.full_like(t, 0.2)}
    with torch.no_grad():  # the gate says of the sound at that time: nothing
        emb = net.time(times["sound"][:, None]) + net.conditions(cond).vector[:, None]
        gate = project(torch.nn.functional.silu(emb)).unflatten(-1, (9, -1))[:, :, 8]
        table[8] = 0
        project.bias[8 * 32 :] -= gate[0, 0]
    one = {name: leaf[:1] for name, leaf in x.items()}
    first = {k: v[:1] if isinstance(v, torch.Tensor) else v for k, v in times.items()}
    cond = encode_conditions(CONDITIONS, [{"kind": "a", "text": "hi"}])
    loud = {**one, "sound": 5 + one["sound"]}
    assert gap({"p": net(one, first, cond)["picture"]}, {"p": net(loud, first, cond)["picture"]}) < 1e-6
    other = {**first, "sound": torch.tensor([0.9])}
    assert gap({"p": net(one, other, cond)["picture"]}, {"p": net(loud, other, cond)["picture"]}) > 1e-4
