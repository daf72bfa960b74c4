"""Put a trained discriminator beside its generator: `python -m training.critic NAME --run runs/NAME`.

Takes the discriminator from the snapshot of the run that made `weights/NAME`, calibrates it on held-out pictures,
writes `critic.safetensors` and measures what sampling by it gains for the time that it costs. The generator stays as it
is, and so do the pictures of all seeds. Exit status: 0, or 1 when something is wrong, said in one line.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from models import checkpoint
from models.architecture import build
from models.checkpoint import Checkpoint
from models.config import ModelConfig
from models.critic import Critic, langevin_step
from models.errors import CheckpointError
from models.files import CRITIC_FILE, write_atomically
from models.protocols import CodeModel, StyledModel
from training import card as cards
from training import quality
from training.data import Dataset, to_samples
from training.errors import TrainingError
from training.judge import check_impartial, judge_folder, load_judge
from training.latents import draw_latents
from training.measurement import Reference, check_count, look
from training.provenance import dataset_of
from training.run import SNAPSHOT_FILE
from training.snapshot import load_snapshot
from training.weights import find_folder

STEPS = (0, 10, 25, 50, 100)  # of the table
STEP_SIZE = 0.02
COUNT = 5000
MEASURED = ("fd_clf", "precision", "recall", "class_accuracy", "diversity")


@dataclass(frozen=True)
class Calibration:
    """A logistic regression on a critic's logits, fitted to one half of the test split and tried on the other.

    Attributes:
        scale: of the logits.
        nll: mean negative log likelihood of "real or generated" on the other half, in nats; 0.693 is a guess.
    """

    scale: float
    nll: float


def discriminator_of(snapshot: Mapping[str, Any], loaded: Checkpoint) -> tuple[str, dict[str, Any], nn.Module]:
    """Architecture, arguments and network of the discriminator of a run, as fp16 keeps it.

    Raises:
        TrainingError: the run is not a GAN's, or not the one that made these weights.
    """
    options = json.loads(snapshot["recipe"])["objective"]
    state = snapshot["networks"].get("discriminator")
    if state is None:
        raise TrainingError("the run has no discriminator")
    if isinstance(loaded.model, StyledModel | CodeModel):
        raise TrainingError(f"{loaded.name}: a critic belongs to a model whose latents are standard normal")
    _check_generator(snapshot, loaded)
    config = dict(options["discriminator"])
    kind = config.pop("kind", "conv")
    network = build(kind, config, models.CRITICS)
    network.load_state_dict({name: tensor.half() for name, tensor in state.items()})
    return kind, config, network.eval().requires_grad_(False)


def _check_generator(snapshot: Mapping[str, Any], loaded: Checkpoint) -> None:
    """Refuse a run that neither picked nor ended with the published generator.

    Raises:
        TrainingError: it did not.
    """
    best = snapshot["networks"].get("best", {})
    candidates = [{name.removeprefix("model."): tensor for name, tensor in best.items()}, snapshot["ema"]]
    own = loaded.model.state_dict()
    if not any(_same(own, candidate) for candidate in candidates):
        raise TrainingError(f"the run did not make {loaded.name}: neither its best generator nor its last is that one")


def _same(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(name in other and torch.equal(tensor.half(), other[name].half()) for name, tensor in own.items())


def calibrate(network: nn.Module, generator: nn.Module, dataset: Dataset, seed: int = 0) -> Calibration:
    """Find the scale of a discriminator's logits that tells test pictures best from generated ones of their labels.

    A bias for each class is fitted beside it and then forgotten: a projection discriminator has a level of its own for
    each class, of which gradients know nothing.
    """
    labels = dataset.test.labels.cpu()
    real = _logits(network, to_samples(dataset.test.pictures).cpu(), labels)
    fake = _logits(network, quality.generate(generator, labels, seed), labels)
    logits, truth = torch.cat([real, fake]).double(), torch.cat([torch.ones_like(real), torch.zeros_like(fake)])
    classes, first = labels.repeat(2), (torch.arange(len(labels)) % 2 == 0).repeat(2)
    scale, biases = _fit(logits[first], truth[first].double(), classes[first], len(dataset.labels))
    left = scale * logits[~first] + biases[classes[~first]]
    nll = F.binary_cross_entropy_with_logits(left, truth[~first].double())
    return Calibration(float(scale), float(nll))


@torch.no_grad()
def _logits(network: nn.Module, samples: Tensor, labels: Tensor) -> Tensor:
    pairs = zip(torch.split(samples, quality.BATCH), torch.split(labels, quality.BATCH), strict=True)
    return torch.cat([network(some, own) for some, own in pairs])


def _fit(logits: Tensor, truth: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scale [] and biases [count] of the most likely logistic regression."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    biases = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scale, biases], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(scale * logits + biases[classes], truth)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # likewise
    return scale.detach(), biases.detach()


def sample(
    generator: nn.Module, critic: Critic, labels: Tensor, steps: Sequence[int], seed: int = 0
) -> tuple[dict[int, Tensor], float]:
    """Latents [N, *latent_shape] of these labels [N] after each of so many steps, and seconds of a step of one.

    The rule is the service's; the noise is torch's. The seconds are the processor's, of all its threads.
    """
    model = quality.latent_model(generator)
    noise = torch.Generator().manual_seed(seed)
    starts = torch.split(draw_latents(model, len(labels), noise), quality.BATCH)
    found: dict[int, list[Tensor]] = {step: [] for step in steps}
    begun = time.process_time()
    for chunk, own in zip(starts, torch.split(labels, quality.BATCH), strict=True):
        z = chunk
        for step in range(max(steps) + 1):
            if step in found:
                found[step].append(z)
            if step < max(steps):
                z = langevin_step(model, critic, z, own, torch.randn(z.shape, generator=noise))
    seconds = (time.process_time() - begun) / max(1, max(steps) * len(labels))
    return {step: torch.cat(parts) for step, parts in found.items()}, seconds


def measure(
    loaded: Checkpoint,
    critic: Critic,
    dataset: Dataset,
    count: int,
    judged_by: Path | None,
    steps: Sequence[int],
) -> dict[str, Any]:
    """What sampling gains: the metrics of `MEASURED` after each number of steps, and milliseconds of a picture's.

    Raises:
        TrainingError: too few pictures, or the judge picked the generator.
    """
    judge = load_judge(judged_by or judge_folder(dataset.name))
    check_impartial(loaded.name, loaded.config.card, judge)
    check_count(count, judge.num_classes)
    labels, reference = quality.balanced_labels(count, judge.num_classes), Reference(judge, dataset)
    found, seconds = sample(loaded.model, critic, labels, steps)
    table = []
    for step, z in found.items():
        scores = look(judge.opinion(quality.decode(loaded.model, z, labels, quality.SERVED_DTYPE)), labels, reference)
        row = {"steps": step, **cards.rounded({name: scores[name] for name in MEASURED})}
        print("  ".join(f"{name} {value:g}" for name, value in row.items()), flush=True)
        table.append({**row, "milliseconds": round(1000 * seconds * step, 1)})
    return {"count": count, "judge": judge.digest, "threads": torch.get_num_threads(), "table": table}


def publish(
    folder: Path, run: Path, *, step_size: float, count: int, data: str | None = None, judge: Path | None = None
) -> ModelConfig:
    """Write a run's discriminator beside the generator in a weights folder; returns the new configuration.

    Args:
        folder: the weights folder.
        run: the run that made it.
        step_size: of the sampler.
        count: pictures to measure with; 0 measures nothing.
        data: folder of the data, where it is not the usual one.
        judge: folder of the judge, likewise.

    Raises:
        TrainingError, CheckpointError: the message says what does not fit.
    """
    loaded = checkpoint.load(folder)
    dataset = dataset_of(loaded, data)
    snapshot = load_snapshot(run / SNAPSHOT_FILE)
    kind, config, network = discriminator_of(snapshot, loaded)
    found = calibrate(network, loaded.model, dataset)
    scale = float(f"{found.scale:.4g}")
    card: dict[str, Any] = {"step": snapshot["progress"]["step"], "nll": float(f"{found.nll:.4g}")}
    print(f"scale {scale:g}, {found.nll:.4f} nats on held-out pictures (0.6931 is a guess)", flush=True)
    if count:
        card["sampling"] = measure(loaded, Critic(network, scale, step_size), dataset, count, judge, STEPS)
    written = checkpoint.write_critic(
        folder, network, architecture=kind, config=config, scale=scale, step_size=step_size, card=card
    )
    write_atomically(folder / "README.md", cards.render(folder.name, written).encode())
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        folder = find_folder(options.name)
        run = options.run or Path("runs") / folder.name
        size, count = options.step_size, options.count
        written = publish(folder, run, step_size=size, count=count, data=options.data, judge=options.judge)
    except (TrainingError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    assert written.critic is not None
    print(f"wrote {folder / CRITIC_FILE}, sha256 {written.critic.sha256[:16]}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.critic", description="Publish a GAN's discriminator.")
    parser.add_argument("name", help="of a folder in weights/, or a path")
    parser.add_argument("--run", type=Path, help="folder of the run that made it (default: runs/NAME)")
    parser.add_argument("--judge", type=Path, help="the judge's folder (default: the committed one for the data)")
    parser.add_argument("--data", help="folder of the data (default: where the Debian package puts it)")
    parser.add_argument("--step-size", type=float, default=STEP_SIZE, help="of the sampler (default: %(default)s)")
    parser.add_argument("--count", type=int, default=COUNT, help="pictures to measure with (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
