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


def kernel_distance(
    first: Features, second: Features, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance (KID, Binkowski et al. 2018) of two clouds [N, D] and [M, D]: mean and deviation over subsets.

    The unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, of `subsets` pairs of subsets of
    `size` points each, drawn without replacement. It is about zero, and may be below, where the clouds are alike.

    Raises:
        ValueError: a cloud has fewer than two points.
    """
    size = min(size, len(first), len(second))
    if size < 2:
        raise ValueError("at least 2 points are needed on each side")
    draw = np.random.default_rng(seed)
    found = [
        _squared_discrepancy(*(cloud[draw.permutation(len(cloud))[:size]] for cloud in (first, second)))
        for _ in range(subsets)
    ]
    return float(np.mean(found)), float(np.std(found))


def _squared_discrepancy(first: Features, second: Features) -> float:
    """Unbiased squared maximum mean discrepancy of two clouds of one size, [N, D] each."""
    pairs = len(first) * (len(first) - 1)
    within = sum((kernel.sum() - kernel.trace()) / pairs for kernel in (_cubic(first, first), _cubic(second, second)))
    return float(within - 2 * _cubic(first, second).mean())


def _cubic(first: Features, second: Features) -> Features:
    base: Features = first @ second.T / first.shape[1] + 1
    return base * base * base


def inception_score(probabilities: Features, splits: int = 10) -> float:
    """Inception score (Salimans et al. 2016) of class probabilities [N, C]: the mean over so many parts, in order.

    exp of the mean KL divergence of a picture's classes from those of its part: between 1 and C, and high where each
    picture shows one class clearly and all classes come.

    Raises:
        ValueError: fewer pictures than parts.
    """
    if len(probabilities) < splits:
        raise ValueError(f"at least {splits} points are needed")
    return float(np.mean([_score(part) for part in np.array_split(probabilities, splits)]))


def _score(probabilities: Features) -> float:
    smallest = np.finfo(np.float64).tiny  # 0 log 0 is 0
    ratio = np.log(probabilities.clip(smallest)) - np.log(probabilities.mean(0).clip(smallest))
    return float(np.exp((probabilities * ratio).sum(1).mean()))


def mean_distance(cloud: Features) -> float:
    """Mean Euclidean distance of two different points of a cloud [N, D].

    Raises:
        ValueError: there are no two points.
    """
    if len(cloud) < 2:
        raise ValueError("at least 2 points are needed")
    total = sum(
        float(np.sqrt(_squared_distances(cloud[i : i + BLOCK], cloud)).sum()) for i in range(0, len(cloud), BLOCK)
    )
    return total / (len(cloud) * (len(cloud) - 1))


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
