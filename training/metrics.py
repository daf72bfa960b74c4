"""Distances between two clouds of features, in float64 numpy; knows nothing of networks or pictures."""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]
BLOCK = 250  # rows of a distance matrix held at once


def frechet_distance(first: Features, second: Features) -> float:
    """Squared 2-Wasserstein distance between the Gaussians fitted to two clouds [N, D] and [M, D].

    |mean difference|^2 + trace(A + B - 2 (A B)^(1/2)), as in Heusel et al. 2017. The trace of the root is taken from
    the eigenvalues of A^(1/2) B A^(1/2), which is symmetric, so that no complex numbers arise.
    """
    difference = first.mean(0) - second.mean(0)
    a, b = (np.atleast_2d(np.cov(cloud, rowvar=False)) for cloud in (first, second))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(min=0)).sum()
    return float(difference @ difference + np.trace(a) + np.trace(b) - 2 * cross)


def precision_recall(real: Features, generated: Features, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019).

    A cloud's manifold is the union of balls around its points that reach their k-th nearest neighbour; precision is
    the share of generated points inside the real manifold, recall the share of real points inside the generated one.

    Raises:
        ValueError: a cloud has no k-th neighbour.
    """
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"at least {k + 1} points are needed on each side")
    return _share_inside(generated, real, k), _share_inside(real, generated, k)


def _share_inside(points: Features, manifold: Features, k: int) -> float:
    radii = _neighbour_distances(manifold, k)
    inside = [
        (_squared_distances(points[i : i + BLOCK], manifold) <= radii).any(1) for i in range(0, len(points), BLOCK)
    ]
    return float(np.concatenate(inside).mean())


def _neighbour_distances(cloud: Features, k: int) -> Features:
    """Squared distance of each point to its k-th nearest other point, [N]."""
    # the point itself, at distance 0, takes rank 0
    found = [
        np.partition(_squared_distances(cloud[i : i + BLOCK], cloud), k, axis=1)[:, k]
        for i in range(0, len(cloud), BLOCK)
    ]
    return np.concatenate(found)


def _squared_distances(first: Features, second: Features) -> Features:
    squares: Features = (first**2).sum(1)[:, None] + (second**2).sum(1)[None, :] - 2 * first @ second.T
    return np.maximum(squares, 0)
