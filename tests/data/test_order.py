"""Which clips make a batch: of one bucket, within the budget, every clip each epoch, the same however the batch is split."""

from collections import Counter
from itertools import islice

import pytest
import torch

from flowgen.core.losses import FlowMatching
from flowgen.core.random import Randomness
from flowgen.core.times import TokenShift, row_factors, shift_factor
from flowgen.data.loader import Split, batches
from flowgen.data.order import InBuckets, InOneOrder, Order, fill_buckets, make_schedule
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip

pytestmark = pytest.mark.exact

COSTS = {"long": 1.0, "half": 0.5, "third": 1 / 3}


class Lengths:
    """Clip i belongs to bucket i % 3; the clip is its own index and seed."""

    def __init__(self, count=50, costs=COSTS):
        self.count, self.buckets = count, costs

    def __len__(self):
        return self.count

    def bucket_of(self, index):
        return list(self.buckets)[index % len(self.buckets)]

    def clip(self, index, seed):
        return Clip(torch.tensor([index, seed]), source=str(index))


def rows(schedule, step):
    return [schedule.place(step, row) for row in range(schedule.size(step))]


def test_without_buckets_batches_are_cut_from_one_order():
    plain = Lengths(17, {})
    schedule, order = make_schedule(plain, 3, 5), Order(3, 17)
    assert isinstance(schedule, InOneOrder)
    assert [p for step in range(9) for p in rows(schedule, step)] == [order[i] for i in range(45)]


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_batch_is_of_one_bucket_and_within_the_budget(parts):
    data = Lengths()
    schedule = make_schedule(data, 0, 6, parts)
    expected = {"long": 6, "half": 12, "third": 18}
    for step in range(3 * schedule.per_epoch):
        (bucket,) = {data.bucket_of(p.index) for p in rows(schedule, step)}
        assert schedule.size(step) == expected[bucket] // parts * parts
        assert schedule.size(step) * COSTS[bucket] <= 6 + 1e-9


def test_every_clip_is_seen_each_epoch_and_only_the_filling_twice():
    data = Lengths(60)
    schedule = make_schedule(data, 0, 6)
    again = sum(bucket.again for bucket in schedule.buckets)
    assert again == (24 - 20) + (24 - 20) + (36 - 20)
    orders = []
    for epoch in range(3):
        steps = range(epoch * schedule.per_epoch, (epoch + 1) * schedule.per_epoch)
        places = [p for step in steps for p in rows(schedule, step)]
        assert {p.epoch for p in places} == {epoch}
        seen = Counter(p.index for p in places)
        assert set(seen) == set(range(60))
        assert sum(seen.values()) - 60 == again
        for step in steps:  # no clip twice in one batch
            assert len(set(rows(schedule, step))) == schedule.size(step)
        orders.append((tuple(seen), tuple(schedule.size(step) for step in steps)))
    assert len(set(orders)) == 3
    assert len({sizes for _, sizes in orders}) > 1, "batches are shuffled, too"


def test_a_bucket_smaller_than_its_batch_repeats_its_clips():
    schedule = make_schedule(Lengths(4, {"long": 1.0, "few": 0.1}), 0, 2)
    few = {b.name: b for b in schedule.buckets}["few"]
    assert (len(few.clips), few.batch, few.batches, few.again) == (2, 20, 1, 18)
    assert schedule.per_epoch == 2


def test_a_step_is_a_function_of_the_seed_and_its_number():
    one, other = (make_schedule(Lengths(), 5, 6) for _ in range(2))
    forward = [rows(one, step) for step in range(40)]
    assert [rows(other, step) for step in reversed(range(40))] == forward[::-1]
    assert [rows(make_schedule(Lengths(), 6, 6), step) for step in range(40)] != forward


def test_two_ranks_and_micro_batches_hold_the_rows_of_one():
    schedule = make_schedule(Lengths(), 0, 6, parts=2)
    whole = list(islice(batches(Lengths(), 0, Split(6, 6), schedule=schedule), 12))
    halves = [list(islice(batches(Lengths(), 0, Split(6, 3, 2, rank), schedule=schedule), 12)) for rank in (0, 1)]
    micro = list(islice(batches(Lengths(), 0, Split(6, 3), schedule=schedule), 24))
    late = list(islice(batches(Lengths(), 0, Split(6, 6), 7, schedule=schedule), 5))
    for step, clips in enumerate(whole):
        expected = [c.data.tolist() for c in clips]
        assert [c.data.tolist() for half in halves for c in half[step]] == expected
        assert [c.data.tolist() for half in micro[2 * step : 2 * step + 2] for c in half] == expected
        assert len(halves[0][step]) == len(halves[1][step])
        if step >= 7:
            assert [c.data.tolist() for c in late[step - 7]] == expected


def test_worker_processes_load_the_same_batches():
    here = islice(batches(Lengths(), 0, Split(6, 3)), 6)
    there = islice(batches(Lengths(), 0, Split(6, 3), workers=1), 6)
    for one, other in zip(here, there, strict=True):
        assert [c.data.tolist() for c in one] == [c.data.tolist() for c in other]


def test_a_clip_beyond_the_budget_is_refused_by_bucket():
    big = Lengths(6, {"usual": 1.0, "huge": 4.5})
    with pytest.raises(UsageError, match=r"bucket huge: one clip costs as much as 4\.5 .*batch_size=4 .*raise it to 5"):
        fill_buckets(big, 4, 1)
    with pytest.raises(UsageError, match=r"in 2 micro-batches .*raise it to 9"):
        fill_buckets(big, 8, 2)
    assert [b.batch for b in fill_buckets(big, 9, 2)] == [8, 2]
    assert [b.name for b in fill_buckets(Lengths(1, {"usual": 1.0, "huge": 4.5}), 4, 1)] == ["usual"], "it has no clips"


def test_a_data_set_that_contradicts_itself_is_an_error():
    data = Lengths(4)
    data.bucket_of = lambda index: "other"
    with pytest.raises(FlowgenError, match="puts clip 0 into 'other'"):
        fill_buckets(data, 4, 1)
    with pytest.raises(FlowgenError, match="bucket half: the cost of a clip must be a positive number, got 0"):
        fill_buckets(Lengths(6, {"long": 1.0, "half": 0.0}), 4, 1)
    with pytest.raises(UsageError, match="has no clips"):
        fill_buckets(Lengths(0), 4, 1)


def test_noise_does_not_depend_on_how_far_a_batch_is_padded():
    random = Randomness(0, 3, 8, whole=(40, 7))
    full = random.normal(torch.zeros(8, 40, 7))
    assert torch.equal(full, Randomness(0, 3, 8).normal(torch.zeros(8, 40, 7)))
    for length in (1, 13, 39):
        assert torch.equal(random.normal(torch.zeros(8, length, 7)), full[:, :length])
    assert random.normal(torch.zeros(8, 50, 7)).shape == (8, 50, 7)
    streams = Randomness(0, 3, 8, whole={"a": (40, 7), "b": (5,)})
    noise = streams.normal({"a": torch.zeros(8, 10, 7), "b": torch.zeros(8, 5)})
    longer = streams.normal({"a": torch.zeros(8, 40, 7), "b": torch.zeros(8, 5)})
    assert torch.equal(noise["a"], longer["a"][:, :10])
    assert torch.equal(noise["b"], longer["b"])


def test_a_shift_by_size_goes_by_the_real_positions_of_each_row():
    shift, x = TokenShift(16, 0.5), torch.zeros(2, 64, 3)
    mask = torch.arange(64) < torch.tensor([[16], [64]])
    assert row_factors(shift, x, mask).tolist() == [1.0, 2.0]
    assert row_factors(shift, x, None) == shift_factor(shift, x) == 2.0
    frames = torch.zeros(2, 8, 4, 2, 3)
    assert row_factors(shift, frames, mask[:, ::8][:, :8]).tolist() == [1.0, 2.0]
    loss = FlowMatching(shift=shift)
    random = Randomness(0, 0, 2)
    times = loss(lambda x, t, cond: x, x, {"mask": mask}, random).t
    alone = loss(lambda x, t, cond: x, x[:1, :16], {}, Randomness(0, 0, 2, torch.tensor([0]))).t
    assert float(times[0]) == pytest.approx(float(alone[0]))


def test_buckets_make_batches_in_buckets():
    assert isinstance(make_schedule(Lengths(), 0, 6), InBuckets)
