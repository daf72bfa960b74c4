"""From a source to a weights folder.

Knows what belongs into the folder; knows no kind of source.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from models import checkpoint
from models.config import ModelConfig, write_config
from models.files import WEIGHTS_FILE
from training.errors import TrainingError
from training.importing.architectures import Plan, architecture, plan
from training.importing.assembly import assemble, check, shapes
from training.importing.hugging_face import parse_tokenizer
from training.importing.source import Source, Text
from training.importing.writer import write_tensors
from training.new_folder import new_folder


def write(source: Source, target: Path, options: argparse.Namespace) -> str:
    """Write the weights folder and load it once; returns what to tell the user.

    Raises:
        TrainingError: the source can't be imported.
        CheckpointError: what was written can't be loaded.
        OSError: it can't be written.
    """
    planned = plan(source.config, options.max_length)
    check(planned, source.tensors)
    _check_tokens(source.text, planned)
    count = sum(math.prod(shape) for shape in shapes(planned).values())
    with new_folder(target, options.force) as folder:
        sha256, size = write_tensors(folder / WEIGHTS_FILE, planned.parts, assemble(planned, source.tensors))
        text = source.text
        tokenizer = checkpoint.write_tokenizer(folder, text.tokenizer, text.eos, text.stops, text.starts)
        template = None if text.template is None else checkpoint.write_template(folder, text.template)
        card = _card(source, count, options)
        config = ModelConfig(planned.architecture, planned.arguments, sha256, size, (), card, tokenizer, template)
        write_config(folder, config)
        checkpoint.load(folder, as_stored=True)
    return f"wrote {target}: {planned.architecture}, {count:,} parameters, {size:,} bytes, digest {config.digest[:12]}"


def _check_tokens(text: Text, planned: Plan) -> None:
    """Every token that can come up is one that the network knows."""
    size = planned.arguments["vocab_size"]
    vocabulary = parse_tokenizer(text.tokenizer, "tokenizer.json").get_vocab()
    largest = max(vocabulary.values(), default=-1)
    ends = [] if text.eos is None else [text.eos]
    worst = max(largest, *ends, *text.stops, *text.starts, -1)
    if not vocabulary or worst >= size:
        raise TrainingError(f"tokenizer.json: token {worst} where the network knows {size} (vocab_size)")


def _card(source: Source, parameters: int, options: argparse.Namespace) -> dict[str, Any]:
    said = dict(source.card)
    name, licence = said.pop("name", None), said.pop("license", None)
    theirs = architecture(source.config)
    return {
        "description": options.description or f"{name or options.source.name}, imported ({theirs}).",
        "license": options.license or licence or "not stated",
        "architecture": theirs,
        "parameters": parameters,
        **said,
    }
