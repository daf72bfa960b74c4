"""What pictures tell of the codes that they were made from, in nats: InfoGAN's lower bounds (arXiv 1606.03657).

Knows numbers that were drawn and what was read of them; knows no networks and no pictures.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.info_gan import Reading

METRICS = (
    "category_purity",
    "class_information",
    "category_information",
    "code_information",
    "least_code_correlation",
)


def bounds(reading: Reading, labels: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Lower bounds on the mutual information of pictures with their categories and with their codes.

    Each is an entropy, which is known because we draw ourselves, and the mean log-likelihood of what was drawn under
    what was read: a categorical distribution, and a normal one for each code (section 5 of the paper).

    Args:
        reading: of N pictures.
        labels: their categories, [N].
        codes: theirs, uniform in (-1, 1), [N, codes].

    Returns:
        Of the categories, 0 where there are none; of all codes together.
    """
    return category_bound(reading.categories, labels), code_bound(reading.means, reading.log_variances, codes).sum()


def category_bound(logits: Tensor, labels: Tensor) -> Tensor:
    """Nats that logits [N, K] give of uniformly drawn categories [N]; at most log K."""
    categories = logits.shape[1]
    return math.log(categories) - F.cross_entropy(logits, labels) if categories else logits.new_zeros(())


def code_bound(means: Tensor, log_variances: Tensor, codes: Tensor) -> Tensor:
    """Nats that normal distributions, [N, codes] each, give of codes uniform in (-1, 1); of each code, [codes]."""
    squared = (codes - means).square() * torch.exp(-log_variances)
    return math.log(2) - 0.5 * (math.log(2 * math.pi) + log_variances + squared).mean(0)
