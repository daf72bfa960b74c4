"""Train from a recipe: `python -m training.train training/recipes/NAME.toml [--resume] [--out DIR]`.

Exit status: 0 trained and published; 1 something is wrong, said in one line (a missed gate too); 143 stopped by
SIGTERM and 130 by SIGINT, after the step under way and with a snapshot written: `--resume` goes on from there.
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.errors import CheckpointError
from training import run as loop
from training.captioned import load_captioned
from training.data import load_dataset
from training.data_recipe import CaptionedRecipe, SpeechRecipe, TextRecipe
from training.errors import TrainingError
from training.origin import load_origin
from training.publish import publish
from training.recipe import Recipe, read_recipe
from training.run import AnyDataset, Run
from training.speech import load_speech_dataset
from training.text import load_text_dataset

WATCHED = {
    "accuracy",
    "class_accuracy",
    "validation_bits_per_byte",
    "validation_bits_per_sample",
    "psnr",
    "bits_per_code",
}


class StopSignal:
    """Remembers a SIGTERM or SIGINT while it is entered, so that the loop can end after the step under way."""

    def __init__(self) -> None:
        """None has come yet."""
        self.number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        """Take both signals over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return train(options.recipe, options.changes, out=options.out, resume=options.resume, stop_at=options.stop_at)
    except (TrainingError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Train a model from a recipe.")
    parser.add_argument("recipe", type=Path, help="a TOML file, such as training/recipes/fashion-gan.toml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="KEY=VALUE",
        help="replace a value of the recipe, given as TOML: --set 'objective.loss=\"hinge\"' (any number of times)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the snapshot in the run's folder")
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/NAME)")
    parser.add_argument("--stop-at", type=int, metavar="STEP", help="stop after this step, with a snapshot")
    return parser


def train(
    path: Path,
    changes: Sequence[str] = (),
    *,
    out: Path | None = None,
    resume: bool = False,
    stop_at: int | None = None,
) -> int:
    """Train the recipe in this file, with changes, and publish the result; returns the exit status.

    Raises:
        TrainingError: anything that a person must mend, a missed gate included.
    """
    recipe = read_recipe(path, changes)
    run = Run(recipe, out or Path("runs") / recipe.name, _load(recipe))
    last = recipe.steps if stop_at is None else stop_at
    if resume:
        run.resume()
    else:
        run.start()
    with StopSignal() as stop, _Bar(recipe.name, recipe.steps) as bar:
        run.train(lambda: bool(stop.number) or run.progress.step >= last, bar.update)
    if not run.finished:
        print(f"stopped after step {run.progress.step} of {recipe.steps}; --resume goes on")
        return 128 + stop.number if stop.number else 0
    publish(run, ", ".join([path.name, *changes]))
    return 0


def _load(recipe: Recipe) -> AnyDataset:
    data = recipe.data
    if isinstance(data, SpeechRecipe):
        return load_speech_dataset(data)
    if isinstance(data, CaptionedRecipe):
        return load_captioned(data)
    return load_text_dataset(data, load_origin(recipe)) if isinstance(data, TextRecipe) else load_dataset(data)


class _Bar:
    """A progress bar on a terminal; a line at each evaluation elsewhere."""

    def __init__(self, name: str, steps: int) -> None:
        console = Console()
        self._quiet = not console.is_terminal
        columns = (
            TextColumn(name),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}"),
        )
        self._progress = Progress(*columns, console=console, disable=self._quiet)
        self._task = self._progress.add_task(name, total=steps, said="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, progress: loop.Progress, values: Mapping[str, float]) -> None:
        said = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._progress.update(self._task, completed=progress.step, said=said)
        if self._quiet and values.keys() & WATCHED:
            print(f"step {progress.step}  {progress.seconds:.0f} s  {said}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
