import pytest
import torch
from torch import nn

from training import fluency, temperature
from training.writer import Writer


class Bigrams(nn.Module):
    """Knows how often each token followed each other one."""

    vocab_size, max_length = 280, 64

    def __init__(self, tokens):
        super().__init__()
        counts = torch.full((280, 280), 1e-3)
        counts.index_put_((tokens[:-1], tokens[1:]), torch.ones(len(tokens) - 1), accumulate=True)
        self.logits = nn.Parameter((counts / counts.sum(1, keepdim=True)).log(), requires_grad=False)

    def forward(self, tokens):
        return self.logits[tokens]

    def init_state(self, slots):
        return None

    def prefill(self, tokens, starts, lengths, slots, state):
        return self.logits[tokens[:, -1]]

    def step(self, tokens, positions, span, state):
        return self.logits[tokens]


@pytest.fixture
def writer(texts):
    return Writer("tiny", Bigrams(texts.train.tokens), texts.tokenizer, "0123", {}, "")


@pytest.fixture
def rows(writer, texts):
    return temperature.measure(writer, texts.corpus, writer)


def test_a_row_a_temperature_and_one_of_real_works(rows):
    assert [row["temperature"] for row in rows] == [*temperature.TEMPERATURES, temperature.HELD_OUT]
    assert all(0 <= row[name] <= 1 for row in rows for name in ("distinct", "known_words", "overlap"))
    assert ["sample" in row for row in rows] == [True] * 5 + [False]


def test_heat_makes_texts_unlikely(rows):
    bits = [row["reader_bits_per_byte"] for row in rows[:-1]]
    assert bits == sorted(bits)


def test_repetition_shows(writer):
    row = temperature._row(["no no no no no"], ({("no",)}, set()), writer)
    assert (row["distinct"], row["known_words"]) == (pytest.approx(1 / 3, rel=1e-3), 1)
    assert temperature._row(["", ""], (set(), set()), writer)["reader_bits_per_byte"] == 0


def test_real_works_are_made_of_known_words(rows):
    assert rows[-1]["known_words"] == 1
    assert rows[-1]["overlap"] > max(row["overlap"] for row in rows[:-1])


def test_the_figures_are_those_of_the_texts(writer, texts, rows):
    written = fluency.generate(writer.network, writer.tokenizer, range(temperature.TEXTS), 1.2)
    known = fluency.grams([work.content for work in texts.corpus.train], 4)
    assert rows[4]["overlap"] == pytest.approx(fluency.overlap(written, known, 4), rel=1e-3)
    assert rows[4]["sample"] == written[0][: temperature.SAMPLE]


def test_a_text_is_cut_into_whole_parts():
    assert temperature._parts("a bc def ghi jkl", 7) == ["bc", "ghi"]
    assert temperature._parts("ab", 3) == temperature._parts("ab", 0) == []


def test_the_section_shows_all_rows_and_samples(rows):
    said = temperature.section(rows, "tiny")
    assert said.count("```text") == len(temperature.TEMPERATURES)
    assert "bits per byte to `tiny`" in said
    assert f"| held-out works | {100 * rows[-1]['distinct']:.1f} % | 100.0 % |" in said
    assert rows[0]["sample"] in said
