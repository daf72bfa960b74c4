"""What the temperature does to what a language model writes: from repeating itself to words that are none.

Knows writers and works; knows nothing of runs or files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from training import fluency
from training.fluency import GRAMS
from training.text import Corpus, Work
from training.writer import Writer

TEMPERATURES = (0.5, 0.7, 0.8, 1.0, 1.2)
TEXTS = 16
VARIETY = 3  # words in a run that should not come again
SAMPLE = 400  # characters of a sample
HELD_OUT = "held-out works"


def measure(writer: Writer, corpus: Corpus, reader: Writer) -> list[dict[str, Any]]:
    """A row a temperature with the beginning of its first text, and one of real works of about the same size.

    Args:
        writer: what is measured.
        corpus: what it was trained on and what was held out.
        reader: whose bits per byte say how likely a text is: another model, or the writer itself.
    """
    train = [work.content for work in corpus.train]
    known = fluency.grams(train, 1), fluency.grams(train, GRAMS[0])
    rows, size = [], 0
    for temperature in TEMPERATURES:
        texts = fluency.generate(writer.network, writer.tokenizer, range(TEXTS), temperature)
        size = max(map(len, texts))
        rows.append({"temperature": temperature, **_row(texts, known, reader), "sample": texts[0][:SAMPLE]})
    real = [part for work in corpus.test for part in _parts(work.content, size)][:TEXTS]
    return [*rows, {"temperature": HELD_OUT, **_row(real, known, reader)}]


Runs = set[tuple[str, ...]]


def _row(texts: Sequence[str], known: tuple[Runs, Runs], reader: Writer) -> dict[str, float]:
    """What shows whether texts repeat themselves, are made of no words, or of somebody else's lines."""
    words, lines = known
    runs = [run for text in texts for run in fluency.runs(text, VARIETY)]
    works = [Work(str(place), text) for place, text in enumerate(texts) if text]
    found = {
        "distinct": len(set(runs)) / max(1, len(runs)),
        "known_words": fluency.overlap(texts, words, 1),
        "overlap": fluency.overlap(texts, lines, GRAMS[0]),
        "reader_bits_per_byte": fluency.bits_per_byte(reader.network, reader.tokenizer, works) if works else 0.0,
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _parts(text: str, size: int) -> list[str]:
    """A text cut into parts of about this many characters at blanks, what is left over at its end dropped."""
    cut = [text[i : i + size] for i in range(0, len(text) - size + 1, size)] if size else []
    return [part[part.find(" ") + 1 : part.rfind(" ")] for part in cut]


def section(rows: Sequence[Mapping[str, Any]], reader: str) -> str:
    """The table and the samples, for README.md."""
    heads = (
        "temperature",
        f"distinct runs of {VARIETY} words",
        "words of the training texts",
        f"runs of {GRAMS[0]} words of the training texts",
        f"bits per byte to `{reader}`",
    )
    lines = [
        f"| {' | '.join(heads)} |",
        "|---|---|---|---|---|",
        *(_line(row) for row in rows),
    ]
    samples = [
        f"Temperature {row['temperature']}:\n\n```text\n{fluency.PROMPT}{row['sample']}\n```"
        for row in rows
        if "sample" in row
    ]
    intro = (
        f"{TEXTS} unpicked texts each, at most {fluency.LENGTH} tokens. Below them the beginnings of the first, seed 0."
    )
    return "\n\n".join([intro, "\n".join(lines), *samples])


def _line(row: Mapping[str, Any]) -> str:
    shares = " | ".join(f"{100 * row[name]:.1f} %" for name in ("distinct", "known_words", "overlap"))
    return f"| {row['temperature']} | {shares} | {row['reader_bits_per_byte']:.3f} |"
