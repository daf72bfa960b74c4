import math

import pytest
import torch
from torch import nn

from models.gpt import GPT
from training import fluency
from training.errors import TrainingError
from training.fluency import bits_per_byte, generate, grams, overlap
from training.text import Work
from training.tokenizer import SMALLEST, train_tokenizer

BYTES = train_tokenizer([], SMALLEST)


class Uniform(nn.Module):
    """Knows nothing: all tokens are equally likely. Notes what it was shown."""

    def __init__(self, max_length):
        super().__init__()
        self.vocab_size, self.max_length = SMALLEST, max_length
        self.anything = nn.Parameter(torch.zeros(1))
        self.seen = []

    def init_state(self, slots):
        return None

    def prefill(self, tokens, starts, lengths, slots, state):
        return self(tokens)[:, -1]

    def step(self, tokens, positions, span, state):
        return self(tokens[:, None])[:, 0]

    def forward(self, tokens):
        self.seen.append(tokens)
        return torch.zeros(*tokens.shape, self.vocab_size)


class Next(Uniform):
    """Is sure that every byte is followed by the one that comes next in the alphabet."""

    def forward(self, tokens):
        return 50.0 * nn.functional.one_hot((tokens + 1) % self.vocab_size, self.vocab_size).float()


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 40])
@pytest.mark.parametrize("max_length", [2, 8, 9])
def test_every_token_is_counted_once(length, max_length):
    model = Uniform(max_length)
    works = [Work("a", "x" * length), Work("b", "yz")]
    assert bits_per_byte(model, BYTES, works) == pytest.approx(math.log2(SMALLEST))
    assert all(tokens.shape[1] <= max_length for tokens in model.seen)


def test_every_token_has_at_least_half_a_window_before_it():
    tokens, covered = list(range(100)), []
    for rows, fresh in fluency._windows(tokens, 8):
        for row in rows:
            covered += [(token, token - row[0]) for token in row[-fresh:]]
    assert [token for token, _ in covered] == tokens[1:]
    assert all(context >= min(token, 4) for token, context in covered)


def test_bits_are_counted_by_the_byte():
    euro = Work("euro", "€" * 5)
    assert bits_per_byte(Uniform(8), BYTES, [euro]) == pytest.approx(math.log2(SMALLEST))
    merged = train_tokenizer(["€€€€" * 50], SMALLEST + 2)
    model = Uniform(8)
    model.vocab_size = SMALLEST + 2
    tokens = len(merged.encode(euro.content).ids)
    assert tokens == 5
    assert bits_per_byte(model, merged, [euro]) == pytest.approx(tokens * math.log2(SMALLEST + 2) / 15)


def test_bits_are_those_of_the_definition():
    torch.manual_seed(0)
    model = GPT(vocab_size=SMALLEST, max_length=32, width=16, layers=1, heads=2).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(30)
    content = "To be, or not to be: that"
    tokens = torch.tensor([[0, *BYTES.encode(content).ids]])
    chances = model(tokens)[0].log_softmax(-1)
    expected = -sum(chances[i, tokens[0, i + 1]].item() for i in range(len(content))) / math.log(2) / len(content)
    assert bits_per_byte(model, BYTES, [Work("x", content)]) == pytest.approx(expected, rel=1e-5)


def test_a_text_of_a_seed_does_not_depend_on_the_others():
    torch.manual_seed(0)
    model = GPT(vocab_size=SMALLEST, max_length=48, width=16, layers=1, heads=2).eval()
    together = generate(model, BYTES, [0, 1, 2])
    assert [generate(model, BYTES, [seed])[0] for seed in (0, 1, 2)] == together
    assert len(set(together)) == 3


def test_writing_ends_with_the_slot_or_with_the_text():
    prompt = len(fluency.PROMPT.encode()) + 1
    assert generate(Next(prompt + 3), BYTES, [0]) == ["/01"]  # the prompt ends in a full stop
    assert generate(Next(prompt), BYTES, [0]) == [""]
    assert fluency._decode(BYTES, [*BYTES.encode("ab").ids, 0, *BYTES.encode("c").ids]) == "ab"


def test_overlap_counts_runs_of_words():
    known = grams(["To be, or not to be; that is"], 4)
    assert ("to", "be", "or", "not") in known
    assert overlap(["TO BE OR NOT\nto see"], known, 4) == pytest.approx(2 / 3)
    assert overlap(["to be or"], known, 4) == 0
    assert overlap(["'Tis thou'rt here now"], grams(["'tis thou'rt here now"], 4), 4) == 1


def test_overlap_is_given_beside_that_of_held_out_works(texts):
    found = fluency.measure_overlap([texts.corpus.train[0].content], texts.corpus)
    assert found["overlap_4"] == found["overlap_8"] == 1
    assert 0 <= found["overlap_8_held_out"] <= found["overlap_4_held_out"] < 1
    assert found.keys() <= set(fluency.METRICS)


def test_pictures_can_not_be_read():
    with pytest.raises(TrainingError, match="Linear is not a SequenceModel"):
        fluency.sequence_model(nn.Linear(1, 1))
