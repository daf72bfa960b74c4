"""What the card of a network for speech says that the card of a picture model does not."""

from collections.abc import Mapping
from typing import Any

MEANINGS = {
    "bits_per_sample": "bits needed for a sample of the held-out clips, given its past and the transcript",
    "lpc_bits_per_sample": "the same for adaptive linear prediction of order 16",
    "margin": "by how much the peer needs more",
    "lpc_free_bits_per_sample": "the same with coefficients that look ahead and cost nothing",
    "bigram_bits_per_sample": "the same by the sample before alone",
}


def speaks(card: Mapping[str, Any]) -> bool:
    """Whether the card is that of a network for speech."""
    return "bits_per_sample" in card.get("metrics", {})


def how_measured(card: Mapping[str, Any]) -> str:
    """How the figures were taken."""
    how = card["evaluation"]
    return (
        f"Measured with the committed fp16 weights computed in {how['dtype']} on {how['clips']} whole clips, "
        f"{how['seconds']:.0f} seconds, with transcripts that no clip of the training has: every sample of them, the "
        "first one included, given all samples before it and its transcript. Clips are 8-bit mu-law codes at "
        f"{card['training_data']['sample_rate']:,} Hz, silence at both ends cut down to a tenth of a second."
    )
