"""The evaluation of language models, beside another one and beside what they started from."""

from pathlib import Path
from typing import Any

from training import card as cards
from training import fluency, temperature
from training.errors import TrainingError
from training.evaluation import Evaluation
from training.text import Corpus
from training.weights import find_folder
from training.writer import Writer, load_writer


def evaluate_writer(writer: Writer, corpus: Corpus, peer: str, origin: str = "") -> Evaluation:
    """Measure a language model on the held-out works, beside its peer and what it started from ("" for none).

    Raises:
        TrainingError: one of these can't be loaded, or the peer was trained on other data.
    """
    texts = fluency.generate(writer.network, writer.tokenizer, range(fluency.WRITTEN))
    bits = fluency.bits_per_byte(writer.network, writer.tokenizer, corpus.test)
    metrics = {"bits_per_byte": bits, "perplexity": fluency.perplexity(bits, corpus.test)}
    how: dict[str, Any] = {
        "bytes": sum(len(work.content.encode()) for work in corpus.test),
        "window": fluency.sequence_model(writer.network).max_length,
        "written": len(texts),
        "dtype": "float32",
        "peer": peer,
        "origin": origin,
    }
    reader = writer
    if origin:
        before = load_writer(find_folder(origin))
        metrics["origin_bits_per_byte"] = fluency.bits_per_byte(before.network, before.tokenizer, corpus.test)
    if peer:
        reader = load_peer(peer, corpus)
        metrics["peer_bits_per_byte"] = fluency.bits_per_byte(reader.network, reader.tokenizer, corpus.test)
        metrics["margin"] = metrics["peer_bits_per_byte"] - bits
        how |= {"peer_digest": reader.digest, "peer_description": reader.description}
    metrics |= fluency.measure_overlap(texts, corpus)
    how |= {"reader": reader.name, "temperatures": temperature.measure(writer, corpus, reader)}
    return Evaluation(cards.rounded(metrics), how, None, tuple(texts))


def load_peer(folder: str, corpus: Corpus) -> Writer:
    """The language model that another one is measured beside.

    Raises:
        TrainingError: it can't be loaded, or was trained on other data.
    """
    peer = load_writer(Path(folder))
    if peer.training_data != corpus.card():
        raise TrainingError(f"{folder}: was trained on other data, or on another split of them")
    return peer
