"""The evaluation of a service at the other end of a connection; `training.served` is its command line."""

import argparse
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from training import card as cards
from training import codes, quality
from training.client import Client
from training.errors import TrainingError
from training.evaluation import report_of
from training.judge import check_impartial, judge_folder, load_judge
from training.measurement import Reference, check_count
from training.picture_evaluation import evaluate_pictures, extras
from training.provenance import dataset_named
from training.report import COLUMNS, write_report
from training.wanted import Wanted


def evaluate(options: argparse.Namespace, asked: Wanted) -> None:
    """Measure, print the table, write what was asked for.

    Raises:
        TrainingError: the service, the data or the judge can't be used, or a gate of the card is missed.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    more = extras(asked)
    client = Client(options.url, options.model)
    served = client.describe()
    dataset = dataset_named(served.name, served.card, served.labels, options.data)
    judge = load_judge(options.judge or judge_folder(dataset.name))
    check_count(options.count, judge.num_classes)
    check_impartial(served.name, served.card, judge)
    quality.check_comparable(served.name, served.num_classes, served.shape, dataset, judge)
    labels = quality.balanced_labels(options.count, judge.num_classes)
    make = partial(client.pictures, served, labels, options.seed)
    samples = make()
    how = {
        "count": options.count,
        "seed": options.seed,
        "judge": judge.digest,
        "model": served.identity,
        "runtime": ", ".join(sorted(client.runtimes)),
    }
    shown = codes.shown(served.card, dataset.labels, labels)
    found = evaluate_pictures(samples, make, shown, Reference(judge, dataset, options.seed), how, more)
    found = replace(found, samples=first_of_each(samples, labels))
    if codes.finds_categories(served.card):
        found = replace(found, metrics=codes.renamed(found.metrics))
    gates = {name: gate for name, gate in served.card.get("gates", {}).items() if name in found.metrics}
    if options.count < served.card.get("evaluation", {}).get("count", 0):
        gates = {}  # fewer pictures than they are for would miss them by chance
    card = {**served.card, "metrics": found.metrics, "gates": gates}
    print(cards.table(f"{served.identity} at {options.url} ({how['runtime']})", card))
    write_report(report_of(served.name, served.labels, card, found), asked)
    if missed := cards.missed_gates(card):
        raise TrainingError(f"{served.name}: gates missed: {'; '.join(missed)}")


def first_of_each(samples: Tensor, labels: Tensor) -> Tensor | None:
    """The first pictures of each class, a class a row, [classes * COLUMNS, C, H, W]; None when there are too few."""
    places = [(labels == label).nonzero()[:COLUMNS, 0] for label in sorted(set(labels.tolist()))]
    if any(len(row) < COLUMNS for row in places):
        return None
    return samples[torch.cat(places)]
