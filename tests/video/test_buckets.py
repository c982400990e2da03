import pytest
from flowgen_video.buckets import Bucket, assign, batch_sizes, summary

from flowgen.errors import UsageError

SQUARE, WIDE, LONG = Bucket(17, 64, 64), Bucket(17, 48, 80), Bucket(49, 48, 80)
BUCKETS = [SQUARE, WIDE, LONG]


@pytest.mark.parametrize(
    ("shape", "bucket", "status"),
    [
        ((17, 64, 64), SQUARE, "kept"),
        ((16, 64, 64), SQUARE, "padded"),
        ((15, 64, 64), None, "left out"),
        ((400, 100, 100), SQUARE, "cropped"),
        ((20, 96, 160), WIDE, "cropped"),
        ((48, 96, 160), LONG, "padded"),
        ((47, 96, 160), WIDE, "cropped"),
        ((49, 48, 80), LONG, "kept"),
    ],
)
def test_a_clip_goes_where_it_loses_least(shape, bucket, status):
    (found,) = assign([shape], BUCKETS)
    assert (found.bucket, found.status) == (bucket, status)
    assert bool(found.why) == (status != "kept")


def test_no_clip_disappears():
    shapes = [(n, 30 + n, 90 - n) for n in range(1, 60)]
    found = assign(shapes, BUCKETS, tolerance=0)
    assert [a.clip for a in found] == list(range(len(shapes)))
    assert all((a.bucket is None) == (shapes[a.clip][0] < 17) for a in found)
    sizes = batch_sizes(BUCKETS, (1, 4, 4), 100_000)
    rows = summary(found, sizes)
    assert sum(row["clips"] for row in rows) == len(shapes)
    for row in rows[:-1]:
        assert row["batches"] * row["batch"] + row["waiting"] == row["clips"]


def test_pictures_are_not_enlarged_where_another_bucket_fits():
    small, large = Bucket(8, 32, 32), Bucket(8, 128, 128)
    found = assign([(8, 64, 64), (8, 200, 200), (8, 16, 16)], [large, small])
    assert [a.bucket for a in found] == [small, large, small]
    assert "enlarged 2 times" in found[2].why


def test_a_batch_keeps_to_the_budget_and_wastes_less_than_a_clip():
    sizes = batch_sizes(BUCKETS, (1, 8, 8), 6000)
    for bucket, size in sizes.items():
        tokens = bucket.tokens((1, 8, 8))
        assert size * tokens <= 6000 < (size + 1) * tokens
    with pytest.raises(UsageError, match=r"17x64x64.*1088 tokens"):
        batch_sizes(BUCKETS, (1, 8, 8), 1000)
    with pytest.raises(UsageError, match="2x8x8 does not divide"):
        batch_sizes(BUCKETS, (2, 8, 8), 6000)
