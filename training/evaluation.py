"""An evaluation: metrics with what is shown beside them, written into a weights folder or a report.

Knows how it is written down; measures nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from models.config import ModelConfig, with_card, write_config
from models.files import write_atomically
from training import audio_card, codes, control_card, listening, quality, text_card
from training import card as cards
from training.history import History
from training.measurement import Measurement
from training.pictures import write_grid
from training.report import Report


@dataclass(frozen=True)
class Evaluation:
    """Metrics, how they were taken, and unpicked pictures (None for a classifier) or texts.

    Attributes:
        measurement: of a generator of pictures, what a report shows beside its metrics.
        curve: its metrics at each truncation, if that was asked for.
        clips: that a network for speech has made.
        traversal: pictures along each code of an InfoGAN, `codes.STEPS` a row.
        chosen: arguments of the network that were found best, in place of its own.
        temperature: at which tokens that are no text are drawn when a request names none.
    """

    metrics: dict[str, float]
    how: dict[str, Any]
    samples: Tensor | None
    texts: tuple[str, ...] = ()
    measurement: Measurement | None = None
    curve: Sequence[Mapping[str, float]] = ()
    traversal: Tensor | None = None
    clips: tuple[listening.Shown, ...] = ()
    chosen: Mapping[str, Any] = field(default_factory=dict)
    temperature: float | None = None


def write_evaluation(folder: Path, config: ModelConfig, found: Evaluation) -> ModelConfig:
    """Write an evaluation into a weights folder: the card, README.md and samples.png; returns the new configuration."""
    config = with_card(config, {**config.card, "metrics": found.metrics, "evaluation": found.how})
    config = replace(config, config={**config.config, **found.chosen})
    if found.samples is not None:
        write_grid(folder / "samples.png", found.samples, quality.COLUMNS)
    if found.traversal is not None:
        write_grid(folder / control_card.GRID_FILE, found.traversal, codes.STEPS)
    if found.clips:
        audio_card.write_samples(folder, found.clips)
    if found.temperature is not None:
        config = replace(config, output={**config.output, "temperature": found.temperature})
    if found.texts:
        write_atomically(folder / text_card.SAMPLES_FILE, text_card.all_samples(found.texts).encode())
    write_atomically(folder / "README.md", cards.render(folder.name, config, found.texts).encode())
    write_config(folder, config)
    return config


def report_of(
    name: str,
    labels: Sequence[str],
    card: Mapping[str, Any],
    found: Evaluation,
    history: History = MappingProxyType({}),
) -> Report:
    """An evaluation as a report shows it."""
    return Report(
        name=name,
        description=card.get("description", ""),
        how=found.how,
        metrics=found.metrics,
        gates=card.get("gates", {}),
        labels=tuple(labels),
        samples=found.samples,
        texts=found.texts,
        measurement=found.measurement,
        curve=found.curve,
        history=history,
    )
