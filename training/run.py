"""One run: the loop that every objective shares, and its folder under `runs/`.

Knows steps, snapshots, guards and files; knows nothing of what an objective does in a step.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.files import write_atomically
from training import guards, quality
from training.audio import AudioObjective
from training.captioned import CaptionedDataset
from training.classifier import ClassifierObjective
from training.data import Dataset, Loader, Split
from training.errors import TrainingError
from training.gan import GanObjective
from training.language import LanguageObjective
from training.objective import Objective
from training.objective_recipe import ClassifierRecipe
from training.pictures import write_grid
from training.recipe import Recipe
from training.snapshot import load_snapshot, restore_random, save_snapshot
from training.speech import SpeechDataset
from training.text import TextDataset
from training.text_to_image import TextToImageObjective
from training.vae import VaeObjective
from training.vq import VqObjective

AnyDataset = Dataset | TextDataset | CaptionedDataset | SpeechDataset
# each takes the kind of data set that its recipes must have
OBJECTIVES: dict[str, Callable[[Recipe, Any, torch.device], Objective]] = {
    "classifier": ClassifierObjective,
    "gan": GanObjective,
    "vae": VaeObjective,
    "language": LanguageObjective,
    "vq": VqObjective,
    "text-to-image": TextToImageObjective,
    "audio": AudioObjective,
}
SNAPSHOT_FILE = "snapshot.pt"
METRICS_FILE = "metrics.jsonl"
FREE_KEYS = (
    "description",
    "license",
    "export",
    "every",
    "guards",
    "gates",
)  # may change between a run and its resumption


@dataclass
class Progress:
    """How far a run has come: steps done, and seconds spent on them over all its resumptions."""

    step: int = 0
    seconds: float = 0.0


class Run:
    """A training run that can stop after any step and go on later as if it had not.

    On CPU, with the same number of threads, the resumed run is bit-exact: it ends with the weights, the optimisers'
    state and the random state that the unbroken run would have had.
    """

    def __init__(self, recipe: Recipe, folder: Path, dataset: AnyDataset) -> None:
        """Build networks and loader from the recipe's seed; nothing is written yet.

        Raises:
            TrainingError: the recipe asks for what cannot be had (device, architecture, judge, batch).
        """
        torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        quality.check_metrics(recipe.objective.kind, recipe.gates)
        self.recipe, self.folder, self.dataset = recipe, folder, dataset
        self.device = pick_device(recipe.device)
        self.objective = OBJECTIVES[recipe.objective.kind](recipe, dataset, self.device)
        self.loader = Loader(self._training_split().to(self.device), recipe.batch_size, recipe.seed)
        self.progress = Progress()
        self.rollbacks = guards.RollbackGuard(recipe.guards)
        self.collapse = guards.CollapseGuard(recipe.guards)

    def _training_split(self) -> Any:
        """All of the data set's, or for a classifier the half that its recipe names."""
        objective, train = self.recipe.objective, self.dataset.train
        return (
            train.half(objective.half)
            if isinstance(objective, ClassifierRecipe) and isinstance(train, Split)
            else train
        )

    @property
    def snapshot(self) -> Path:
        """Where the run's one snapshot lies."""
        return self.folder / SNAPSHOT_FILE

    @property
    def finished(self) -> bool:
        """Whether every step of the recipe is done."""
        return self.progress.step >= self.recipe.steps

    def start(self) -> None:
        """Begin a new run in an empty folder.

        Raises:
            TrainingError: the folder already holds a run.
        """
        if self.snapshot.exists():
            raise TrainingError(
                f"{self.folder} holds a run already: --resume goes on with it, --out takes another folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / METRICS_FILE, b"")
        self.save()

    def resume(self) -> None:
        """Go on from the folder's snapshot.

        Raises:
            TrainingError: there is none, it is damaged, or it was made by another recipe.
        """
        state = load_snapshot(self.snapshot)
        self._check_recipe(json.loads(state["recipe"]))
        if state.get("data", self._data) != self._data:  # snapshots of before say nothing
            raise TrainingError(f"{self.snapshot}: made with other data than those in data.path; take another --out")
        self._restore(state)
        self._cut_metrics()

    @property
    def _data(self) -> str:
        """What the data are, by the sha256 of their files."""
        return json.dumps(self.dataset.card(), sort_keys=True)

    def _check_recipe(self, saved: Mapping[str, Any]) -> None:
        mine = json.loads(json.dumps(self.recipe.as_dict()))
        changed = [key for key in sorted(mine.keys() | saved.keys()) if mine.get(key) != saved.get(key)]
        fixed = [key for key in changed if key not in FREE_KEYS]
        if fixed:
            raise TrainingError(
                f"{self.snapshot}: made by a recipe that differs in {', '.join(fixed)}; take another --out"
            )

    def train(self, stop: Callable[[], bool], progress: Callable[[Progress, Mapping[str, float]], None]) -> None:
        """Train until the recipe's last step, or until `stop` says so after a step; either way a snapshot is left.

        Args:
            stop: asked before every step.
            progress: told after every step, with the step's metrics.

        Raises:
            TrainingError: the run diverged or collapsed for good; the folder keeps its last good snapshot.
        """
        saved = False
        while not saved:  # a last step may have to be made again
            while not self.finished and not stop():
                begun = time.perf_counter()
                values = self._step()
                self.progress.seconds += time.perf_counter() - begun
                progress(self.progress, values)
            saved = self.save()

    def _step(self) -> dict[str, float]:
        self._set_learning_rate()
        found = self.objective.train_step(self.loader.next(), self.progress.step)
        values = {name: float(value) for name, value in found.items()}
        self.progress.step += 1
        if faults := guards.non_finite(values):
            self._roll_back(faults)
            return values
        every, step = self.recipe.every, self.progress.step
        if step % every.log == 0:
            self._log(values)
        if step % every.evaluate == 0:
            if faults := guards.non_finite_weights(self._networks()):
                self._roll_back(faults)
                return values
            values |= self._evaluate()
        if step % every.snapshot == 0:
            self.save()
        return values

    def _set_learning_rate(self) -> None:
        """From the recipe's rate to zero over the run, by half a cosine (Loshchilov & Hutter 2017)."""
        rate = self.recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * self.progress.step / self.recipe.steps))
        for optimizer in self.objective.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _evaluate(self) -> dict[str, float]:
        metrics = self.objective.evaluate()
        self._log(metrics)
        samples = self.objective.samples()
        name = self.folder / "samples" / f"{self.progress.step:07d}"
        if isinstance(samples, str):
            name.parent.mkdir(exist_ok=True)
            write_atomically(name.with_suffix(".txt"), samples.encode())
        elif samples is not None:
            write_grid(name.with_suffix(".png"), samples, quality.COLUMNS)
        self.collapse.check(self.progress.step, metrics)
        return metrics

    def _log(self, values: Mapping[str, float]) -> None:
        line = {"step": self.progress.step, "seconds": round(self.progress.seconds, 1)}
        line |= {name: float(f"{value:.6g}") for name, value in values.items()}
        with (self.folder / METRICS_FILE).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _cut_metrics(self) -> None:
        """Drop the lines of steps after the snapshot: they will be written again."""
        path = self.folder / METRICS_FILE
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.progress.step]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())

    def _roll_back(self, faults: list[str]) -> None:
        """Return to the last snapshot and take another way from there: other batches, other noise."""
        step = self.progress.step
        self.rollbacks.permit(step, faults)
        count, seconds = self.rollbacks.count, self.progress.seconds
        self._restore(load_snapshot(self.snapshot))
        self.rollbacks.count, self.progress.seconds = count, seconds
        for _ in range(count):
            self.loader.skip_epoch()
        torch.manual_seed(self.recipe.seed + count)
        self._log({f"rolled_back_from_{step}": float(count)})
        self.save()  # so that a kill now does not forget the count

    def save(self) -> bool:
        """Write the snapshot, unless weights have gone non-finite: then roll back instead, and say False."""
        if faults := guards.non_finite_weights(self._networks()):
            self._roll_back(faults)
            return False
        state = {
            "recipe": json.dumps(self.recipe.as_dict()),
            "data": self._data,
            "progress": dataclasses.asdict(self.progress),
            "guards": {
                "rollbacks": self.rollbacks.count,
                "armed": self.collapse.armed,
                "strikes": self.collapse.strikes,
            },
            "loader": self.loader.state_dict(),
            "networks": {name: network.state_dict() for name, network in self.objective.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.objective.optimizers.items()},
            "ema": self.objective.ema.state_dict(),
        }
        save_snapshot(self.snapshot, state)
        return True

    def _networks(self) -> dict[str, torch.nn.Module]:
        return {**self.objective.networks, "ema": self.objective.ema.model}

    def _restore(self, state: Mapping[str, Any]) -> None:
        try:
            for name, network in self.objective.networks.items():
                network.load_state_dict(state["networks"][name])
            for name, optimizer in self.objective.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            self.objective.ema.load_state_dict(state["ema"])
            self.loader.load_state_dict(state["loader"])
            self.progress = Progress(**state["progress"])
            saved = state["guards"]
            self.rollbacks.count, self.collapse.armed, self.collapse.strikes = (
                saved["rollbacks"],
                saved["armed"],
                saved["strikes"],
            )
            restore_random(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(f"{self.snapshot}: does not fit this version of the program: {error}") from error


def pick_device(wanted: str) -> torch.device:
    """The device that the recipe names; "auto" is CUDA when there is one.

    Raises:
        TrainingError: CUDA was asked for and there is none.
    """
    present = torch.cuda.is_available()
    if wanted == "cuda" and not present:
        raise TrainingError("device = 'cuda', but this machine or this build of torch has no CUDA")
    return torch.device("cuda" if present and wanted != "cpu" else "cpu")
