"""What the card of a language model says that the card of a picture model does not."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from training import temperature
from training.fluency import GRAMS, PROMPT, TEMPERATURE

SAMPLES_FILE = "samples.txt"
SHOWN = 3  # texts in the card; all are in SAMPLES_FILE
SEPARATOR = re.compile(r"(?:\A|\n)===== seed \d+\n")

MEANINGS = {
    "bits_per_byte": "bits needed for a byte of the held-out works (lower is better)",
    "perplexity": "the same for a word, a mark or a line end, whatever its spelling takes: 2 to the power of its bits",
    "origin_bits_per_byte": "bits per byte before this training, of the model that it started from",
    "peer_bits_per_byte": "bits per byte of the peer, on the same works",
    "margin": "by how much the peer needs more; below 0: less",
    **{f"overlap_{n}": f"share of the runs of {n} words written that stand in the training texts" for n in GRAMS},
    **{f"overlap_{n}_held_out": "the same for the held-out works" for n in GRAMS},
}


def writes(card: Mapping[str, Any]) -> bool:
    """Whether the card is that of a language model."""
    return "bits_per_byte" in card.get("metrics", {})


def all_samples(texts: Sequence[str]) -> str:
    """The content of samples.txt."""
    return "\n".join(f"===== seed {seed}\n{PROMPT}{text}\n" for seed, text in enumerate(texts))


def read_samples(content: str) -> list[str]:
    """The texts of samples.txt again."""
    return [part.removeprefix(PROMPT).removesuffix("\n") for part in SEPARATOR.split(content)[1:]]


def samples(texts: Sequence[str]) -> str:
    """The first texts, for README.md."""
    shown = [f"Seed {seed}:\n\n```text\n{PROMPT}{text}\n```" for seed, text in enumerate(texts[:SHOWN])]
    intro = (
        f"Unpicked samples, seeds 0 to {len(shown) - 1}, temperature {TEMPERATURE}, no truncation, after the prompt "
        f"`{PROMPT!r}`; {len(texts)} are in {SAMPLES_FILE}."
    )
    return "\n\n".join([intro, *shown])


def how_measured(card: Mapping[str, Any]) -> str:
    """How the figures were taken."""
    how = card["evaluation"]
    said = (
        f"Measured with the committed fp16 weights computed in {how.get('dtype', 'float32')} on {how['bytes']:,} bytes "
        "of whole works that neither the training nor its tokenizer has seen: "
        f"{', '.join(card['training_data']['held_out'])}. Windows of {how['window']} tokens slide by half: every token "
        f"is predicted once, with at least half a window before it. Overlap is that of {how['written']} unpicked "
        "texts, words in lower case without punctuation."
    )
    if how["peer"]:
        said += (
            f" The peer is `{how['peer']}` (digest {how['peer_digest']}), trained on the same works. "
            f"{how.get('peer_description', '')}"
        ).rstrip()
    return said


def precisions(record: Mapping[str, Any]) -> str:
    """What each precision costs, as `training.perplexity` measured it."""
    against = record["against"]
    rows = [
        f"| computed in | perplexity of a token | against {against} | bits a byte | served |",
        "|---|---|---|---|---|",
    ]
    for dtype, found in record["precisions"].items():
        change = f"{100 * (found['ratio'] - 1):+.2f} %"
        figures = f"{found['perplexity']:.3f} | {change} | {found['bits_per_byte']:.4f}"
        rows.append(f"| {dtype} | {figures} | {'yes' if found['served'] else 'no'} |")
    half, most = record["context"][0], 100 * (record["limit"] - 1)
    return "\n".join(rows) + (
        f"\n\nMeasured as it is served: weights packed for a CPU, {half} tokens of a window read as a prompt, the next "
        f"{half} one by one; {record['tokens']:,} tokens ({record['bytes']:,} bytes) of {', '.join(record['texts'])}. "
        f"A precision that costs more than {most:.0f} % of {against}'s perplexity is not served."
    )


def limits() -> str:
    """What the model is for, and what it is not."""
    return (
        "For demonstrations, tests and teaching of generative models and of the server. It writes in the manner of "
        "plays of about 1600: forms and short phrases are right, sense beyond a line or two is not. It knows nothing "
        "of facts and can't answer or follow instructions. Its texts carry the views and the insults of their time. "
        "Prompts outside plain English text are read byte by byte and answered badly."
    )


def temperatures(card: Mapping[str, Any]) -> str:
    """The table of temperatures; "" in the card of a model that was measured without it."""
    how = card["evaluation"]
    return temperature.section(how["temperatures"], how["reader"]) if "temperatures" in how else ""
