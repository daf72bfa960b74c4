"""The load: so many clients, each of which sends its next prompt when its last completion is whole.

    python -m benchmarks.text_load http://127.0.0.1:8000 NAME --tokenizer weights/NAME/tokenizer.json

Greedy completions of exactly as many tokens as were asked for, streamed. One process, one thread, on the machine of the
server; it says how much CPU time it took.
"""

import argparse
import asyncio
import dataclasses
import gc
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from tokenizers import Tokenizer

from app.bench.load import Stopwatch
from app.bench.result import percentiles
from benchmarks import text_prompts, text_stream
from benchmarks.text_prompts import Prompt
from benchmarks.text_stream import Completion, Recording, StreamError

PATH = "/v1/completions"
HEADERS = {"Content-Type": "application/json"}
TIMEOUT = aiohttp.ClientTimeout(total=120)
OPENAI: dict[str, Any] = {"ignore_eos": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True)
class Target:
    """How to ask one server.

    Attributes:
        url: of the server, without a path.
        model: as it calls it.
        fields: of the body, beside those that all servers know.
        takes_tokens: it takes a list of tokens as prompt.
    """

    url: str
    model: str
    fields: dict[str, Any] = field(default_factory=OPENAI.copy)
    takes_tokens: bool = True

    def body(self, prompt: Prompt, tokens: int) -> bytes:
        """A greedy, streamed completion of so many tokens."""
        asked = list(prompt.tokens) if self.takes_tokens else prompt.text
        fields = {"model": self.model, "prompt": asked, "max_tokens": tokens, "temperature": 0, "stream": True}
        return json.dumps({**fields, **self.fields}).encode()


@dataclass(frozen=True, kw_only=True)
class TextLoad:
    """What one closed loop found; seconds throughout, None where nothing was answered.

    Attributes:
        clients: completions in flight at once.
        completions: that came whole and of the right length. failed: all others. errors: what was wrong with the first.
        seconds: from the first request to the last answer, when nothing is in flight any more.
        tokens_per_second: of the whole completions, over `seconds`.
        first_p50, first_p99: from sending a request to its first text.
        between_p50, between_p99: over all tokens after the first text, the wait for a piece by its tokens.
        gap_p99: between one piece and the next, however many tokens it has.
        client_cpu_share: the load's own CPU time as a share of one core.
    """

    clients: int
    completions: int
    failed: int
    errors: tuple[str, ...]
    seconds: float
    tokens_per_second: float
    first_p50: float | None
    first_p99: float | None
    between_p50: float | None
    between_p99: float | None
    gap_p99: float | None
    client_cpu_share: float


async def closed_loop(
    target: Target, prompts: Sequence[Prompt], clients: int, tokens: int, count: Callable[[str], int]
) -> TextLoad:
    """Ask for all prompts, so many at once; `count` says how many tokens a piece of text has."""
    waiting, recordings = deque(target.body(prompt, tokens) for prompt in prompts), list[Recording]()

    async def client(session: aiohttp.ClientSession) -> None:
        while waiting:
            recordings.append(recording := Recording(time.perf_counter()))
            await _record(session, f"{target.url}{PATH}", waiting.popleft(), recording)

    async with _session() as session:
        gc.disable()
        watch = Stopwatch()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        took = watch.read()
        gc.enable()
    expected = len(prompts[0].tokens), tokens
    return _summary(clients, recordings, expected, took["seconds"], took["client_cpu_seconds"], count)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers=HEADERS,
        timeout=TIMEOUT,
        connector=aiohttp.TCPConnector(limit=0, force_close=True),  # llama.cpp's server ends connections after a stream
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _record(session: aiohttp.ClientSession, url: str, body: bytes, recording: Recording) -> None:
    """Keep all that comes; nothing is read before the load is over."""
    try:
        async with session.post(url, data=body, allow_redirects=False) as response:
            async for data in response.content.iter_any():
                recording.chunks.append((time.perf_counter(), data))
            if response.status != 200:
                said = b"".join(data for _, data in recording.chunks)
                recording.error = f"status {response.status}: {said[:300].decode(errors='replace')}"
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        recording.error = f"{type(error).__name__}: {error}"


def _summary(
    clients: int,
    recordings: Sequence[Recording],
    expected: tuple[int, int],
    seconds: float,
    cpu_seconds: float,
    count: Callable[[str], int],
) -> TextLoad:
    whole, errors = list[Completion](), list[str]()
    for recording in recordings:
        try:
            whole.append(_checked(recording, *expected))
        except StreamError as error:
            errors.append(str(error))
    return TextLoad(
        clients=clients,
        completions=len(whole),
        failed=len(errors),
        errors=tuple(errors[:1]),
        seconds=seconds,
        tokens_per_second=sum(completion.tokens for completion in whole) / seconds,
        client_cpu_share=cpu_seconds / seconds,
        **_latencies(whole, count),
    )


def _checked(recording: Recording, prompt_tokens: int, tokens: int) -> Completion:
    """The completion, if the server read the whole prompt and wrote as many tokens as it was asked for."""
    completion = text_stream.read(recording)
    found = completion.prompt_tokens, completion.tokens
    if found != (prompt_tokens, tokens):
        raise StreamError(
            f"{prompt_tokens} -> {tokens} tokens were asked for, the server counts {found[0]} -> {found[1]}"
        )
    return completion


def _latencies(whole: Sequence[Completion], count: Callable[[str], int]) -> dict[str, float | None]:
    first = percentiles([completion.first for completion in whole], (0.5, 0.99))
    between = percentiles([wait for completion in whole for wait in completion.between(count)], (0.5, 0.99))
    gaps = percentiles([gap for completion in whole for gap in completion.gaps], (0.99,))
    names = ("first_p50", "first_p99", "between_p50", "between_p99", "gap_p99")
    return dict(zip(names, [*first, *between, *gaps], strict=True))


def counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    """Tokens of a piece of text."""
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def loads(
    target: Target, tokenizer: Tokenizer, clients: Sequence[int], each: int, lengths: tuple[int, int], seed: int
) -> Iterator[TextLoad]:
    """Closed loops, in the order of `clients`, each after a short one as warm-up; no prompt is used twice.

    Args:
        target: whom to ask.
        tokenizer: of the model.
        clients: of each loop.
        each: completions a client.
        lengths: of a prompt and of its completion, in tokens.
        seed: of the choice of prompts.
    """
    prompts = iter(text_prompts.make(tokenizer, lengths[0], sum(clients) * (each + 1), seed))
    for number in clients:
        warm, asked = ([next(prompts) for _ in range(number * times)] for times in (1, each))
        asyncio.run(closed_loop(target, warm, number, WARM_TOKENS, counter(tokenizer)))
        yield asyncio.run(closed_loop(target, asked, number, lengths[1], counter(tokenizer)))


WARM_TOKENS = 16


def table(found: Sequence[TextLoad]) -> str:
    """A line a load."""
    lines = ["clients  tokens/s  first text p50, p99 (ms)  a token p50, p99 (ms)  gap p99 (ms)  failed  client's CPU"]
    for load in found:
        waits = (load.first_p50, load.first_p99, load.between_p50, load.between_p99, load.gap_p99)
        first, last, mid, most, gap = (f"{wait * 1000:.1f}" if wait is not None else "-" for wait in waits)
        lines.append(
            f"{load.clients:>7}{load.tokens_per_second:>10,.1f}{first:>18}{last:>8}{mid:>15}{most:>8}{gap:>14}"
            f"{load.failed:>8}{load.client_cpu_share:>14.0%}"
        )
        lines += [f"        {error}" for error in load.errors]
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the server, e.g. http://127.0.0.1:8000")
    parser.add_argument("model", help="its name there")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the model's tokenizer.json")
    parser.add_argument("--clients", nargs="+", type=int, default=(1, 4, 8, 16))
    parser.add_argument("--each", type=int, default=4, help="completions a client")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a completion")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of prompts")
    parser.add_argument("--text", action="store_true", help="send prompts as text, not as tokens")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    target = Target(options.url.rstrip("/"), options.model, takes_tokens=not options.text)
    tokenizer, lengths = Tokenizer.from_file(str(options.tokenizer)), (options.prompt, options.tokens)
    found = list(loads(target, tokenizer, options.clients, options.each, lengths, options.seed))
    print(json.dumps([dataclasses.asdict(load) for load in found]) if options.json else table(found))


if __name__ == "__main__":
    main()
