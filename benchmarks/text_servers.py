"""Starts servers of text, ours and the peers', on the same weights; knows how each wants to be run and asked.

`started` waits for a first completion and ends the whole tree of processes afterwards. How each is run was tried out
(`RESULTS.md`): what was measured to help it is here.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.peers import llama_cpp
from benchmarks.server import Launch, descendants, free_port, running
from benchmarks.text_load import PATH, Target
from benchmarks.text_prompts import Prompt

SLOTS = 16  # completions that every server is told to run at once
POSITIONS = 256  # of each, prompt included
THREADS = 2
OURS = "genserve"
SAME = {
    "BF16": "bf16",
    "Q8_0": "int8",
    "Q4_0": "int4",
    "Q4_1": "int4",
}  # which of our precisions llama.cpp's are beside


@dataclass(frozen=True)
class TextServer:
    """One server in one precision.

    Attributes:
        name: of the program and the precision, e.g. "llama.cpp Q4_0".
        precision: of its weights, as the report compares them: bf16, int8 or int4.
        command: program and arguments, without the port.
        target: how to ask it; `url` is filled in when it starts.
        environment: beside that of this process.
    """

    name: str
    precision: str
    command: Sequence[str]
    target: Target
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """A server that has answered.

    Attributes:
        target: how to ask it.
        pid: of its first process.
        first_seconds: from its launch to its first completion.
    """

    target: Target
    pid: int
    first_seconds: float

    @property
    def resident(self) -> int:
        """Resident bytes of the whole tree; memory that processes share counts once for each."""
        return sum(map(_resident, descendants(self.pid)))


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def genserve(weights: Path, model: str, dtype: str) -> TextServer:
    """`genserve serve` with this one model."""
    command = [sys.executable, "-m", "app.cli", "serve", "--weights", str(weights), "--models", model]
    environment = {"GENSERVE_DTYPE": dtype, "GENSERVE_MAX_SLOTS": str(SLOTS)}
    return TextServer(f"{OURS} {dtype}", dtype, command, Target("", model), environment)


def llama(folder: Path, precision: str) -> TextServer:
    """llama.cpp's server, built and converted by `peers.llama_cpp`."""
    weights = llama_cpp.weights(folder, precision)
    options = ["-t", THREADS, "-np", SLOTS, "-c", SLOTS * POSITIONS, "--no-ui", "--cache-ram", 0]
    command = [llama_cpp.program(folder, "llama-server"), "-m", weights, "--host", "127.0.0.1", *options]
    return TextServer(f"llama.cpp {precision}", SAME[precision], [*map(str, command)], Target("", weights.stem))


def transformers(program: Path, folder: Path) -> TextServer:
    """`transformers serve` with continuous batching; it takes text alone, and no `ignore_eos`."""
    blocks = 2 * SLOTS * POSITIONS // PAGE  # with some to spare, lest one waits for another's
    options = ["--continuous-batching", "--device", "cpu", "--dtype", "bfloat16", "--host", "127.0.0.1"]
    command = [program, "serve", folder, *options, "--cb-num-blocks", blocks, "--cb-max-batch-tokens", BATCH_TOKENS]
    target = Target("", str(folder), {}, takes_tokens=False)
    return TextServer("transformers bf16", "bf16", [*map(str, command)], target, {"HF_HUB_OFFLINE": "1"})


PAGE = 256  # positions of a block of transformers' cache
BATCH_TOKENS = 1024  # of one of its batches: all prompts of 16 clients


@contextlib.contextmanager
def started(chosen: TextServer, prompt: Prompt) -> Iterator[Started]:
    """The server, from its first completion to its surely being gone with all its children.

    Raises:
        ServerError: it ends, or does not answer in time.
    """
    port = free_port()
    target = replace(chosen.target, url=f"http://127.0.0.1:{port}")
    command, probe = [*chosen.command, "--port", str(port)], target.body(prompt, 1)
    launch = Launch(chosen.name.replace(" ", "-"), command, port, PATH, chosen.environment, probe)
    begun = time.perf_counter()
    with running(launch) as process:
        yield Started(target, process.pid, time.perf_counter() - begun)
