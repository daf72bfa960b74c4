"""Measuring text-to-image networks: bits per code, and what is seen in pictures drawn for captions never trained on."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.text_to_image import TextToImage
from training import depiction, reconstruction, scenes, words
from training.captioned import ANIMALS, Captioned, CaptionedDataset
from training.illustrator import Illustrator, Manner
from training.judge import Judge
from training.scenes import Scene

WATCHED = 200  # pictures of each kind in a look at a running training
CODED = 1000  # pictures of each kind whose codes are predicted in the end
BATCH = 100
DRAWN = 2  # pictures of every held-out combination and size
TRIED = 4  # one in so many of the seen combinations is drawn at every size, to choose a manner by
NAMED = 400  # emoji, spread evenly over all of them
CANDIDATES = 4  # of which the likeliest is taken, where one is
COLUMNS, ROWS = 10, 4  # of each kind in a grid
METRICS = (
    "animal_found",
    "colours_found",
    "emoji_found",
    "animal_found_best",
    "colours_found_best",
    "bits_per_code",
    "bits_per_code_emoji",
    "animal_found_real",
    "colours_found_real",
    "animal_found_codes",
    "colours_found_codes",
)
CHOOSING = ("animal_found", "colours_found", "emoji_found")  # by whose product a manner is chosen
MEANINGS = {
    "animal_found": "share of pictures drawn for held-out captions in which the judge finds the animal asked for",
    "colours_found": "share in which the animal and the background have the colours asked for",
    "emoji_found": "share of pictures drawn for emoji by their names that are nearer to that emoji than to any other",
    "animal_found_best": f"share of animals found in the best of {CANDIDATES} candidates, by the caption's likelihood",
    "colours_found_best": "likewise for the colours",
    "bits_per_code": "bits needed for a code of a held-out scene behind its caption (lower is better)",
    "bits_per_code_emoji": "the same of the emoji, which the training has seen",
    "animal_found_real": "share of held-out real scenes in which the judge finds the animal",
    "colours_found_real": "share of them in which the colours are found",
    "animal_found_codes": "the same of these scenes through the codes of the decoder: what perfect codes would score",
    "colours_found_codes": "likewise for the colours",
}


@dataclass(frozen=True)
class Illustrated:
    """What was measured.

    Attributes:
        metrics: the names of `METRICS` but the bits, those of pictures drawn in the best manner.
        curve: shares of animals, colours and emoji found in each manner of drawing, for captions that were trained on.
        manner: the best of them.
        count: pictures drawn for held-out captions.
        tried: pictures of scenes drawn in each manner.
    """

    metrics: dict[str, float]
    curve: list[dict[str, float]]
    manner: Manner
    count: int
    tried: int


def measure(
    illustrator: Illustrator, dataset: CaptionedDataset, judge: Judge, manners: Sequence[Manner], seed: int = 0
) -> Illustrated:
    """Draw pictures of all held-out combinations in the best manner, and look at them and at real ones.

    The best manner is that in which most is found for captions that were trained on, the shares of animals, of colours
    and of emoji multiplied: what is held out chooses nothing. Guidance that helps scenes spoils emoji, which are known
    by heart.
    """
    tried = [Scene(one, size) for one in dataset.seen[::TRIED] for size in scenes.SIZES]
    curve = [
        {
            **asdict(manner),
            **_found(illustrator.draw(_captions(dataset, tried), manner, seed), tried, judge),
            "emoji_found": emoji_found(illustrator, dataset, manner, seed),
        }
        for manner in manners
    ]
    best = max(curve, key=lambda point: math.prod(point[name] for name in CHOOSING))
    manner = manners[curve.index(best)]
    asked = [Scene(one, size) for one in dataset.held_out for size in scenes.SIZES for _ in range(DRAWN)]
    captions = _captions(dataset, asked)
    found = {**_found(illustrator.draw(captions, manner, seed), asked, judge), "emoji_found": best["emoji_found"]}
    picked = illustrator.draw_best(captions[::DRAWN], manner, seed, CANDIDATES)
    found |= {f"{what}_best": share for what, share in _found(picked, asked[::DRAWN], judge).items()}
    metrics = {**found, **_real(illustrator, dataset, judge)}
    return Illustrated(metrics, curve, manner, len(asked), len(tried))


def _captions(dataset: CaptionedDataset, asked: Sequence[Scene]) -> Tensor:
    return tokens(dataset, [scene.caption() for scene in asked])


def _found(samples: Tensor, asked: Sequence[Scene], judge: Judge) -> dict[str, float]:
    """Share of animals and of colours that are found in pictures of what was asked for."""
    return depiction.agreement(depiction.look(samples, judge), asked, ANIMALS)


def emoji_found(illustrator: Illustrator, dataset: CaptionedDataset, manner: Manner, seed: int) -> float:
    """Share of emoji, drawn by their names, that are nearer to their own picture than to that of any other emoji."""
    chosen = _spread(len(dataset.named), min(NAMED, len(dataset.named)))
    drawn = illustrator.draw(tokens(dataset, [dataset.named[place] for place in chosen]), manner, seed)
    real = torch.cat([batch.samples for batch in reconstruction.batches(dataset.emoji)])
    distances = torch.cdist(drawn.flatten(1), real.flatten(1))
    own = distances[torch.arange(len(chosen)), torch.tensor(chosen)]
    return float((own <= distances.min(1).values).double().mean())  # two names may have the same picture


def tokens(dataset: CaptionedDataset, captions: Sequence[str]) -> Tensor:
    """Captions as the network reads them, [N, caption length]."""
    return torch.tensor(words.rows(dataset.tokenizer, captions, dataset.recipe.caption_length))


def _real(illustrator: Illustrator, dataset: CaptionedDataset, judge: Judge) -> dict[str, float]:
    """What is found in held-out scenes, and in the same after a way through the codes."""
    real = torch.cat([batch.samples for batch in reconstruction.batches(dataset.test)])
    model = illustrator.decoder
    coded = [reconstruction.decode(model, reconstruction.encode(model, part)) for part in torch.split(real, BATCH)]
    found: dict[str, float] = {}
    for name, samples in (("real", real), ("codes", torch.cat(coded))):
        found |= {f"{what}_{name}": share for what, share in _found(samples, dataset.asked, judge).items()}
    return found


def output(network: nn.Module, decoder: str) -> dict[str, Any]:
    """What `config.json` says about the meaning of the tokens; `decoder` is the served name of the autoencoder."""
    assert isinstance(network, TextToImage)
    return {
        "kind": "image",
        "decoder": decoder,
        "tokens": network.max_length - network.prompt_tokens,
        "prompt_tokens": network.prompt_tokens,
        "pad_token_id": network.padding,
    }


@torch.no_grad()
def bits_per_code(illustrator: Illustrator, dataset: CaptionedDataset, *, limit: int | None = None) -> dict[str, float]:
    """Of held-out scenes and of emoji, at most `limit` of each, behind their captions, without guidance."""
    return {
        "bits_per_code": _bits(illustrator, dataset.test, limit),
        "bits_per_code_emoji": _bits(illustrator, dataset.emoji, limit),
    }


def _bits(illustrator: Illustrator, split: Captioned, limit: int | None) -> float:
    likely = []
    for batch in reconstruction.batches(split, limit):
        codes = reconstruction.encode(illustrator.decoder, batch.samples).long().flatten(1)
        likely.append(illustrator.likelihood(batch.labels, codes) / illustrator.codes)
    return -float(torch.cat(likely).mean()) / math.log(2)


def sample_grid(illustrator: Illustrator, dataset: CaptionedDataset, manner: Manner, seed: int = 0) -> Tensor:
    """Pictures of the captions of `shown`, [2 * ROWS * COLUMNS, C, H, W]."""
    return illustrator.draw(tokens(dataset, shown(dataset)), manner, seed)


def shown(dataset: CaptionedDataset) -> list[str]:
    """Captions spread evenly over the held-out combinations, in turn small and large, and over the emoji."""
    count = ROWS * COLUMNS
    sizes = list(scenes.SIZES)
    held_out = [dataset.held_out[place] for place in _spread(len(dataset.held_out), count)]
    asked = [Scene(one, sizes[place % len(sizes)]).caption() for place, one in enumerate(held_out)]
    return asked + [dataset.named[place] for place in _spread(len(dataset.named), count)]


def _spread(total: int, count: int) -> list[int]:
    return torch.linspace(0, total - 1, count).long().tolist()
