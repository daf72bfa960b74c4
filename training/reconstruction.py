"""What a discrete autoencoder makes of pictures: how near it comes, and how many of its codes it uses."""

from collections.abc import Iterator

import torch
from torch import Tensor

from models.vq import VQVAE
from training.captioned import Captioned, CaptionedDataset
from training.data import Batch

BATCH = 100
WATCHED = 500  # pictures of each kind in a look at a running training
COLUMNS, ROWS = 10, 4  # of each kind in a grid
METRICS = ("psnr", "psnr_emoji", "used_codes", "code_perplexity")
MEANINGS = {
    "psnr": "peak signal-to-noise ratio of held-out scenes through the codes, dB (higher is better)",
    "psnr_emoji": "the same of the emoji, which the training has seen",
    "used_codes": "codes that these pictures use",
    "code_perplexity": "exponential of the entropy of their use: as many codes, used equally often, say as much",
}


@torch.no_grad()
def measure(model: VQVAE, dataset: CaptionedDataset, *, limit: int | None = None) -> dict[str, float]:
    """The metrics of `METRICS`, of at most `limit` pictures of each kind."""
    counts = torch.zeros(model.num_codes)
    ratios = {}
    for name, split in (("psnr", dataset.test), ("psnr_emoji", dataset.emoji)):
        errors = []
        for samples, _ in batches(split, limit):
            codes = encode(model, samples)
            counts += torch.bincount(codes.long().flatten(), minlength=model.num_codes)
            errors.append((decode(model, codes) - samples).square().flatten(1).mean(1))
        ratios[name] = float(10 * torch.log10(4 / torch.cat(errors).double().mean()))
    shares = (counts / counts.sum()).double()
    perplexity = float(torch.exp(-torch.xlogy(shares, shares).sum()))
    return {**ratios, "used_codes": float((counts > 0).sum()), "code_perplexity": perplexity}


def batches(split: Captioned, limit: int | None = None) -> Iterator[Batch]:
    """A split in batches on the CPU, spread evenly over it where not all are wanted."""
    count = min(len(split), limit or len(split))
    index = torch.linspace(0, len(split) - 1, count).long()
    for part in torch.split(index, BATCH):
        found = split.batch(part.to(split.device))
        yield Batch(found.samples.cpu(), found.labels.cpu())


def encode(model: VQVAE, samples: Tensor) -> Tensor:
    """Codes of pictures [N, C, H, W] in [-1, 1]: [N, side, side], as the service gives them."""
    device = model.entries.device
    return model.encode(samples.to(device), torch.zeros(len(samples), dtype=torch.long, device=device)).cpu()


def decode(model: VQVAE, codes: Tensor) -> Tensor:
    """Pictures of codes [N, side, side]."""
    device = model.entries.device
    return model.decode(codes.to(device), torch.zeros(len(codes), dtype=torch.long, device=device)).float().cpu()


@torch.no_grad()
def sample_grid(model: VQVAE, dataset: CaptionedDataset) -> Tensor:
    """Pictures spread evenly over held-out scenes and emoji, each row followed by its reconstructions."""
    rows = []
    for split in (dataset.test, dataset.emoji):
        index = torch.linspace(0, len(split) - 1, ROWS * COLUMNS).long()
        samples = split.batch(index.to(split.device)).samples.cpu()
        again = decode(model, encode(model, samples))
        rows.append(torch.stack([part.view(ROWS, COLUMNS, *part.shape[1:]) for part in (samples, again)], 1))
    return torch.cat(rows).flatten(0, 2)
