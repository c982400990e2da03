"""Known regions mark what they say, for clips of any length."""

import pytest
import torch

from flowgen.core.random import Randomness
from flowgen.media.regions import Ends, Gap, Outside, Prefix, Suffix, Whole, check_regions, draw_known
from flowgen.media.streams import Axis, StreamSpec

pytestmark = pytest.mark.exact

SPEC = StreamSpec(3, (Axis("time", 12, 8.0), Axis("height", 6), Axis("width", 4)))
RANDOM = Randomness(seed=1, step=0, batch=200)
X = torch.zeros(200, *SPEC.shape)


def drawn(region, x=X, mask=None):
    return draw_known([region], SPEC, x, mask, RANDOM)


def test_prefix_lengths_fill_the_asked_range_in_seconds():
    known = drawn(Prefix(1.0, low=0.25, high=0.75))[:, :, 0, 0]
    lengths = known.sum(1)
    assert set(lengths.tolist()) == {2, 3, 4, 5, 6}
    assert all(row[: int(n)].all() for row, n in zip(known, lengths, strict=True))


def test_suffix_is_at_the_end_of_what_is_real():
    mask = torch.ones(200, 12, dtype=torch.bool)
    mask[:100, 8:] = False
    known = drawn(Suffix(1.0, low=0.25, high=0.25), mask=mask)[:, :, 0, 0]
    assert known[0].nonzero()[:, 0].tolist() == [6, 7, 8, 9, 10, 11]  # the padding counts for nothing
    assert known[150].nonzero()[:, 0].tolist() == [10, 11]


def test_ends_leave_a_middle():
    known = drawn(Ends(1.0, low=0.1, high=9.0))[:, :, 0, 0]
    assert known[:, 0].all()
    assert known[:, -1].sum() > 0
    assert (~known).any(1).all()


def test_gap_is_one_stretch_of_the_asked_length_anywhere():
    unknown = ~drawn(Gap(1.0, low=0.5, high=0.5))[:, :, 0, 0]
    assert (unknown.sum(1) == 4).all()
    starts = {row.nonzero()[0].item() for row in unknown}
    assert starts == set(range(9))
    assert all(row[s : s + 4].all() for row in unknown for s in [row.nonzero()[0].item()])


def test_outside_is_a_box_over_space_at_every_time():
    unknown = ~drawn(Outside(1.0, low=0.5, high=0.5))
    assert (unknown[:, 0].sum((1, 2)) == 3 * 2).all()
    assert (unknown == unknown[:, :1]).all()


def test_each_region_comes_as_often_as_it_says():
    random = Randomness(seed=1, step=0, batch=4000)
    x = torch.zeros(4000, 12, 1, 1, 3)
    known = draw_known([Prefix(0.3, 0.125, 0.125), Suffix(0.2, 0.125, 0.125)], SPEC, x, None, random)
    assert known[:, 0].float().mean() == pytest.approx(0.3, abs=0.03)
    assert known[:, -1].float().mean() == pytest.approx(0.2, abs=0.03)


def test_a_row_is_the_same_in_any_split():
    whole = drawn(Gap(0.5, 0.25, 1.0))
    part = draw_known(
        [Gap(0.5, 0.25, 1.0)], SPEC, X[:2], None, Randomness(seed=1, step=0, batch=200, rows=torch.tensor([7, 90]))
    )
    assert torch.equal(part, whole[[7, 90]])


def test_a_state_of_streams_is_known_where_it_has_the_axis():
    spec = {"sound": StreamSpec(2, (Axis("time", 12, 8.0),)), "label": StreamSpec(4)}
    x = {"sound": torch.zeros(200, 12, 2), "label": torch.zeros(200, 4)}
    known = draw_known([Prefix(1.0, 0.5, 0.5)], spec, x, None, RANDOM)
    assert known["sound"].sum() == 200 * 4
    assert not known["label"].any()


def test_misfits_are_refused():
    with pytest.raises(ValueError, match=r"sum to 1\.2"):
        check_regions([Prefix(0.6, 1, 1), Suffix(0.6, 1, 1)], SPEC)
    with pytest.raises(ValueError, match="runs along depth; the latents have height, time, width"):
        check_regions([Prefix(0.6, 1, 1, axis="depth")], SPEC)
    with pytest.raises(ValueError, match="0 < low <= high"):
        Prefix(0.5, 2.0, 1.0)


def test_a_given_part_is_kept_and_continued():
    """Data on a line: with the first coordinate given, the exact flow of the joint law makes the second agree with it."""
    from flowgen import CFG, DPMSolverPP2M, Linear, NetworkFlow, sample, uniform_grid
    from flowgen.media.regions import KnownFlow

    seen = []

    def network(x, t, cond):  # x [B, 2 positions, 1]; knows that both positions are equal
        seen.append(t)
        level = torch.where(t[:, :1] == 1, x[:, :1, 0], torch.zeros(()))  # reads the given one
        target = level[:, :, None].expand_as(x)
        return (target - x) / (1 - t[..., None]).clamp(min=1e-3)

    x1, known = torch.tensor([[[2.0], [0.0]], [[-1.0], [0.0]]]), torch.tensor([[True, False], [True, False]])
    flow = KnownFlow(NetworkFlow(network, Linear()), x1, known)
    for solver in (None, DPMSolverPP2M()):
        x = sample(flow, torch.randn(2, 2, 1), uniform_grid(8), solver=solver)
        x = flow.restore(x)
        assert torch.equal(x[:, 0], x1[:, 0])
        torch.testing.assert_close(x[:, 1], x1[:, 0], atol=1e-2, rtol=0)
    assert all((t[:, 0] == 1).all() for t in seen)
    assert (seen[0][:, 1] == 0).all()
    guided = CFG(scale=2.0)(flow, {})
    x = flow.restore(sample(guided, torch.randn(2, 2, 1), uniform_grid(8), cond={}))
    torch.testing.assert_close(x[:, 1], x1[:, 0], atol=1e-2, rtol=0)


STREAMS = {"sound": StreamSpec(1, (Axis("time", 8, 4.0),)), "picture": SPEC, "title": StreamSpec(3)}


def test_a_region_that_names_a_stream_holds_for_it_alone():
    x = {name: torch.zeros(64, *spec.shape) for name, spec in STREAMS.items()}
    regions = [Prefix(0.3, 0.5, 0.5, stream="sound"), Whole(0.4, "picture"), Whole(0.3, "title")]
    mask = {name: torch.ones(leaf.shape[:-1], dtype=torch.bool) for name, leaf in x.items()}
    for real in (None, mask):
        known = draw_known(regions, STREAMS, x, real, Randomness(0, 0, 64))
        held = {name: leaf.flatten(1).any(1) if leaf.ndim > 1 else leaf for name, leaf in known.items()}
        assert bool((held["sound"].int() + held["picture"].int() + held["title"].int() == 1).all())
        assert bool(known["picture"][held["picture"]].all())
        assert known["sound"][held["sound"]].sum(1).unique().tolist() == [2]
        assert all(4 < int(leaf.sum()) < 48 for leaf in held.values())


def test_a_region_of_a_stream_that_is_not_there_is_refused():
    check_regions([Whole(0.5, "title"), Prefix(0.5, 1, 1, stream="sound")], STREAMS)
    with pytest.raises(ValueError, match="names the stream 'film'; the latents have sound, picture, title"):
        check_regions([Whole(0.5, "film")], STREAMS)
    with pytest.raises(ValueError, match="the latents have one stream"):
        check_regions([Whole(0.5, "film")], SPEC)
    with pytest.raises(ValueError, match="runs along height, width; the latents have time"):
        check_regions([Outside(0.5, stream="sound")], STREAMS)
