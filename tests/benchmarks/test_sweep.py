import pytest

from benchmarks.sweep import CORES, SHAPES, SPACES, Choice, Space, search


def test_no_shape_takes_more_than_the_cores():
    assert all(workers * threads <= CORES for workers, threads in SHAPES)
    assert {workers for workers, _ in SHAPES} == {1, 2}


@pytest.mark.parametrize("name", SPACES)
def test_size_is_what_the_search_measures(name):
    space = SPACES[name]
    _, found = search(space, lambda choice: choice.max_batch / (1 + choice.window))
    assert len(found) == space.size


def test_windows_up_to_ten_milliseconds_are_tried():
    for name in ("litserve", "mosec"):
        _, found = search(SPACES[name], lambda choice: float(choice.max_batch))
        assert {choice.window for choice in found} == {0, 1, 2, 5, 10}
        assert {choice.workers for choice in found} == {1, 2}


def test_the_best_is_found_by_its_figure():
    goal = Choice(workers=2, threads=1, max_batch=16, window=5, variant="b")

    def closeness(choice: Choice) -> float:
        return float(sum(getattr(choice, name) == value for name, value in vars(goal).items()))

    best, found = search(Space(variants=("a", "b")), closeness)
    assert best == goal
    assert found[best] == max(found.values())


def test_a_choice_says_what_it_is():
    assert str(Choice(2, 1, 16, 5, "")) == "2 workers x 1 thread, batch <= 16, window 5 ms"
    assert str(Choice(2, 1, 8, 1000, "")) == "2 workers x 1 thread, batch <= 8, latency bound 1000 ms"
    assert str(Choice(1, 2, 1, 0, "inline")) == "1 worker x 2 threads, inline"
