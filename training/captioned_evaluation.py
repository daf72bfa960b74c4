"""The evaluation of networks for captioned pictures: discrete autoencoders, and what draws their codes for captions."""

import copy
from collections.abc import Sequence
from dataclasses import replace

from models.checkpoint import Checkpoint
from models.precision import pack
from models.text_to_image import TextToImage
from models.vq import VQVAE
from training import card as cards
from training import illustration, reconstruction
from training.captioned import CaptionedDataset
from training.evaluation import Evaluation
from training.illustrator import Illustrator, Manner, check_fit, decoder_of
from training.judge import Judge
from training.quality import SERVED_DTYPE


def evaluate_vq(loaded: Checkpoint, dataset: CaptionedDataset) -> Evaluation:
    """Measure a discrete autoencoder on scenes that were held out, and on all emoji."""
    assert isinstance(loaded.model, VQVAE)
    how = {"scenes": len(dataset.test), "emoji": len(dataset.emoji), "dtype": "float32"}
    metrics = reconstruction.measure(loaded.model, dataset)
    return Evaluation(cards.rounded(metrics), how, reconstruction.sample_grid(loaded.model, dataset))


def evaluate_text_to_image(
    loaded: Checkpoint, decoder: Checkpoint, dataset: CaptionedDataset, judge: Judge, manners: Sequence[Manner]
) -> Evaluation:
    """Measure a text-to-image network on captions that were held out, drawn in each of these manners.

    The best one is chosen as the network's own.

    Raises:
        TrainingError: the network does not fit the decoder or the data.
    """
    assert isinstance(loaded.model, TextToImage)
    illustrator = Illustrator(loaded.model, decoder_of(decoder))
    check_fit(illustrator.network, illustrator.decoder, dataset)
    bits = illustration.bits_per_code(illustrator, dataset, limit=illustration.CODED)
    served = replace(illustrator, network=copy.deepcopy(loaded.model))
    pack(served.network, "bf16")
    found = illustration.measure(served, dataset, judge, manners)
    how = {
        "count": found.count,
        "tried": found.tried,
        "named": min(illustration.NAMED, len(dataset.named)),
        "scenes": min(len(dataset.test), illustration.CODED),
        "emoji": min(len(dataset.emoji), illustration.CODED),
        "seed": 0,
        "judge": judge.digest,
        "decoder": f"{decoder.name}@{decoder.config.digest[:16]}",
        "dtype": str(SERVED_DTYPE).removeprefix("torch."),
        "curve": [cards.rounded(point) for point in found.curve],
        "temperature": found.manner.temperature,
        "captions": illustration.shown(dataset),
    }
    samples = illustration.sample_grid(served, dataset, found.manner)
    metrics = cards.rounded({**found.metrics, **bits})
    chosen = {"guidance": found.manner.guidance}
    return Evaluation(metrics, how, samples, chosen=chosen, temperature=found.manner.temperature)
