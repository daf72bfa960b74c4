"""What the card of a language model says that the card of a picture model does not."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.fluency import GRAMS, PROMPT, TEMPERATURE

SHOWN = 3  # texts in the card; all are in samples.txt

MEANINGS = {
    "bits_per_byte": "bits needed for a byte of the held-out works (lower is better)",
    "peer_bits_per_byte": "the same for the peer, on the same works",
    "margin": "by how much the peer needs more",
    **{f"overlap_{n}": f"share of the runs of {n} words written that stand in the training texts" for n in GRAMS},
    **{f"overlap_{n}_held_out": "the same for the held-out works" for n in GRAMS},
}


def writes(card: Mapping[str, Any]) -> bool:
    """Whether the card is that of a language model."""
    return "bits_per_byte" in card.get("metrics", {})


def all_samples(texts: Sequence[str]) -> str:
    """The content of samples.txt."""
    return "\n".join(f"===== seed {seed}\n{PROMPT}{text}\n" for seed, text in enumerate(texts))


def samples(texts: Sequence[str]) -> str:
    """The first texts, for README.md."""
    shown = [f"Seed {seed}:\n\n```text\n{PROMPT}{text}\n```" for seed, text in enumerate(texts[:SHOWN])]
    intro = (
        f"Unpicked samples, seeds 0 to {len(shown) - 1}, temperature {TEMPERATURE}, no truncation, after the prompt "
        f"`{PROMPT!r}`; {len(texts)} are in samples.txt."
    )
    return "\n\n".join([intro, *shown])


def how_measured(card: Mapping[str, Any]) -> str:
    """How the figures were taken."""
    how = card["evaluation"]
    said = (
        f"Measured with the committed fp16 weights computed in float32 on {how['bytes']:,} bytes of whole works that "
        f"neither the training nor its tokenizer has seen: {', '.join(card['training_data']['held_out'])}. Windows of "
        f"{how['window']} tokens slide by half: every token is predicted once, with at least half a window before it. "
        f"Overlap is that of {how['written']} unpicked texts, words in lower case without punctuation."
    )
    if how["peer"]:
        said += (
            f" The peer is `{how['peer']}` (digest {how['peer_digest']}): our network and loop with the "
            "hyper-parameters that nanoGPT's README gives for a CPU, trained on the same works."
        )
    return said


def limits() -> str:
    """What the model is for, and what it is not."""
    return (
        "For demonstrations, tests and teaching of generative models and of the server. It writes in the manner of "
        "plays of about 1600: forms and short phrases are right, sense beyond a line or two is not. It knows nothing "
        "of facts and can't answer or follow instructions. Its texts carry the views and the insults of their time. "
        "Prompts outside plain English text are read byte by byte and answered badly."
    )
