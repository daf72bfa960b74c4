"""What a network for speech makes of recordings: bits a sample, beside those of simple predictors.

Knows networks and clips; knows nothing of runs, recipes or files.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from models import mu_law
from models.wavenet import WaveNet
from training import prediction
from training.speech import Clip, SpeechDataset

BIT = math.log(2)
METRICS = ("bits_per_sample", "lpc_bits_per_sample", "margin", "lpc_free_bits_per_sample", "bigram_bits_per_sample")


@torch.no_grad()
def bits_per_sample(network: WaveNet, clips: Sequence[Clip]) -> float:
    """Mean of -log2 p(sample | all samples before it, transcript) over every sample of the clips."""
    nats = math.fsum(_nats(network, clip) for clip in clips)
    return nats / BIT / sum(len(clip.codes) for clip in clips)


def _nats(network: WaveNet, clip: Clip) -> float:
    """Of one clip, summed."""
    device = network.tell.weight.device
    frames = network.transcript(clip.characters.to(device), clip.frames)
    logits = network(clip.inputs.to(device), [len(clip.codes)], frames)
    return F.cross_entropy(logits.float(), clip.targets.to(device), reduction="sum").item()


def measure(network: WaveNet, dataset: SpeechDataset) -> dict[str, float]:
    """The metrics of `METRICS` on the held-out clips, every sample given its own past."""
    held_out = [clip.codes for clip in dataset.test]
    bits, lpc = bits_per_sample(network, dataset.test), prediction.backward_lpc_bits(held_out)
    return {
        "bits_per_sample": bits,
        "lpc_bits_per_sample": lpc,
        "margin": lpc - bits,
        "lpc_free_bits_per_sample": prediction.forward_lpc_bits(held_out),
        "bigram_bits_per_sample": prediction.bigram_bits([clip.codes for clip in dataset.train.clips], held_out),
    }


def output(dataset: SpeechDataset) -> dict[str, Any]:
    """What a service must know to speak: the rate, the characters, and how long a character takes, on average."""
    clips, recipe = dataset.train.clips, dataset.recipe
    samples, characters = sum(len(clip.codes) for clip in clips), sum(len(clip.text) for clip in clips)
    return {
        "kind": "audio",
        "sample_rate": recipe.sample_rate,
        "encoding": "mu-law",
        "characters": recipe.characters,
        "samples_per_character": round(samples / characters),
        "start_token_id": mu_law.SILENCE,
    }
