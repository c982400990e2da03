import pytest
import torch

from flowgen.testing.oracle import GaussianMixture


@pytest.fixture(scope="session")
def mixture():
    return GaussianMixture.random(4, 2, seed=3)


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)
