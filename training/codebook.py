"""How a codebook is learnt: a code is a moving average of the features that it stands for (van den Oord et al. 2017).

Knows codes and features; knows no pictures.
"""

import torch
from torch import Tensor, nn

LEAST = 1e-5  # uses of a code, so that none is divided by zero


class CodebookTracker(nn.Module):
    """Moving averages of how often each code is used and of the sum of the features it is used for.

    A code that is hardly used is dead: no feature is near it, so it would stay where it is for ever. It begins anew at
    a random feature of the batch.
    """

    def __init__(self, entries: Tensor, decay: float, rarest: float) -> None:
        """Nothing has been seen yet.

        Args:
            entries: of the codebook, [K, D].
            decay: of the averages.
            rarest: uses a batch under which a code is dead.
        """
        super().__init__()
        self._decay, self._rarest = decay, rarest
        self.register_buffer("uses", torch.zeros(len(entries)))
        self.register_buffer("sums", torch.zeros_like(entries))

    @torch.no_grad()
    def begin(self, entries: Tensor, features: Tensor) -> None:
        """Put all entries [K, D], in place, at random features [R, D]; as if each had been used once a batch."""
        entries.copy_(_drawn(features, len(entries)))
        self._uses.fill_(1)
        self._sums.copy_(entries)

    @torch.no_grad()
    def update(self, entries: Tensor, features: Tensor, codes: Tensor, *, restart: bool) -> Tensor:
        """Move entries [K, D], in place, towards the features [R, D] that have chosen them by their codes [R].

        Returns:
            How many codes were dead, a scalar; they have begun anew if `restart` is set.
        """
        uses = torch.bincount(codes, minlength=len(entries)).to(entries.dtype)
        sums = torch.zeros_like(entries).index_add_(0, codes, features)
        self._uses.lerp_(uses, 1 - self._decay)
        self._sums.lerp_(sums, 1 - self._decay)
        dead = self._uses < self._rarest
        if restart:
            count = max(self._rarest, LEAST)
            self._uses.masked_fill_(dead, count)
            self._sums.copy_(torch.where(dead[:, None], _drawn(features, len(entries)) * count, self._sums))
        entries.copy_(
            torch.where((self._uses > LEAST)[:, None], self._sums / self._uses.clamp(LEAST)[:, None], entries)
        )
        return dead.sum()

    @property
    def _uses(self) -> Tensor:
        assert isinstance(self.uses, Tensor)
        return self.uses

    @property
    def _sums(self) -> Tensor:
        assert isinstance(self.sums, Tensor)
        return self.sums


def _drawn(features: Tensor, count: int) -> Tensor:
    """So many of the features [R, D], at random from torch's global generator; some twice where there are too few."""
    return features[torch.randint(len(features), (count,), device=features.device)]
