"""From a finished run to a weights folder: save in fp16, load back, measure what was saved, check the gates, copy."""

from pathlib import Path
from typing import Any

from models import checkpoint
from models.checkpoint import Checkpoint
from models.files import write_atomically
from training import card as cards
from training import codes, hearing, illustration
from training.captioned import CaptionedDataset
from training.captioned_evaluation import evaluate_text_to_image, evaluate_vq
from training.data import Dataset
from training.errors import TrainingError
from training.evaluation import Evaluation, write_evaluation
from training.illustrator import load_decoder, manners
from training.judge import load_judge
from training.new_folder import new_folder
from training.objective_recipe import GanRecipe, LanguageRecipe, TextToImageRecipe, VaeRecipe
from training.picture_evaluation import COUNT, evaluate
from training.run import Run
from training.speech import SpeechDataset
from training.speech_evaluation import evaluate_speech
from training.text import TextDataset
from training.text_evaluation import evaluate_writer
from training.tokenizer import end_of_text
from training.weights import networks
from training.writer import as_writer


def publish(run: Run, recipe: str) -> None:
    """Write the run's EMA weights to the recipe's export folder if every gate is passed.

    The candidate, with its card, is kept in the run's folder either way.

    Args:
        run: finished.
        recipe: the name of its file, with what was changed, for the card.

    Raises:
        TrainingError: a gate is missed; the message gives the measured values, and nothing is exported.
    """
    export = Path(run.recipe.export)
    candidate = run.folder / "candidate" / export.name
    product = run.objective.product()
    checkpoint.save(
        candidate,
        product,
        architecture=run.recipe.model.architecture,
        config=run.recipe.model.config,
        labels=codes.labels(product, run.recipe.data.labels),
        card=_card(run, recipe),
        named=codes.controls(product),
        **_tokenizer(run),
        **_output(run),
    )
    loaded = checkpoint.load(candidate, networks())
    config = write_evaluation(candidate, loaded.config, _evaluate(run, candidate, loaded))
    print(cards.table(export.name, config.card))
    if missed := cards.missed_gates(config.card):
        raise TrainingError(f"gates missed: {'; '.join(missed)}; nothing exported, the candidate is in {candidate}")
    _copy(candidate, export)
    print(f"wrote {export}, digest {config.digest[:16]}")


def _evaluate(run: Run, folder: Path, loaded: Checkpoint) -> Evaluation:
    objective = run.recipe.objective
    if isinstance(objective, LanguageRecipe):
        assert isinstance(run.dataset, TextDataset)
        return evaluate_writer(as_writer(folder, loaded), run.dataset.corpus, objective.peer, run.recipe.origin)
    if isinstance(run.dataset, CaptionedDataset) and isinstance(objective, TextToImageRecipe):
        decoder = load_decoder(Path(objective.decoder), run.dataset)
        tried = manners(objective.guidance, objective.temperature)
        return evaluate_text_to_image(loaded, decoder, run.dataset, load_judge(objective.judge), tried)
    if isinstance(run.dataset, CaptionedDataset):
        return evaluate_vq(loaded, run.dataset)
    if isinstance(run.dataset, SpeechDataset):
        return evaluate_speech(loaded, run.dataset)
    assert isinstance(run.dataset, Dataset)
    judge = load_judge(objective.judge) if isinstance(objective, GanRecipe | VaeRecipe) else None
    return evaluate(loaded, run.dataset, judge, count=COUNT)


def _tokenizer(run: Run) -> dict[str, Any]:
    """What `checkpoint.save` is to be told of the tokenizer; nothing where there is none."""
    if isinstance(run.dataset, CaptionedDataset) and isinstance(run.recipe.objective, TextToImageRecipe):
        return {"tokenizer": run.dataset.tokenizer.to_str().encode()}
    if not isinstance(run.dataset, TextDataset):
        return {}
    tokenizer = run.dataset.tokenizer
    return {"tokenizer": tokenizer.to_str().encode(), "eos_token_id": end_of_text(tokenizer)}


def _output(run: Run) -> dict[str, Any]:
    """What `checkpoint.save` is to be told of the meaning of tokens; nothing where they are text, or there are none."""
    objective = run.recipe.objective
    if isinstance(objective, TextToImageRecipe):
        return {"output": illustration.output(run.objective.product(), Path(objective.decoder).name)}
    return {"output": hearing.output(run.dataset)} if isinstance(run.dataset, SpeechDataset) else {}


def _guide(run: Run) -> dict[str, str]:
    """The digest of the classifier that steered the training or picked the network: a card must not hide it."""
    objective, folder = run.recipe.objective, ""
    if isinstance(objective, VaeRecipe):
        folder = objective.guide
    elif isinstance(objective, GanRecipe) and objective.keep == "best":
        folder = objective.watch
    return {"guide": load_judge(folder).digest} if folder else {}


def _origin(run: Run) -> dict[str, str]:
    """The model that the training started from."""
    origin = run.dataset.origin if isinstance(run.dataset, TextDataset) else None
    return {"origin": f"{origin.name}@{origin.digest}"} if origin else {}


def _card(run: Run, name: str) -> dict[str, Any]:
    recipe = run.recipe
    return {
        "description": recipe.description,
        "license": recipe.license,
        "training_data": {**run.dataset.card(), **codes.classes(run.objective.ema.model, run.recipe.data.labels)},
        "recipe": name,
        "commit": cards.commit(),
        **_guide(run),
        **_origin(run),
        "steps": run.progress.step,
        "seconds": round(run.progress.seconds),
        "machine": cards.machine(run.device, recipe.threads),
        "gates": {name: {gate.bound: gate.value} for name, gate in recipe.gates.items()},
        "metrics": {},
    }


def _copy(source: Path, target: Path) -> None:
    """Put the candidate's files in the target's place, and nothing of what was there before."""
    with new_folder(target, replace=True) as folder:
        for path in source.iterdir():
            write_atomically(folder / path.name, path.read_bytes())
