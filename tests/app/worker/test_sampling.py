"""Each step from logits to tokens against a reference that sorts nothing cleverly and skips nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.engine.jobs import Sampling
from app.worker import sampling

CPU = torch.device("cpu")
VOCAB = 12
NONE = torch.zeros(1, VOCAB, dtype=torch.int32)

logits_of = st.lists(st.integers(-60, 60), min_size=VOCAB, max_size=VOCAB).map(lambda v: np.array(v) / 10)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 5, 11, 12, 40]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
)


def draw(logits, noise, *rows):
    """Tokens of a batch; logits [R, V], noise [R]."""
    made = sampling.as_rows(rows, logits.shape[1], CPU)
    tokens, finite = sampling.sample(torch.tensor(logits, dtype=torch.float32), made, torch.tensor(noise))
    return tokens.tolist(), finite.tolist()


def reference(logits, chosen):
    """The distribution that a row should be drawn from, in float64; its ties lie in the order of the vocabulary."""
    if chosen.temperature == 0:
        out = np.zeros(len(logits))
        out[int(np.argmax(logits))] = 1
        return out
    weights = np.exp((logits - logits.max()) / chosen.temperature)
    probabilities = weights / weights.sum()
    order = sorted(range(len(logits)), key=lambda token: (-probabilities[token], token))
    kept = order[: chosen.top_k or len(order)]
    within, mass, nucleus = sum(probabilities[kept]), 0.0, []
    for token in kept:
        if nucleus and mass >= chosen.top_p * within:
            break
        nucleus.append(token)
        mass += probabilities[token]
    out = np.zeros(len(logits))
    out[nucleus] = probabilities[nucleus]
    out[out < chosen.min_p * out.max()] = 0
    return out / out.sum()


@given(logits_of, samplings, st.floats(0, 1, exclude_max=True))
def test_a_draw_is_the_reference_s(logits, chosen, noise):
    """Up to rounding: a draw within 1e-5 of a token's edge, or a filter within 1e-5 of its threshold, may differ."""
    (token,), (finite,) = draw(logits[None], [noise], chosen)
    assert finite
    wanted = reference(logits, chosen)
    edges = np.cumsum(wanted)
    nearest = {int(np.searchsorted(edges, noise + shift, side="right")) for shift in (-1e-5, 0, 1e-5)}
    if token not in nearest:
        loose = [reference(logits, nudged(chosen, amount)) for amount in (-1e-5, 1e-5)]
        assert any(token == int(np.searchsorted(np.cumsum(other), noise, side="right")) for other in loose)


def nudged(chosen, amount):
    return Sampling(chosen.temperature, chosen.top_k, min(1.0, chosen.top_p + amount), max(0.0, chosen.min_p + amount))


@pytest.mark.parametrize(
    "chosen",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(top_k=3),
        Sampling(top_p=0.8),
        Sampling(min_p=0.2),
        Sampling(temperature=1.5, top_k=8, top_p=0.9, min_p=0.1),
    ],
)
def test_shares_are_the_distribution_s(chosen):
    """A grid of uniform numbers gives each token its share, to the last grid point."""
    logits, grid = np.linspace(-2, 2, VOCAB)[[3, 7, 0, 11, 5, 1, 9, 2, 10, 4, 8, 6]], 4000
    tokens, _ = draw(np.tile(logits, (grid, 1)), (np.arange(grid) + 0.5) / grid, *[chosen] * grid)
    shares = np.bincount(tokens, minlength=VOCAB) / grid
    np.testing.assert_allclose(shares, reference(logits, chosen), atol=1.5 / grid)


def test_greedy_takes_the_first_of_equals_whatever_the_noise():
    logits = np.zeros((3, VOCAB))
    logits[:, [4, 9]] = 7.0
    assert draw(logits, [0.0, 0.5, 0.9999], *[Sampling(temperature=0.0)] * 3)[0] == [4, 4, 4]


def test_filters_never_empty_the_distribution():
    logits = np.zeros((1, VOCAB))
    for chosen in (
        Sampling(top_p=1e-9),
        Sampling(top_k=1),
        Sampling(min_p=1.0),
        Sampling(top_k=1, top_p=1e-9, min_p=1),
    ):
        assert draw(logits, [0.99999], chosen)[1] == [True]
    assert draw(logits, [0.99999], Sampling(top_k=1))[0] == [0]


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-6, 100.0])
def test_extreme_temperatures_are_still_distributions(temperature):
    logits = np.array([[1.0, 50.0, -70.0, 49.0]])
    tokens, finite = draw(logits, [0.5], Sampling(temperature=temperature))
    assert finite == [True]
    assert temperature > 1 or tokens == [1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("chosen", [Sampling(), Sampling(top_k=3, min_p=0.1)])
def test_a_row_that_is_not_finite_is_told_and_its_neighbours_are_not(value, chosen):
    logits = np.zeros((3, VOCAB))
    logits[1, 5] = value
    assert draw(logits, [0.1, 0.1, 0.1], *[chosen] * 3)[1] == [True, False, True]


def test_minus_infinity_forbids_a_token():
    logits = np.full((2, VOCAB), -np.inf)
    logits[:, 3] = 0
    assert draw(logits, [0.0, 0.999], Sampling(), Sampling(temperature=0.0)) == ([3, 3], [True, True])


@given(st.lists(st.tuples(logits_of, samplings, st.floats(0, 1, exclude_max=True)), min_size=2, max_size=6))
def test_batch_mates_never_change_a_row(rows):
    """A filter that only a neighbour asks for leaves the other rows' tokens as they are alone."""
    logits = np.stack([row[0] for row in rows])
    together, _ = draw(logits, [row[2] for row in rows], *[row[1] for row in rows])
    alone = [draw(row[0][None], [row[2]], row[1])[0][0] for row in rows]
    assert together == alone


def test_the_tail_is_kept_where_no_filter_is_on():
    """A neighbour's top-k must not cost an unfiltered row the tokens that rounding would drop."""
    logits = np.zeros((2, 1000))
    logits[:, 0] = 30.0
    last = 1 - 2.0**-53
    alone, _ = draw(logits[:1], [last], Sampling(temperature=5.0))
    together, _ = draw(logits, [last, 0.5], Sampling(temperature=5.0), Sampling(top_k=1))
    assert together == [alone[0], 0]
    assert alone == [999]


# penalties


def penalised(logits, chosen, prompt=(), generated=()):
    seen, counts = torch.zeros(1, VOCAB, dtype=torch.bool), torch.zeros(1, VOCAB, dtype=torch.int32)
    seen[0, list(prompt)] = True
    for token in generated:
        counts[0, token] += 1
    rows = sampling.as_rows([chosen], VOCAB, CPU)
    return sampling.penalise(torch.tensor(logits, dtype=torch.float32)[None], rows, seen, counts)[0].tolist()


tokens_of = st.lists(st.integers(0, VOCAB - 1), max_size=20)


@given(logits_of, tokens_of, tokens_of, st.sampled_from([0.5, 1.0, 1.3]), st.sampled_from([-2, 0, 1.5]), st.just(0.7))
def test_penalties_are_the_textbook_s(logits, prompt, generated, repetition, frequency, presence):
    chosen = Sampling(repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence)
    wanted = []
    for token, logit in enumerate(logits):
        if token in prompt or token in generated:
            logit = logit / repetition if logit > 0 else logit * repetition
        count = generated.count(token)
        wanted.append(logit - frequency * count - presence * (count > 0))
    np.testing.assert_allclose(penalised(logits, chosen, prompt, generated), wanted, rtol=1e-5, atol=1e-5)


def test_neutral_penalties_keep_every_bit():
    logits = np.random.default_rng(0).normal(size=VOCAB).astype(np.float32)
    assert penalised(logits, Sampling(), range(6), [1, 1, 7]) == logits.tolist()
    assert not Sampling().penalised
    assert all(
        Sampling(**{field: 0.5}).penalised for field in ("repetition_penalty", "frequency_penalty", "presence_penalty")
    )


# noise


def noise(seeds, positions):
    return sampling.uniforms(np.array(seeds, np.uint64), np.array(positions, np.uint64))


def test_noise_is_pinned():
    """SplitMix64 is a published algorithm; these are its numbers, and a change of them would break every seed."""
    assert sampling._mix(np.array([sampling.GOLDEN]))[0] == 0xE220A8397B1DCDAF  # its first output from state 0
    assert noise([0, 0, 1, 7, 2**53 - 1], [0, 1, 1, 511, 1_000_000]).tolist() == [
        0.28176129772258496, 0.6524484863740322, 0.36818951565166946, 0.03307800918154369, 0.34869200137286704,
    ]  # fmt: skip


def slow_uniform(seed, position):
    """The same in Python's own integers."""

    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    return (mix((mix((seed + golden) % 2**64) + position * golden) % 2**64) >> 11) * 2.0**-53


@given(st.integers(0, 2**53 - 1), st.integers(0, 1 << 20))
def test_noise_is_a_function_of_seed_and_position_alone(seed, position):
    alone = noise([seed], [position])[0]
    among = noise([[1], [seed], [2]], [[position, 5]] * 3)[1, 0]
    assert alone == among == slow_uniform(seed, position)
    assert 0 <= alone < 1


@pytest.mark.parametrize("axis", ["seeds", "positions"])
def test_noise_is_uniform_and_uncorrelated(axis):
    """Neighbouring seeds and neighbouring positions, which is how both are used."""
    count = 20_000
    along = np.arange(count)
    values = noise(along, np.full(count, 9)) if axis == "seeds" else noise(np.full(count, 9), along)
    assert len(np.unique(values)) == count
    assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * count)
    shares = np.bincount((values * 64).astype(int), minlength=64)
    assert ((shares - count / 64) ** 2 / (count / 64)).sum() < 130  # chi square, 63 degrees of freedom: p = 1e-6
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 5 / np.sqrt(count)


# log probabilities


def test_log_probabilities_are_the_network_s_own():
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(0))
    wanted = logits.double().numpy()
    wanted = wanted - np.log(np.exp(wanted).sum(axis=1, keepdims=True))
    chosen, best, which = sampling.log_probabilities(logits, torch.tensor([2, 0, 11]), 4)
    np.testing.assert_allclose(chosen.numpy(), wanted[[0, 1, 2], [2, 0, 11]], rtol=1e-5)
    assert which.tolist() == np.argsort(-wanted, axis=1)[:, :4].tolist()
    np.testing.assert_allclose(best.numpy(), np.sort(wanted, axis=1)[:, ::-1][:, :4], rtol=1e-5)


def test_no_likeliest_tokens_when_none_are_asked_for():
    _, best, which = sampling.log_probabilities(torch.zeros(2, VOCAB), torch.tensor([0, 1]), 0)
    assert best.shape == which.shape == (2, 0)
