"""Measure a language model's perplexity: `python -m training.perplexity NAME --text FILE --dtype int4 --against bf16`.

What is measured is what is served: the packed network reads half a window in one piece and the rest token by token,
many windows beside each other. Prints a line a precision; `--json` writes the figures to a file, `--card` into the
folder's `config.json`. Exit status: 0 all precisions may be served, 1 one may not or something is wrong, said in one
line.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from models import checkpoint, precision
from models.calibration import SAMPLE
from models.checkpoint import CheckpointError
from models.precision import Precision, PrecisionError
from models.protocols import SequenceModel
from training.errors import TrainingError
from training.evaluate import find_folder
from training.fluency import sequence_model
from training.writer import as_writer

LIMIT = 1.03  # times the perplexity in bf16: a precision with more is not served
HALF = 256  # tokens of a window that are read first, and as many that are predicted
ROWS = 16  # windows beside each other


@dataclass(frozen=True)
class Sample:
    """A text as windows of tokens.

    Attributes:
        windows: [N, 2 * half], overlapping by half.
        size: bytes of the text behind all second halves.
        name: of the file.
        sha256: of the file.
    """

    windows: Tensor
    size: int
    name: str
    sha256: str

    @property
    def half(self) -> int:
        """Tokens that are predicted in each window."""
        return self.windows.shape[1] // 2


@dataclass(frozen=True)
class Perplexity:
    """How well a model in one precision predicts a text.

    Attributes:
        dtype: the precision.
        perplexity: exp of the mean loss of a token.
        bits_per_byte: comparable between tokenizers.
    """

    dtype: Precision
    perplexity: float
    bits_per_byte: float

    def ratio(self, reference: "Perplexity") -> float:
        """Perplexity as a multiple of another one's."""
        return self.perplexity / reference.perplexity

    def may_be_served(self, reference: "Perplexity") -> bool:
        """Whether a precision keeps what the network has learnt: the rule for serving it at all."""
        return self.ratio(reference) <= LIMIT


def read_sample(path: Path, tokenizer: Tokenizer, half: int, most: int) -> Sample:
    """Windows of a text: the first half of the first one is context alone, every later token is predicted once.

    Args:
        path: of a UTF-8 text.
        tokenizer: the model's.
        half: tokens of half a window.
        most: tokens that are predicted, at most.

    Raises:
        TrainingError: the text can't be read, or is shorter than a window.
    """
    try:
        content = path.read_bytes()
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: unreadable: {error}") from error
    encoding = tokenizer.encode(text, add_special_tokens=False)
    count = min(len(encoding.ids) - half, most) // half
    if count < 1:
        raise TrainingError(f"{path}: {len(encoding.ids)} tokens; {2 * half} or more are needed")
    ends = encoding.offsets[half][0], encoding.offsets[half * (count + 1) - 1][1]
    tokens = torch.tensor(encoding.ids[: half * (count + 1)])
    digest = hashlib.sha256(content).hexdigest()
    return Sample(tokens.unfold(0, 2 * half, half), len(text[slice(*ends)].encode()), path.name, digest)


@torch.inference_mode()
def measure(network: SequenceModel[Any], sample: Sample, dtype: Precision) -> Perplexity:
    """Perplexity of the second halves of all windows, each after its first half."""
    nats = math.fsum(_nats(network, windows) for windows in torch.split(sample.windows, ROWS))
    count = len(sample.windows) * sample.half
    return Perplexity(dtype, math.exp(nats / count), nats / math.log(2) / sample.size)


def _nats(network: SequenceModel[Any], windows: Tensor) -> float:
    """Losses of the second halves of windows [R, 2 * half], summed."""
    rows, length = windows.shape
    half = length // 2
    state = network.init_state(rows)
    # Prompts are read in the pieces that a prompt of this length is served in: one.
    logits = network.prefill(windows[:, :half], [0] * rows, [half] * rows, range(rows), state)
    total = _loss(logits, windows[:, half])
    for position in range(half, length - 1):
        places = torch.full((rows,), position)
        logits = network.step(windows[:, position], places, length, state)
        total += _loss(logits, windows[:, position + 1])
    return total


def _loss(logits: Tensor, targets: Tensor) -> float:
    return F.cross_entropy(logits.float(), targets, reduction="sum").item()


def measure_folder(folder: Path, text: Path, dtypes: Sequence[Precision], most: int) -> tuple[Sample, list[Perplexity]]:
    """A weights folder in several precisions, each loaded and packed anew.

    Raises:
        TrainingError: the folder, its network or the text can't be used.
    """
    found, sample = [], None
    for dtype in dtypes:
        try:
            loaded = checkpoint.load(folder, as_stored=True)
            writer = as_writer(folder, loaded)
            network = sequence_model(loaded.model)
            half = min(HALF, network.max_length // 2)
            sample = sample or read_sample(text, writer.tokenizer, half, most)
            precision.pack(loaded.model, dtype, writer.tokenizer.encode(SAMPLE, add_special_tokens=False).ids)
        except (CheckpointError, PrecisionError) as error:
            raise TrainingError(str(error)) from error
        found.append(measure(network, sample, dtype))
    assert sample is not None
    return sample, found


def as_record(sample: Sample, found: Sequence[Perplexity]) -> dict[str, Any]:
    """The figures for a file or a card; the first precision is what the others are compared with."""
    reference = found[0]
    return {
        "text": sample.name,
        "sha256": sample.sha256,
        "bytes": sample.size,
        "tokens": len(sample.windows) * sample.half,
        "context": [sample.half, 2 * sample.half - 1],
        "limit": LIMIT,
        "precisions": {
            one.dtype: {
                "perplexity": round(one.perplexity, 4),
                "bits_per_byte": round(one.bits_per_byte, 5),
                f"times_{reference.dtype}": round(one.ratio(reference), 4),
                "served": one.may_be_served(reference),
            }
            for one in found
        },
    }


def lines(name: str, found: Sequence[Perplexity]) -> list[str]:
    """What a person reads, a line a precision."""
    reference = found[0]
    return [
        f"{name} {one.dtype}: perplexity {one.perplexity:.3f}, {one.bits_per_byte:.4f} bits per byte"
        f", {100 * (one.ratio(reference) - 1):+.2f} % against {reference.dtype}"
        for one in found
    ]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.perplexity", description=__doc__)
    choices = get_args(Precision)
    parser.add_argument("name", help="a name under weights/, or a weights folder")
    parser.add_argument("--text", type=Path, required=True, help="a text that the model was not trained on")
    parser.add_argument("--dtype", nargs="+", choices=choices, required=True, help="precisions to measure")
    parser.add_argument("--against", choices=choices, default="bf16", help="the precision to compare with (bf16)")
    parser.add_argument("--tokens", type=int, default=1 << 14, help="tokens that are predicted, at most (16384)")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: as many as torch takes")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--card", action="store_true", help="write them into the folder's config.json")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Measure, print and write; the exit status.

    Raises:
        TrainingError: something can't be used, or a precision may not be served.
    """
    options = build_parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = find_folder(options.name)
    sample, found = measure_folder(
        folder, options.text, list(dict.fromkeys([options.against, *options.dtype])), options.tokens
    )
    print("\n".join(lines(folder.name, found)))
    record = as_record(sample, found)
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    if options.card:
        config = checkpoint.read_config(folder)
        checkpoint.write_config(folder, checkpoint.with_card(config, {**config.card, "precision": record}))
    if worse := [one.dtype for one in found if not one.may_be_served(found[0])]:
        raise TrainingError(
            f"{folder.name}: {', '.join(worse)} costs more than {100 * (LIMIT - 1):.0f} % of perplexity"
        )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status; errors are one line."""
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
