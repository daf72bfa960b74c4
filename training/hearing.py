"""What a network for speech makes of recordings: bits a sample, beside those of simple predictors.

Knows networks and clips; knows nothing of runs, recipes or files.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from models import mu_law
from models.wavenet import WaveNet
from training import prediction
from training.speech import Clip, Piece, SpeechDataset

BIT = math.log(2)
FRAMES = 400  # are read at once, so that memory does not grow with a clip
METRICS = ("bits_per_sample", "lpc_bits_per_sample", "margin", "lpc_free_bits_per_sample", "bigram_bits_per_sample")


@torch.no_grad()
def bits_per_sample(network: WaveNet, clips: Sequence[Clip]) -> float:
    """Mean of -log2 p(sample | all samples before it, transcript) over every sample of the clips."""
    nats = math.fsum(part for clip in clips for part in _nats(network, clip))
    return nats / BIT / sum(len(clip.codes) for clip in clips)


def _nats(network: WaveNet, clip: Clip) -> Iterator[float]:
    """Of one clip, summed over so many frames each, which are read together with all that they depend on."""
    device = network.tell.weight.device
    frames = network.transcript(clip.characters.to(device), clip.frames)
    before = -(-network.receptive_field // clip.hop)
    for first in range(0, clip.frames, FRAMES):
        begin, end = max(0, first - before), min(first + FRAMES, clip.frames)
        piece = Piece(clip, begin, end - begin)
        logits = network(clip.inputs[piece.samples].to(device), [piece.frames * clip.hop], frames[begin:end])
        counted = slice((first - begin) * clip.hop, None)
        targets = clip.targets[piece.samples].to(device)
        yield F.cross_entropy(logits[counted].float(), targets[counted], reduction="sum").item()


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


def how(dataset: SpeechDataset) -> dict[str, Any]:
    """On what the metrics are measured."""
    return {
        "clips": len(dataset.test),
        "seconds": _seconds(dataset.test),
        "training_seconds": _seconds(dataset.train.clips),
        "dtype": "float32",
    }


def _seconds(clips: Sequence[Clip]) -> float:
    return round(sum(len(clip.codes) / clip.rate for clip in clips), 1)


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
