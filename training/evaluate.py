"""Measure a weights folder: `python -m training.evaluate NAME` for `weights/NAME` or `training/judges/NAME`.

Prints a table, writes the metrics into the folder's `config.json` and writes README.md and samples.png (of a language
model, samples.txt) anew; `--report` writes an HTML page and a JSON file beside. Exit status: 0 all gates of the card
are passed; 1 a gate is missed or something is wrong, said in one line. `training.served` measures a running service.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from models import checkpoint
from models.checkpoint import Checkpoint
from models.errors import CheckpointError
from models.text_to_image import TextToImage
from models.vq import VQVAE
from models.wavenet import WaveNet
from training import captioned, control_card, wanted
from training import card as cards
from training.captioned_evaluation import evaluate_text_to_image, evaluate_vq
from training.errors import TrainingError
from training.evaluation import Evaluation, report_of, write_evaluation
from training.history import read_history
from training.illustrator import Manner, load_decoder
from training.judge import JUDGES, check_impartial, judge_folder, load_judge
from training.picture_evaluation import COUNT, NOTHING, Extras, evaluate, extras
from training.provenance import captioned_named, corpus_of, dataset_of, speech_named
from training.report import write_report
from training.speech_evaluation import evaluate_speech
from training.text_evaluation import evaluate_writer
from training.weights import find_folder, networks
from training.writer import as_writer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (TrainingError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description="Measure a weights folder.")
    parser.add_argument("name", help="of a folder in weights/ or training/judges/, or a path")
    parser.add_argument("--judge", type=Path, help="the judge's folder (default: the committed one for the data)")
    parser.add_argument("--data", help="folder of the data (default: where the Debian package puts it)")
    parser.add_argument("--count", type=int, default=COUNT, help="generated pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the latents (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--run", type=Path, help="folder of the run, for the training curves (default: runs/RECIPE)")
    parser.add_argument(
        "--describe",
        action="append",
        default=[],
        metavar="CONTROL=TEXT",
        help="what a control does, for the card, once its traversal was looked at (any number of times)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the table, leave the weights folder alone")
    wanted.add_flags(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.threads is not None and options.threads < 1:
        raise TrainingError(f"--threads {options.threads}: at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    asked = wanted.read(options)
    folder = find_folder(options.name)
    loaded = checkpoint.load(folder, networks())
    config = control_card.described(loaded.config, options.describe)
    found = _measure(folder, loaded, options, extras(asked))
    card = {**loaded.config.card, "metrics": found.metrics, "evaluation": found.how}
    print(cards.table(loaded.name, card))
    if not options.dry_run:
        write_evaluation(folder, config, found)
    history = read_history(options.run or Path("runs") / str(card.get("recipe", loaded.name)).partition(".toml")[0])
    write_report(report_of(loaded.name, loaded.config.labels, card, found, history), asked)
    if missed := cards.missed_gates(card):
        raise TrainingError(f"{loaded.name}: gates missed: {'; '.join(missed)}")
    return 0


def _measure(folder: Path, loaded: Checkpoint, options: argparse.Namespace, more: Extras) -> Evaluation:
    if isinstance(loaded.model, WaveNet):
        return evaluate_speech(loaded, speech_named(loaded.name, loaded.config.card, options.data))
    if isinstance(loaded.model, VQVAE | TextToImage):
        return _measure_captioned(loaded, options, more)
    pictures = loaded.config.tokenizer is None and loaded.config.architecture not in JUDGES
    if more != NOTHING and not pictures:
        raise TrainingError(f"{loaded.name} makes no pictures: --truncations and --inception have no meaning for it")
    if loaded.config.tokenizer is not None:
        how = loaded.config.card.get("evaluation", {})
        beside = how.get("peer", ""), how.get("origin", "")
        return evaluate_writer(as_writer(folder, loaded), corpus_of(loaded, options.data), *beside)
    dataset = dataset_of(loaded, options.data)
    judge = load_judge(options.judge or judge_folder(dataset.name)) if pictures else None
    if judge is not None:
        check_impartial(loaded.name, loaded.config.card, judge)
    return evaluate(loaded, dataset, judge, count=options.count, seed=options.seed, extras=more)


def _measure_captioned(loaded: Checkpoint, options: argparse.Namespace, more: Extras) -> Evaluation:
    if more != NOTHING:
        raise TrainingError(f"{loaded.name} draws codes: --truncations and --inception have no meaning for it")
    dataset = captioned_named(loaded.name, loaded.config.card, options.data)
    if isinstance(loaded.model, VQVAE):
        return evaluate_vq(loaded, dataset)
    decoder = load_decoder(find_folder(loaded.config.output["decoder"]), dataset)
    judge = load_judge(options.judge or judge_folder(captioned.NAME))
    curve = loaded.config.card["evaluation"]["curve"]
    tried = [Manner(point["guidance"], point["temperature"]) for point in curve]
    return evaluate_text_to_image(loaded, decoder, dataset, judge, tried)


if __name__ == "__main__":
    sys.exit(main())
