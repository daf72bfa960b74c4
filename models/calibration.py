"""What the inputs of a layer look like, and what that means for rounding it: SmoothQuant (Xiao et al. 2023).

Knows one layer at a time; knows no network. Needs no data: any plain text shows which inputs are large.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.packed_linear import Packed

# A text of every kind: prose, talk, a list, numbers, a little code.
SAMPLE = """The ferry left the island at half past six, an hour late, with forty people and a piano on board. "You might
have told us," said the woman with the red umbrella. "I did," he answered; "nobody listened." It was cold for May.

To make bread you need four things:
1. 500 g of flour, strong and white;
2. 330 ml of warm water (not hot: above 50 degrees the yeast dies);
3. a spoonful of salt;
4. time, which most people do not have.

In 1687 Newton showed that the same law moves the moon and the apple, F = G m1 m2 / r^2. What is remarkable about it?
That it is so short. Questions like this one were asked in Paris, London and Basel for two hundred years.

def mean(values):
    return sum(values) / len(values)  # fails for an empty list

Dear Ms Okafor, thank you for your letter of 3 August. We are sorry that the parcel arrived damaged, and will send
another one today, free of charge. If you have any questions, please call us on weekdays between 9 am and 5 pm.
"""
ALPHA = 0.5  # of the difficulty, so much is moved from inputs to weights
SMALLEST = 1e-5


def smoothing(inputs: Tensor, weight: Tensor) -> Tensor:
    """What to divide each input by and multiply its weights by, [K], after seeing inputs [T, K] of a weight [N, K]."""
    seen, own = (
        torch.linalg.vector_norm(part, torch.inf, 0, dtype=torch.float32).clamp_min(SMALLEST)
        for part in (inputs, weight)
    )
    factors: Tensor = seen**ALPHA / own ** (1 - ALPHA)
    return factors / factors.log().mean().exp()


class Calibrating(nn.Module):
    """Stands where a layer was; packs it at the first call, by what it is called with.

    So that layers after it see what they will see when served, and no two layers are in memory twice.
    """

    def __init__(self, layer: nn.Linear, pack: Callable[[nn.Linear, Tensor | None], Packed]) -> None:
        """Keep a layer out of sight of `nn.Module.to`: it is rounded once, from what was stored."""
        super().__init__()
        self._layer: tuple[nn.Linear, ...] = (layer,)
        self._pack = pack
        self.packed: Packed | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        flat = x.flatten(0, -2)
        out = self.finish(flat)(flat)
        return out.view(*x.shape[:-1], out.shape[-1])

    def finish(self, inputs: Tensor | None = None) -> Packed:
        """The packed layer; without smoothing when it was never called."""
        if self.packed is None:
            (layer,), self._layer = self._layer, ()
            factors = None if inputs is None else smoothing(inputs, layer.weight)
            self.packed = self._pack(layer, factors)
        return self.packed


@torch.no_grad()
def calibrate(network: nn.Module, tokens: Sequence[int]) -> None:
    """Run a network whose layers are `Calibrating` over a text, or as much of it as it can read."""
    network(torch.tensor([tokens])[:, : int(network.max_length)])  # type: ignore[arg-type]  # typed Tensor | Module
