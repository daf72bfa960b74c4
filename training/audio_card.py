"""What the card of a network for speech says that the card of a picture model does not, and the clips beside it."""

import io
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models import mu_law
from models.files import write_atomically
from training.listening import Shown
from training.spectrogram import write_spectrograms

PICTURE = "samples.png"
MEANINGS = {
    "bits_per_sample": "bits needed for a sample of the held-out clips, given its past and the transcript",
    "lpc_bits_per_sample": "the same for adaptive linear prediction of order 16",
    "margin": "by how much the peer needs more",
    "lpc_free_bits_per_sample": "the same with coefficients that look ahead and cost nothing",
    "bigram_bits_per_sample": "the same by the sample before alone",
}

NOBODY = (
    "Nobody has listened to these clips: what follows is measured. The network is told characters and a length, no "
    "sounds and no times, and learnt from {minutes:.0f} minutes of speech: take words that it never met for "
    "unintelligible until you have heard them."
)


def speaks(card: Mapping[str, Any]) -> bool:
    """Whether the card is that of a network for speech."""
    return "bits_per_sample" in card.get("metrics", {})


def write_samples(folder: Path, clips: Sequence[Shown]) -> None:
    """Write spectrograms of recordings and of clips side by side, and each clip as a WAV file."""
    rows = [(clip.text, [mu_law.decode(clip.real), mu_law.decode(clip.made)]) for clip in clips]
    write_spectrograms(folder / PICTURE, rows)
    for number, clip in enumerate(clips):
        write_atomically(folder / file_name(number), _wav(clip))


def file_name(number: int) -> str:
    """Of a clip beside the card."""
    return f"sample-{number}.wav"


def _wav(clip: Shown) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, clip.rate, 0, "NONE", ""))
        file.writeframes(np.round(mu_law.decode(clip.made) * (2**15 - 1)).astype("<i2").tobytes())
    return content.getvalue()


def samples(card: Mapping[str, Any]) -> str:
    """The clips, for README.md."""
    how = card["evaluation"]
    rows = ["| clip | told to say | the recording on the left |", "|---|---|---|"]
    for number, shown in enumerate(how["shown"]):
        rows.append(f"| [{file_name(number)}]({file_name(number)}) | {shown['text']} | `{shown['name']}.wav` |")
    said = (
        f"Held-out recordings on the left; on the right what the network says when it is told the same words and the "
        f"same length, at temperature {how['temperature']:g}. The first {len(how['shown'])} held-out clips of "
        f"{how['shortest']:g} to {how['longest']:g} seconds, seeds from 0, none left out. Time to the right, 0 to "
        f"{card['training_data']['sample_rate'] // 2:,} Hz upwards, 60 dB from dark to bright."
    )
    return "\n\n".join([f"![Recordings and clips]({PICTURE})", said, "\n".join(rows)])


def how_measured(card: Mapping[str, Any]) -> str:
    """How the figures were taken."""
    how = card["evaluation"]
    return (
        f"Measured with the committed fp16 weights computed in {how['dtype']} on {how['clips']} whole clips, "
        f"{how['seconds']:.0f} seconds, with transcripts that no clip of the training has: every sample of them, the "
        "first one included, given all samples before it and its transcript. Clips are 8-bit mu-law codes at "
        f"{card['training_data']['sample_rate']:,} Hz, silence at both ends cut down to a tenth of a second. The "
        "predictors see the same codes. lpc_bits_per_sample: coefficients by the autocorrelation method from the last "
        "40 ms, anew every 2.5 ms; the error Laplace, as wide as it was in the last 5 ms; a code is as likely as its "
        "interval. lpc_free_bits_per_sample: coefficients and width fitted, for each 20 ms, to these 20 ms and 10 on "
        "either side, and not charged for: what hardly any coder of this order and frame can reach. The bigram counts "
        "pairs of codes in the training clips."
    )


def intelligibility(card: Mapping[str, Any]) -> str:
    """Whether anybody would understand it, as far as can be said."""
    how = card["evaluation"]
    rows = ["| temperature | distance | nearest to its own prompt | median rank |", "|---|---|---|---|"]
    for row in how["temperatures"]:
        ranked = f"{row['nearest']:.0%} | {row['median_rank']:g}" if "nearest" in row else "|"
        rows.append(f"| {row['temperature']} | {row['distance']:.3g} | {ranked} |")
    said = (
        f"Of {how['made']} held-out prompts at each temperature. distance: Frechet distance of frames, by the "
        "logarithms of the energies of 24 bands, from those of the recordings of the same prompts. nearest: share of "
        f"the clips that of all {how['prompts']} held-out prompts of such lengths sound most like the recording of "
        f"their own words, by dynamic time warping on cepstra; chance is {1 / how['prompts']:.1%}. Told other words: "
        "clips of the same lengths, given another prompt's words, which shows what lengths alone give away. The "
        "temperature of least distance is the one that is served when a request names none."
    )
    return "\n\n".join([NOBODY.format(minutes=how["training_seconds"] / 60), "\n".join(rows), said])


def limits() -> str:
    """What the model is for, and what it is not."""
    return (
        "For demonstrations, tests and teaching of autoregressive models of sound and of the server. One voice, "
        "English, telephone quality, the words and the manner of telephone prompts; numbers are to be written out. "
        "The recordings are of a real speaker, who licensed them for reuse but has not endorsed this: not for passing "
        "off as her, nor for anything that somebody must understand."
    )
