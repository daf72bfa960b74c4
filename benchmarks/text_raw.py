"""The service's own network without the service: the prompts of a batch read in one call, then step after step.

    python -m benchmarks.text_raw weights/NAME --dtype bf16 [--rows 1 4 8 16] [--json]

Greedy, on the prompts of the comparison, in the precision and with the threads of the service's worker. What the
service makes of it is what scheduling, HTTP and the client leave.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from tokenizers import Tokenizer
from torch import Tensor

from app.worker.threads import compute_with
from benchmarks import text_prompts
from models import checkpoint, precision
from models.files import TOKENIZER_FILE
from models.precision import Precision

SPAN = 32  # attention is cut to a multiple of so many positions
WARM_TOKENS = 8


def load(folder: Path, dtype: Precision) -> Any:
    """The network as the worker serves it."""
    network = checkpoint.load(folder, as_stored=True).model
    precision.pack(network, dtype)
    return network.eval()


@torch.inference_mode()
def generate(network: Any, prompts: Tensor, tokens: int, state: Any) -> Tensor:
    """Greedy tokens [R, tokens] after prompts [R, P], in slots 0..R-1."""
    rows, length = prompts.shape
    last = network.prefill(prompts, [0] * rows, [length] * rows, range(rows), state).max(-1).indices
    found = [last]
    for position in range(length, length + tokens - 1):
        span = min((position // SPAN + 1) * SPAN, network.max_length)
        last = network.step(last, torch.full((rows,), position), span, state).max(-1).indices
        found.append(last)
    return torch.stack(found, dim=1)


def rate(network: Any, batches: Sequence[Tensor], tokens: int, slots: int) -> float:
    """Tokens/s over batches of prompts, one after the other."""
    state = network.init_state(slots)
    generate(network, batches[0], WARM_TOKENS, state)
    start = time.perf_counter()
    for prompts in batches:
        generate(network, prompts, tokens, state)
    return sum(map(len, batches)) * tokens / (time.perf_counter() - start)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Tokens/s by rows."""
    compute_with(options.threads)
    network = load(options.folder, options.dtype)
    tokenizer = Tokenizer.from_file(str(options.folder / TOKENIZER_FILE))
    prompts = text_prompts.make(tokenizer, options.prompt, max(options.rows) * options.each, options.seed)
    tensor = torch.tensor([prompt.tokens for prompt in prompts])
    return {
        str(rows): rate(network, tensor[: rows * options.each].split(rows), options.tokens, max(options.rows))
        for rows in options.rows
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="weights folder of the model")
    parser.add_argument("--dtype", choices=get_args(Precision), default="bf16")
    parser.add_argument("--rows", nargs="+", type=int, default=(1, 4, 8, 16))
    parser.add_argument("--each", type=int, default=4, help="batches of each number of rows")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a completion")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of prompts")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    found = measure(options)
    print(
        json.dumps(found)
        if options.json
        else "\n".join(f"{rows:>3} rows: {found[rows]:,.1f} tokens/s" for rows in found)
    )


if __name__ == "__main__":
    main()
