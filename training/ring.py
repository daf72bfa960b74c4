"""Eight Gaussians on a ring: the toy on which collapse to few modes shows, and what mends it (arXiv 1611.02163).

`python -m training.ring` plays the game under several losses, with and without looking ahead, and prints how many of
the eight modes the generator covers. Losses, steps and unrolling are those of the GAN objective; two small networks and
two dimensions take the place of pictures. Exit status: 0, or 1 with one line that says what is wrong.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from training.errors import TrainingError
from training.losses import LOSSES
from training.objective import descend
from training.objective_recipe import MAX_UNROLLED
from training.unrolled import Weights, look_ahead

MODES, RADIUS, DEVIATION = 8, 2.0, 0.1
REACH = 3 * DEVIATION  # of a mode: what lies farther off belongs to none
FAIR = 0.2  # of a fair share of the points makes a mode covered
LATENT, WIDTH, BATCH, COUNTED = 16, 64, 128, 2000
RATE, BETAS = 2e-3, (0.5, 0.999)


@dataclass(frozen=True)
class Game:
    """What is played.

    Attributes:
        loss: a key of `training.losses.LOSSES`.
        unrolled: steps that the generator looks ahead.
        steps: of each player.
        seed: of networks, points and latents.
    """

    loss: str
    unrolled: int
    steps: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """Modes that are covered, of `MODES`, and the share of points that lie within reach of any."""

    modes: int
    share: float


class Players:
    """A generator of points, a discriminator of them, and their optimisers."""

    def __init__(self, game: Game) -> None:
        """Fresh weights from torch's global generator."""
        self._game, self._loss = game, LOSSES[game.loss]
        self.generator, self._discriminator = _network(LATENT, 2), _network(2, 1)
        self._ours, self._theirs = (
            torch.optim.AdamW(network.parameters(), RATE, betas=BETAS, weight_decay=0.0)
            for network in (self.generator, self._discriminator)
        )

    def step(self) -> None:
        """One step of the discriminator, then one of the generator."""
        with torch.no_grad():
            fake = self.make(BATCH)
        descend(self._loss.discriminator(*self._logits({}, draw(BATCH), fake)), self._theirs)
        real, fake = draw(BATCH), self.make(BATCH)
        self._discriminator.requires_grad_(False)
        weights: Weights = {}
        if self._game.unrolled:
            weights = look_ahead(
                self._discriminator,
                self._theirs,
                lambda ahead: self._loss.discriminator(*self._logits(ahead, real, fake)),
                self._game.unrolled,
            )
        descend(self._loss.generator(*self._logits(weights, real, fake)), self._ours)
        self._discriminator.requires_grad_(True)

    def make(self, count: int) -> Tensor:
        """Generated points, [count, 2]."""
        made: Tensor = self.generator(torch.randn(count, LATENT))
        return made

    def _logits(self, weights: Weights, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """By the discriminator with these weights, its own where there are none: [N] and [N]."""
        logits: Tensor = functional_call(self._discriminator, dict(weights), (torch.cat([real, fake]),))
        first, second = logits.squeeze(1).tensor_split([len(real)])
        return first, second


def _network(inputs: int, outputs: int) -> nn.Module:
    inner = [nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*inner, nn.Linear(WIDTH, outputs))


def centres() -> Tensor:
    """Of the modes, [MODES, 2]."""
    angles = torch.arange(MODES) * (2 * math.pi / MODES)
    return RADIUS * torch.stack([angles.cos(), angles.sin()], 1)


def draw(count: int) -> Tensor:
    """Points of the mixture, every mode equally likely, [count, 2]."""
    return centres()[torch.randint(MODES, (count,))] + DEVIATION * torch.randn(count, 2)


def look(points: Tensor) -> Outcome:
    """How many modes these points [N, 2] cover: each has to hold a fifth of its share of all points."""
    distance, nearest = torch.cdist(points, centres()).min(1)
    reached = distance < REACH
    counts = torch.bincount(nearest[reached], minlength=MODES)
    return Outcome(int((counts >= FAIR * len(points) / MODES).sum()), float(reached.float().mean()))


def play(game: Game) -> Outcome:
    """Play from the game's seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(game.seed)
        players = Players(game)
        for _ in range(game.steps):
            players.step()
        with torch.no_grad():
            return look(players.make(COUNTED))


def table(losses: Sequence[str], unrolled: Sequence[int], steps: int, seeds: int) -> str:
    """Markdown: a line for each loss and each look ahead, the modes covered for each seed."""
    head = ["loss", "steps looked ahead", "modes covered, by seed", "mean", "points near a mode"]
    kinds = [(loss, ahead) for loss in losses for ahead in unrolled]
    lines = [_row(*kind, [play(Game(*kind, steps, seed)) for seed in range(seeds)]) for kind in kinds]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def _row(loss: str, unrolled: int, found: Sequence[Outcome]) -> list[str]:
    modes, shares = [outcome.modes for outcome in found], [outcome.share for outcome in found]
    mean = f"{sum(modes) / len(modes):.1f}"
    return [loss, str(unrolled), ", ".join(map(str, modes)), mean, f"{sum(shares) / len(shares):.0%}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ring", description="Mode collapse on a ring of Gaussians."
    )
    parser.add_argument("--losses", default=",".join(LOSSES), help="names, comma-separated (default: %(default)s)")
    parser.add_argument("--unrolled", default="0,3", help="steps to look ahead, comma-separated (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of each player (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="games of each kind (default: %(default)s)")
    try:
        print(_table(parser.parse_args(arguments)))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _table(options: argparse.Namespace) -> str:
    """The table that was asked for.

    Raises:
        TrainingError: a loss is unknown, or a number is out of range.
    """
    losses = options.losses.split(",")
    if unknown := [loss for loss in losses if loss not in LOSSES]:
        raise TrainingError(f"--losses {unknown[0]}: one of {', '.join(LOSSES)}")
    unrolled = [int(part) if part.isdecimal() else MAX_UNROLLED + 1 for part in options.unrolled.split(",")]
    if max(unrolled) > MAX_UNROLLED:
        raise TrainingError(f"--unrolled {options.unrolled}: whole numbers up to {MAX_UNROLLED}")
    if options.steps < 1 or options.seeds < 1:
        raise TrainingError("--steps and --seeds: at least 1")
    torch.set_num_threads(1)  # these networks are too small for more
    return table(losses, unrolled, options.steps, options.seeds)


if __name__ == "__main__":
    sys.exit(main())
