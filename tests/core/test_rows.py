"""The noise of rows: each has what it has alone, whatever is made with it."""

import torch

from flowgen.core.random import normal_rows
from flowgen.core.rows import Rows

CPU = torch.device("cpu")


def test_rows_of_several_samples_have_the_noise_that_they_have_alone():
    shapes = [(8, 4, 3), (8, 4, 3), (5, 4, 3), (8, 4, 3), (6, 2, 3)]
    draws = [(1, 0), (1, 1), (1, 2), (7, 0), (2**62, 9)]
    made = Rows(0, range(5), shapes, CPU, draws)
    noise, mask = made.noise("sample"), made.mask
    for i, ((seed, row), shape) in enumerate(zip(draws, shapes, strict=True)):
        corner = tuple(slice(n) for n in shape)
        alone = Rows(seed, range(row, row + 1), [shape], CPU).noise("sample")[0]
        assert torch.equal(noise[i][corner], alone)
        assert torch.equal(alone, normal_rows((seed, "sample"), torch.tensor([row]), shape)[0])
        assert noise[i].count_nonzero() == noise[i][corner].count_nonzero()  # nothing beyond it
        assert bool(mask[i][tuple(slice(n) for n in shape[:-1])].all())
    assert not torch.equal(noise[0], noise[3])


def test_streams_have_shapes_of_their_own():
    shapes = [{"a": (4, 2), "b": (3,)}, {"a": (6, 2), "b": (3,)}]
    both, alone = Rows(3, range(2), shapes, CPU).noise("x"), Rows(3, range(1, 2), shapes[1:], CPU).noise("x")
    assert torch.equal(both["a"][1], alone["a"][0])
    assert torch.equal(both["b"][1], alone["b"][0])
    assert float(both["a"][0, 4:].abs().max()) == 0
