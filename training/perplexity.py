"""Measure a language model's perplexity: `python -m training.perplexity NAME --dtype int8 int4 --against bf16`.

What is measured is what is served: the packed network reads half a window in one piece and the rest token by token,
many windows beside each other. The texts are those of `--text`, else the works that the model's card names as held out.
Prints a line a precision; `--json` writes the figures to a file, `--card` into the folder's config.json and README.md:
the service refuses a precision that costs too much by its card. Exit status: 0 all precisions may be served, 1 one may
not or something is wrong, said in one line.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from models import checkpoint, precision
from models.calibration import SAMPLE
from models.checkpoint import Checkpoint
from models.config import read_config, with_card, write_config
from models.errors import CheckpointError
from models.files import write_atomically
from models.precision import Precision, PrecisionError
from models.protocols import SequenceModel
from training import card as cards
from training import text_card
from training.errors import TrainingError
from training.fluency import sequence_model
from training.provenance import corpus_of
from training.text import Work
from training.weights import find_folder
from training.writer import as_writer

LIMIT = 1.03  # times the perplexity in bf16: a precision with more is not served
HALF = 256  # tokens of a window that are read first, and as many that are predicted
ROWS = 16  # windows beside each other


@dataclass(frozen=True)
class Sample:
    """Texts as windows of tokens.

    Attributes:
        windows: [N, 2 * half], those of one text overlapping by half.
        size: bytes of the texts behind all second halves.
        texts: sha256 of each, by name.
    """

    windows: Tensor
    size: int
    texts: Mapping[str, str]

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


def read_texts(paths: Sequence[Path]) -> list[Work]:
    """Texts of one's own, as they are.

    Raises:
        TrainingError: one can't be read, or is not UTF-8.
    """
    works = []
    for path in paths:
        try:
            works.append(Work(path.name, path.read_bytes().decode()))
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingError(f"{path}: unreadable: {error}") from error
    return works


def read_sample(works: Sequence[Work], tokenizer: Tokenizer, half: int, most: int) -> Sample:
    """Windows of texts: the first half of a text's first one is context alone, every later token is predicted once.

    Args:
        works: the texts; each stands alone.
        tokenizer: the model's.
        half: tokens of half a window.
        most: tokens of each text that are predicted, at most.

    Raises:
        TrainingError: a text is shorter than a window.
    """
    found = [_windows(work, tokenizer, half, most) for work in works]
    digests = {work.name: hashlib.sha256(work.content.encode()).hexdigest() for work in works}
    return Sample(torch.cat([windows for windows, _ in found]), sum(size for _, size in found), digests)


def _windows(work: Work, tokenizer: Tokenizer, half: int, most: int) -> tuple[Tensor, int]:
    """Windows of one text, [N, 2 * half], and bytes behind their second halves."""
    encoding = tokenizer.encode(work.content, add_special_tokens=False)
    count = min(len(encoding.ids) - half, most) // half
    if count < 1:
        raise TrainingError(f"{work.name}: {len(encoding.ids)} tokens; {2 * half} or more are needed")
    ends = encoding.offsets[half][0], encoding.offsets[half * (count + 1) - 1][1]
    tokens = torch.tensor(encoding.ids[: half * (count + 1)])
    return tokens.unfold(0, 2 * half, half), len(work.content[slice(*ends)].encode())


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


def measure_folder(
    folder: Path, texts: Callable[[Checkpoint], Sequence[Work]], dtypes: Sequence[Precision], most: int
) -> tuple[Sample, list[Perplexity]]:
    """A weights folder in several precisions, each loaded and packed anew, on the texts for it.

    Raises:
        TrainingError: the folder, its network or the texts can't be used.
    """
    found, sample = [], None
    for dtype in dtypes:
        try:
            loaded = checkpoint.load(folder, as_stored=True)
            writer = as_writer(folder, loaded)
            network = sequence_model(loaded.model)
            half = min(HALF, network.max_length // 2)
            sample = sample or read_sample(texts(loaded), writer.tokenizer, half, most)
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
        "texts": dict(sample.texts),
        "bytes": sample.size,
        "tokens": len(sample.windows) * sample.half,
        "context": [sample.half, 2 * sample.half - 1],
        "against": reference.dtype,
        "limit": LIMIT,
        "precisions": {
            one.dtype: {
                "perplexity": round(one.perplexity, 4),
                "bits_per_byte": round(one.bits_per_byte, 5),
                "ratio": round(one.ratio(reference), 4),
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


def write_card(folder: Path, record: Mapping[str, Any]) -> None:
    """State the figures in the folder's card, and in its README.md where that is written from the card.

    Raises:
        CheckpointError: the folder has no readable configuration.
        OSError: a file can't be read or written.
    """
    config = read_config(folder)
    config = with_card(config, {**config.card, "precision": record})
    if text_card.writes(config.card):
        texts = text_card.read_samples((folder / text_card.SAMPLES_FILE).read_text())
        write_atomically(folder / "README.md", cards.render(folder.name, config, texts).encode())
    write_config(folder, config)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.perplexity", description=__doc__)
    choices = get_args(Precision)
    parser.add_argument("name", help="a name under weights/, or a weights folder")
    parser.add_argument("--text", type=Path, nargs="+", help="texts that the model was not trained on")
    parser.add_argument("--data", help="folder of the data that the card names (default: data/NAME)")
    parser.add_argument("--dtype", nargs="+", choices=choices, required=True, help="precisions to measure")
    parser.add_argument("--against", choices=choices, default="bf16", help="the precision to compare with (bf16)")
    parser.add_argument("--tokens", type=int, default=1 << 14, help="tokens predicted of each text, at most (16384)")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: as many as torch takes")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--card", action="store_true", help="write them into config.json and README.md")
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
    own = read_texts(options.text or ())
    dtypes = list(dict.fromkeys([options.against, *options.dtype]))
    sample, found = measure_folder(
        folder, lambda loaded: own or corpus_of(loaded, options.data).test, dtypes, options.tokens
    )
    print("\n".join(lines(folder.name, found)))
    record = as_record(sample, found)
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    if options.card:
        write_card(folder, record)
    if worse := [one.dtype for one in found if not one.may_be_served(found[0])]:
        raise TrainingError(
            f"{folder.name}: {', '.join(worse)} costs more than {100 * (LIMIT - 1):.0f} % of perplexity"
        )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status; errors are one line."""
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except (TrainingError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
