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
    return sampling.sample(torch.tensor(logits, dtype=torch.float32), made, torch.tensor(noise)).tolist()


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
    (token,) = draw(logits[None], [noise], chosen)
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
    tokens = draw(np.tile(logits, (grid, 1)), (np.arange(grid) + 0.5) / grid, *[chosen] * grid)
    shares = np.bincount(tokens, minlength=VOCAB) / grid
    np.testing.assert_allclose(shares, reference(logits, chosen), atol=1.5 / grid)


def test_greedy_takes_the_first_of_equals_whatever_the_noise():
    logits = np.zeros((3, VOCAB))
    logits[:, [4, 9]] = 7.0
    assert draw(logits, [0.0, 0.5, 0.9999], *[Sampling(temperature=0.0)] * 3) == [4, 4, 4]


def test_filters_never_empty_the_distribution():
    logits = np.zeros((1, VOCAB))
    for chosen in (
        Sampling(top_p=1e-9),
        Sampling(top_k=1),
        Sampling(min_p=1.0),
        Sampling(top_k=1, top_p=1e-9, min_p=1),
    ):
        assert draw(logits, [0.99999], chosen)[0] in range(VOCAB if chosen.min_p else 1)
    assert draw(logits, [0.99999], Sampling(top_k=1)) == [0]


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-6, 100.0])
def test_extreme_temperatures_are_still_distributions(temperature):
    logits = np.array([[1.0, 50.0, -70.0, 49.0]])
    tokens = draw(logits, [0.5], Sampling(temperature=temperature))
    assert tokens == [1]


def test_minus_infinity_forbids_a_token():
    logits = np.full((2, VOCAB), -np.inf)
    logits[:, 3] = 0
    assert draw(logits, [0.0, 0.999], Sampling(), Sampling(temperature=0.0)) == [3, 3]


@given(st.lists(st.tuples(logits_of, samplings, st.floats(0, 1, exclude_max=True)), min_size=2, max_size=6))
def test_batch_mates_never_change_a_row(rows):
    """A filter that only a neighbour asks for leaves the other rows' tokens as they are alone."""
    logits = np.stack([row[0] for row in rows])
    together = draw(logits, [row[2] for row in rows], *[row[1] for row in rows])
    alone = [draw(row[0][None], [row[2]], row[1])[0] for row in rows]
    assert together == alone


def test_the_tail_is_kept_where_no_filter_is_on():
    """A neighbour's top-k must not cost an unfiltered row the tokens that rounding would drop."""
    logits = np.zeros((2, 1000))
    logits[:, 0] = 30.0
    last = 1 - 2.0**-53
    alone = draw(logits[:1], [last], Sampling(temperature=5.0))
    together = draw(logits, [last, 0.5], Sampling(temperature=5.0), Sampling(top_k=1))
    assert together == [alone[0], 0]
    assert alone == [999]


LARGE = 20_000  # tokens: more than any number of candidates
KINDS = (
    Sampling(temperature=0.0),
    Sampling(),
    Sampling(min_p=0.01),
    Sampling(top_k=40),
    Sampling(top_k=64),
    Sampling(top_k=1000, top_p=0.9),
    Sampling(top_p=0.5),
    Sampling(temperature=1.5, top_p=0.95),
    Sampling(temperature=3.0, top_p=0.99, min_p=1e-4),
)


def large_logits(rows):
    """Rounded to bfloat16, as a network's are: thousands of them are equal to another one."""
    return (torch.randn(rows, LARGE, generator=torch.Generator().manual_seed(5)) * 3).bfloat16().float().numpy()


@pytest.mark.parametrize("chosen", KINDS[1:])
def test_a_large_vocabulary_is_drawn_from_as_if_all_of_it_were_sorted(chosen, monkeypatch):
    logits, noise = large_logits(6), np.random.default_rng(0).uniform(size=6)
    found = draw(logits, noise, *[chosen] * 6)
    monkeypatch.setattr(sampling, "CANDIDATES", ())
    assert draw(logits, noise, *[chosen] * 6) == found
    for row, token in enumerate(found):
        edges = np.cumsum(reference(logits[row].astype(np.float64), chosen))
        assert token in {int(np.searchsorted(edges, noise[row] + shift, side="right")) for shift in (-1e-4, 0, 1e-4)}


def test_batch_mates_never_change_a_row_of_a_large_vocabulary():
    logits, noise = large_logits(4 * len(KINDS)), np.random.default_rng(1).uniform(size=4 * len(KINDS))
    together = draw(logits, noise, *KINDS * 4)
    assert together == [draw(logits[i : i + 1], noise[i : i + 1], kind)[0] for i, kind in enumerate(KINDS * 4)]


def test_equals_at_the_end_of_the_candidates_are_kept_in_the_vocabulary_s_order():
    logits = np.zeros((1, LARGE))
    logits[0, LARGE - 30 :] = 5.0
    grid = (np.arange(400) + 0.5) / 400
    tokens = set(draw(np.tile(logits, (400, 1)), grid, *[Sampling(top_k=40)] * 400))
    assert tokens <= {*range(10), *range(LARGE - 30, LARGE)}


# penalties


def penalised(logits, chosen, prompt=(), generated=()):
    seen, counts = torch.zeros(1, VOCAB, dtype=torch.bool), torch.zeros(1, VOCAB, dtype=torch.int32)
    seen[0, list(prompt)] = True
    for token in generated:
        counts[0, token] += 1
    penalties = sampling.as_penalties([chosen], CPU)
    return sampling.penalise(torch.tensor(logits, dtype=torch.float32)[None], penalties, seen, counts)[0].tolist()


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
