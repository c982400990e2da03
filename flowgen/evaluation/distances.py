"""Distances between two samples of features [N, D]: what tells a distribution from another. Float64 throughout."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) of Gaussians fitted to two samples (Heusel et al. 2017, eq. 6).

    ValueError: a sample has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs at least 2 clips, got {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    # (C_a C_b)^1/2 has the eigenvalues of (C_a^1/2 C_b C_a^1/2)^1/2, which is symmetric
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, float(distance))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, unbiased: around 0, and below it as often as
    above, for samples of one distribution (Binkowski et al. 2018, eq. 4).

    ValueError: a sample has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"an unbiased kernel distance needs at least 2 clips, got {len(a)} and {len(b)}")
    from sklearn.metrics.pairwise import polynomial_kernel

    x, y = a.double().numpy(), b.double().numpy()
    within = sum(_off_diagonal_mean(polynomial_kernel(z, degree=3)) for z in (x, y))
    return float(within - 2 * polynomial_kernel(x, y, degree=3).mean())


def _off_diagonal_mean(gram: object) -> float:
    k = torch.as_tensor(gram)
    n = len(k)
    return float((k.sum() - k.trace()) / (n * (n - 1)))


def precision_recall(a: Tensor, real: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """The share of `a` within the manifold of `real`, and the share of `real` within that of `a` (Kynkaanniemi et al. 2019).

    A manifold is the union of balls around its points, each reaching to its `neighbours`-th nearest one (to the farthest,
    in samples that are smaller).
    """

    def covered(points: Tensor, manifold: Tensor) -> float:
        k = min(neighbours, len(manifold) - 1)
        reach = torch.cdist(manifold, manifold).kthvalue(k + 1, dim=1).values  # the nearest one is the point itself
        return float((torch.cdist(points, manifold) <= reach).any(1).double().mean())

    a, real = a.double(), real.double()
    return covered(a, real), covered(real, a)


def mean_distance_within(x: Tensor, groups: Tensor) -> float | None:
    """Mean distance of the pairs of rows of one group, each pair counted once; None: there is no such pair."""
    i, j = torch.triu_indices(len(x), len(x), 1)
    same = groups[i] == groups[j]
    return float((x[i[same]] - x[j[same]]).double().norm(dim=1).mean()) if bool(same.any()) else None
