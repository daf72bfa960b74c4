import numpy as np
import pytest

from training.recognition import distance, features, ranks

RANDOM = np.random.default_rng(0)


def naive(one, other):
    """The recurrence as it is written."""
    costs = np.linalg.norm(one[:, None] - other, axis=2)
    found = np.full(costs.shape, np.inf)
    for i in range(len(one)):
        for j in range(len(other)):
            ways = [2 * costs[0, 0]] if i == j == 0 else []
            ways += [found[i - 1, j] + costs[i, j]] if i else []
            ways += [found[i, j - 1] + costs[i, j]] if j else []
            ways += [found[i - 1, j - 1] + 2 * costs[i, j]] if i and j else []
            found[i, j] = min(ways)
    return found[-1, -1] / (len(one) + len(other))


@pytest.mark.parametrize(("first", "second"), [(1, 1), (5, 7), (9, 4), (1, 6), (6, 1), (12, 12)])
def test_the_distance_is_that_of_the_recurrence(first, second):
    one, other = RANDOM.normal(size=(first, 3)), RANDOM.normal(size=(second, 3))
    assert distance(one, other) == pytest.approx(naive(one, other))


def test_a_clip_that_is_stretched_is_still_itself():
    clip = RANDOM.normal(size=(20, 3))
    assert distance(clip, np.repeat(clip, 2, axis=0)) == pytest.approx(0)


def test_ranks_count_the_templates_that_are_nearer():
    clips = [np.full((4, 2), value) for value in (0.0, 1.0, 10.0)]
    assert ranks(clips, clips) == [0, 0, 0]
    assert ranks([clips[2], clips[1]], clips) == [2, 0]


def test_loudness_does_not_matter():
    bands = RANDOM.normal(size=(30, 24)).astype(np.float32)
    np.testing.assert_allclose(features(bands), features(bands + 3), atol=1e-4)
    assert features(bands).shape == (15, 12)
