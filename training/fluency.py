"""Measuring language models on texts: what evaluation, watching a run and publishing share.

Knows sequence models, tokenizers and works; knows nothing of runs, recipes or files.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.protocols import SequenceModel
from training.errors import TrainingError
from training.text import Corpus, Work
from training.tokenizer import end_of_text

TOKENS = 4096  # of one forward pass, in as many windows as that makes
PROMPT = "ACT II.\n\nSCENE I."
TEMPERATURE = 0.8
LENGTH = 512  # tokens of a text with its prompt, at most
WRITTEN = 16  # texts that are compared with the training texts
GRAMS = (4, 6, 8)  # words in a run
WORD = re.compile(r"[A-Za-z']+")
COUNTED = re.compile(r"\w+(?:'\w+)*|[^\w\s]|\n")  # a word with its apostrophes, a mark, a line end

METRICS = (
    "bits_per_byte",
    "perplexity",
    "origin_bits_per_byte",
    "peer_bits_per_byte",
    "margin",
    *(f"overlap_{n}{whose}" for n in GRAMS for whose in ("", "_held_out")),
)


def sequence_model(model: nn.Module) -> SequenceModel:  # type: ignore[type-arg]  # whatever its state is
    """The network as what it must be to write.

    Raises:
        TrainingError: it is not a `SequenceModel`.
    """
    if not isinstance(model, SequenceModel):
        raise TrainingError(f"{type(model).__name__} is not a SequenceModel: it can't write texts")
    return model


def bits_per_byte(model: nn.Module, tokenizer: Tokenizer, works: Sequence[Work]) -> float:
    """How many bits the model needs for a byte of these works: lower is better.

    The sum of -log2 p(token | tokens before it) over all tokens of all works, divided by the number of bytes of their
    UTF-8 texts; so models with different tokenizers can be compared. Each work stands alone, after one end-of-text
    token that is read and not counted. Windows of the model's `max_length` slide over it by half their length: every
    token is predicted exactly once, after at least half a window of context (or all there is, near the beginning).
    """
    bits = sum(_bits(model, [end_of_text(tokenizer), *tokenizer.encode(work.content).ids]) for work in works)
    return bits / sum(len(work.content.encode()) for work in works)


def perplexity(bits: float, works: Sequence[Work]) -> float:
    """What so many bits per byte mean for a word: 2 to the power of its bits. Models with other tokens can be compared.

    Marks and line ends count as words. A word that takes several tokens costs what all of them cost: nothing is left
    out because it has no token of its own.
    """
    words = sum(len(COUNTED.findall(work.content)) for work in works)
    return float(2 ** (bits * sum(len(work.content.encode()) for work in works) / words))


@torch.no_grad()
def _bits(model: nn.Module, tokens: list[int]) -> float:
    """Bits of all tokens but the first."""
    device = next(model.parameters()).device
    total = 0.0
    for rows, fresh in _windows(tokens, sequence_model(model).max_length):
        window = torch.tensor(rows, device=device)
        logits = model(window[:, :-1]).float()
        nats = F.cross_entropy(logits.transpose(1, 2), window[:, 1:], reduction="none")
        total += float(nats[:, -fresh:].double().sum())
    return total / math.log(2)


def _windows(tokens: list[int], length: int) -> Iterator[tuple[list[list[int]], int]]:
    """Windows of up to `length` + 1 tokens, in groups of equal shape; and how many tokens at their ends are new."""
    stride = max(1, length // 2)
    first = tokens[: length + 1]
    yield [first], len(first) - 1
    done, rows = len(first), []
    while done + stride <= len(tokens):
        done += stride
        rows.append(tokens[done - length - 1 : done])
    together = max(1, TOKENS // length)
    for i in range(0, len(rows), together):
        yield rows[i : i + together], stride
    if done < len(tokens):
        yield [tokens[-length - 1 :]], len(tokens) - done


@torch.no_grad()
def generate(
    model: nn.Module, tokenizer: Tokenizer, seeds: Sequence[int], temperature: float = TEMPERATURE
) -> list[str]:
    """What the model writes after `PROMPT`, a text a seed: until the text ends, or is `LENGTH`, or the slot is full.

    Noise is from a generator for each seed, so that a text does not depend on the others that are written beside it.
    """
    network, device = sequence_model(model), next(model.parameters()).device
    prompt = [end_of_text(tokenizer), *tokenizer.encode(PROMPT).ids]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    rows, count = range(len(seeds)), len(seeds)
    tokens = torch.tensor([prompt] * count, device=device)
    state = network.init_state(count)
    logits = network.prefill(tokens, [0] * count, [len(prompt)] * count, rows, state)
    length = min(LENGTH, network.max_length)
    for position in range(len(prompt), length):
        chosen = _draw(logits, generators, temperature).to(device)
        tokens = torch.cat([tokens, chosen[:, None]], 1)
        if position + 1 < length:
            logits = network.step(chosen, torch.full_like(chosen, position), position + 1, state)
    return [_decode(tokenizer, row) for row in tokens[:, len(prompt) :].tolist()]


def _draw(logits: Tensor, generators: Sequence[torch.Generator], temperature: float) -> Tensor:
    """One token a row, [R], by the probabilities of logits [R, V]."""
    chances = (logits.float().cpu() / temperature).softmax(-1)
    drawn = [torch.multinomial(row, 1, generator=own) for row, own in zip(chances, generators, strict=True)]
    return torch.cat(drawn)


def _decode(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """The text before its end."""
    end = end_of_text(tokenizer)
    return tokenizer.decode(tokens[: tokens.index(end)] if end in tokens else tokens)


def grams(texts: Iterable[str], n: int) -> set[tuple[str, ...]]:
    """All runs of n words of these texts, in lower case and without punctuation."""
    return {gram for text in texts for gram in runs(text, n)}


def runs(text: str, n: int) -> list[tuple[str, ...]]:
    """The runs of n words of a text, in lower case and without punctuation."""
    words = [word.lower() for word in WORD.findall(text)]
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def overlap(texts: Iterable[str], known: set[tuple[str, ...]], n: int) -> float:
    """Share of the runs of n words of these texts that are among the known ones; 0 when there are no runs."""
    found = [run for text in texts for run in runs(text, n)]
    return sum(run in known for run in found) / max(1, len(found))


def measure_overlap(written: Sequence[str], corpus: Corpus) -> dict[str, float]:
    """Overlap with the training texts of what the model wrote, beside that of the held-out works."""
    found = {}
    for n in GRAMS:
        known = grams((work.content for work in corpus.train), n)
        found[f"overlap_{n}"] = overlap(written, known, n)
        found[f"overlap_{n}_held_out"] = overlap((work.content for work in corpus.test), known, n)
    return found
