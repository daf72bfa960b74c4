import pytest
import torch

from training.codebook import CodebookTracker

NEAR, FAR = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tracker(entries, decay=0.5, rarest=0.1):
    made = CodebookTracker(entries, decay, rarest)
    made.begin(entries, entries.clone())
    return made


def test_it_begins_at_features_of_the_batch():
    entries, features = torch.zeros(6, 2), torch.randn(50, 2)
    CodebookTracker(entries, 0.9, 0.1).begin(entries, features)
    assert all((features == entry).all(1).any() for entry in entries)


def test_few_features_are_taken_more_than_once():
    entries = torch.zeros(6, 2)
    CodebookTracker(entries, 0.9, 0.1).begin(entries, NEAR[None])
    assert torch.equal(entries, NEAR.expand(6, 2))


def test_a_code_moves_to_the_mean_of_its_features_and_only_by_them():
    entries = torch.stack([NEAR, FAR])
    moving = CodebookTracker(entries, 0.5, 0.0)
    moving.uses.fill_(1)
    moving.sums.copy_(entries)
    features = torch.tensor([[2.0, 0.0], [4.0, 2.0], [0.0, 9.0]])
    codes = torch.tensor([0, 0, 1])
    moving.update(entries, features, codes, restart=False)
    # a half of what was, (1, 0), and a half of two features, (6, 2), over a half of one use and of two
    torch.testing.assert_close(entries[0], torch.tensor([7.0 / 3, 2.0 / 3]))
    torch.testing.assert_close(entries[1], torch.tensor([0.0, 7.0]))
    for _ in range(60):
        moving.update(entries, features, codes, restart=False)
    torch.testing.assert_close(entries, torch.tensor([[3.0, 1.0], [0.0, 9.0]]))


def test_a_dead_code_begins_anew_at_a_feature_and_is_moved_from_there():
    entries = torch.stack([NEAR, FAR, 3 * FAR])
    moving = CodebookTracker(entries, 0.5, 0.3)
    moving.uses.fill_(1)
    moving.sums.copy_(entries)
    features, codes = NEAR.expand(8, 2), torch.zeros(8, dtype=torch.long)
    assert moving.update(entries, features, codes, restart=True) == 0, "half a use is enough"
    assert moving.update(entries, features, codes, restart=True) == 2
    torch.testing.assert_close(entries, NEAR.expand(3, 2))


def test_without_a_restart_it_stays_where_it_was_and_stays_finite():
    entries = torch.stack([NEAR, FAR])
    moving = CodebookTracker(entries, 0.5, 0.3)
    moving.uses.fill_(1)
    moving.sums.copy_(entries)
    for _ in range(200):
        dead = moving.update(entries, NEAR.expand(8, 2), torch.zeros(8, dtype=torch.long), restart=False)
    assert dead == 1
    torch.testing.assert_close(entries, torch.stack([NEAR, FAR]))


def test_what_it_has_seen_is_in_its_state():
    entries = torch.randn(4, 2)
    first = tracker(entries.clone())
    state = {name: value.clone() for name, value in first.state_dict().items()}
    features, codes = torch.randn(20, 2), torch.randint(4, (20,))
    one, two = entries.clone(), entries.clone()
    first.update(one, features, codes, restart=False)
    second = CodebookTracker(entries, 0.5, 0.1)
    second.load_state_dict(state)
    second.update(two, features, codes, restart=False)
    assert torch.equal(one, two)
