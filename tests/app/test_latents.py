"""Seeds become latents the same way everywhere and for ever: users note their seeds down."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import latents

# Made once, with numpy 2.4. If these change, every seed that a user has noted down is lost.
GOLDEN = {
    0: ([0.059911035001277924, 0.015559634193778038, -1.1644384860992432, -0.13264712691307068], 3),
    1: ([1.091689109802246, 0.45582669973373413, 0.7017897367477417, 0.2849433720111847], 4),
    7: ([-0.2933390140533447, 1.703830599784851, 1.5391918420791626, 0.6367538571357727], 3),
    2**53 - 1: ([0.9871067404747009, -0.930456280708313, -0.7308351993560791, 1.0580536127090454], 1),
}
SEEDS = st.integers(0, latents.MAX_SEED)


@pytest.mark.parametrize("seed", GOLDEN)
def test_latents_of_a_seed_are_pinned(seed):
    values, label = GOLDEN[seed]
    latent, own_label = latents.from_seed(seed, (4,), 10)
    assert latent.dtype == np.float32
    np.testing.assert_array_equal(latent, np.array(values, np.float32))
    assert own_label == label


@given(SEEDS, st.integers(0, 20))
def test_latent_depends_on_the_seed_alone(seed, classes):
    """Not on the number of classes, so that asking for a label leaves the latent as it is."""
    latent, label = latents.from_seed(seed, (3, 2), classes)
    again, _ = latents.from_seed(seed, (3, 2), 0)
    np.testing.assert_array_equal(latent, again)
    assert 0 <= label < max(classes, 1)


def fresh(seed, shape, classes):
    """What a seed means, by its definition."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    return generator.standard_normal(shape, np.float32), int(generator.integers(classes)) if classes else 0


def same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]


EDGES = (0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, latents.MAX_SEED - 1, latents.MAX_SEED)
SHAPES = st.sampled_from([(1,), (2,), (3,), (100,), (3, 5), (16, 7, 7)])


@given(st.lists(st.tuples(SEEDS | st.sampled_from(EDGES), SHAPES, st.integers(0, 12)), min_size=1, max_size=8))
def test_a_seed_is_the_key_of_a_fresh_generator(draws):
    """Whatever was drawn before, halves of random words left over among it."""
    for draw in draws:
        same(latents.from_seed(*draw), fresh(*draw))


def test_threads_do_not_disturb_each_other():
    """Each draws other seeds in other shapes, all at once."""
    together, threads = threading.Barrier(4, timeout=60), 4

    def draw(thread):
        together.wait()
        seeds = itertools.chain(EDGES, range(thread, 4000, threads))
        return [(seed, latents.from_seed(seed, (1 + thread, 3), 10)) for seed in seeds]

    with ThreadPoolExecutor(threads) as pool:
        drawn = list(pool.map(draw, range(threads)))
    for thread, draws in enumerate(drawn):
        for seed, found in draws:
            same(found, fresh(seed, (1 + thread, 3), 10))


def test_neighbouring_seeds_are_unrelated():
    z = np.stack([latents.from_seed(seed, (64,), 0)[0] for seed in range(200)])
    correlation = np.corrcoef(z) - np.eye(200)
    assert abs(correlation).max() < 0.6  # 64 numbers: 6 standard deviations would be 0.75
    assert abs(z.mean()) < 0.05
    assert abs(z.std() - 1) < 0.05


def test_every_label_is_drawn():
    labels = [latents.from_seed(seed, (2,), 10)[1] for seed in range(300)]
    assert min(np.bincount(labels, minlength=10)) > 10


@given(SEEDS, SEEDS, st.integers(2, 64))
def test_interpolation_keeps_ends_and_finiteness(first, second, steps):
    a, b = (latents.from_seed(seed, (8,), 0)[0] for seed in (first, second))
    path = latents.interpolate(a, b, steps)
    assert path.shape == (steps, 8)
    assert path.dtype == np.float32
    assert np.isfinite(path).all()
    np.testing.assert_allclose(path[0], a, atol=1e-5)
    np.testing.assert_allclose(path[-1], b, atol=1e-5)


def test_interpolation_follows_the_arc():
    """Half-way between two orthogonal vectors of length 1 lies a vector of length 1, not of length 0.7."""
    a, b = np.eye(2, dtype=np.float32)
    middle = latents.interpolate(a, b, 3)[1]
    np.testing.assert_allclose(middle, [0.5**0.5] * 2, rtol=1e-6)


def test_interpolation_between_parallel_vectors_is_straight():
    a = np.array([1.0, 2.0], np.float32)
    np.testing.assert_allclose(latents.interpolate(a, 3 * a, 3), [a, 2 * a, 3 * a])
    np.testing.assert_array_equal(latents.interpolate(a, a, 2), [a, a])


STYLED_GOLDEN = {  # the rows of seeds 0 and 7 for dim 4, made once
    0: [0.10209763050079346, 0.026516012847423553, -1.9843825101852417, -0.22605113685131073],
    7: [-0.2443716824054718, 1.4194087982177734, 1.2822532653808594, 0.530460000038147],
}


@pytest.mark.parametrize("seed", STYLED_GOLDEN)
def test_styled_latents_of_a_seed_are_pinned(seed):
    rows, label = latents.styled_from_seed(seed, (3, 4), 10)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.tile(np.array(STYLED_GOLDEN[seed], np.float32), (3, 1)))
    assert label == GOLDEN[seed][1]


@given(SEEDS, st.integers(1, 9), st.integers(1, 300))
def test_styled_latents_have_length_one_and_the_seed_s_direction(seed, styles, dim):
    rows, _ = latents.styled_from_seed(seed, (styles, dim), 0)
    drawn, _ = latents.from_seed(seed, (dim,), 0)
    assert rows.shape == (styles, dim)
    np.testing.assert_allclose(np.square(rows.astype(np.float64)).mean(1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.corrcoef(rows[0], drawn)[0, 1] if dim > 2 else 1.0, 1.0, rtol=1e-5)


def test_a_walk_through_the_middle_of_the_sphere_is_finite():
    a = np.ones((2, 4), np.float32)
    path = latents.interpolate_styled(a, -a, 3)
    assert np.isfinite(path).all()


def test_the_noise_of_steps_is_a_function_of_seed_and_step_and_none_of_the_latent_s_numbers():
    first = latents.step_noise(7, 0, (1000,))
    np.testing.assert_array_equal(latents.step_noise(7, 0, (1000,)), first)
    drawn, _ = latents.from_seed(7, (1000,), 10)
    others = [drawn, latents.step_noise(7, 1, (1000,)), latents.step_noise(8, 0, (1000,))]
    assert all(abs(np.corrcoef(first, other)[0, 1]) < 0.15 for other in others)
    np.testing.assert_array_equal(latents.from_seed(7, (1000,), 10)[0], drawn)
    assert abs(first.mean()) < 0.1
    assert abs(first.std() - 1) < 0.1
