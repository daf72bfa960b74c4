"""What the service gives of each model that it serves, over HTTP: pictures, tokens or seconds of speech a second.

    python -m benchmarks.throughput [--url URL] [--model NAME ...] [--clients 8] [--seconds 10]

One closed loop a model, none at the same time. Without --url the service is started as it is shipped, on the weights of
the repository. Writes results/throughput.json, model by model: others that are in it stay. Exit status: 0, or 1 with
one line that says what is wrong.
"""

import argparse
import asyncio
import contextlib
import io
import json
import sys
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from app.bench import load, target, wrk
from app.bench.errors import BenchError, Unusable
from app.bench.options import service_url
from app.bench.result import Result, TextResult
from app.bench.target import Target
from benchmarks import machine, server
from benchmarks.generators import ROOT

RESULTS = ROOT / "benchmarks/results/throughput.json"
CLIENTS, SECONDS, WARM_UP_SECONDS = 8, 10.0, 1.0
PATIENT = 3  # times as long for answers that take a second or so: the last ones are cut off, and not counted
TOKENS = 64
CAPTION, SAID = "a small red dog on a blue background", "please hold the line"
PICTURES, TEXT, CAPTIONED, SPEECH = "pictures", "text", "pictures of captions", "speech"  # as cards call them
UNITS = {PICTURES: "pictures/s", CAPTIONED: "pictures/s", TEXT: "tokens/s", SPEECH: "s of speech/s"}
SLOW = (CAPTIONED, SPEECH)


@dataclass(frozen=True)
class Subject:
    """One model and the request that asks it for something.

    Attributes:
        makes: a key of `UNITS`.
        amount: of its unit in one answer; text is counted token by token.
    """

    target: Target
    makes: str
    amount: float = 1.0


def request(url: str, name: str, card: Mapping[str, Any]) -> Subject | None:
    """What to ask of a model; None for one that makes nothing by itself: it failed, or decodes another one's codes."""
    makes, digest = card.get("makes", ""), card.get("digest", "")
    if makes not in UNITS or card.get("codes"):
        return None
    if makes == TEXT:
        return Subject(target.text(url, name, digest, TOKENS), makes)
    if makes == PICTURES:
        return Subject(target.picture(url, name, digest), makes)
    route, prompt = ("audio", SAID) if makes == SPEECH else ("images", CAPTION)
    body = json.dumps({"model": name, "prompt": prompt}).encode()
    return Subject(Target(name, digest, makes, f"{url}/v1/{route}/generate", body), makes)


async def survey(url: str, names: Sequence[str]) -> list[Subject]:
    """Ask the service what it serves, then each of these models (all when none is named) for one thing.

    Raises:
        BenchError: the service does not answer, or has no such model.
    """
    async with aiohttp.ClientSession(timeout=target.TIMEOUT) as session:
        status, _, data = await target.exchange(session, "GET", f"{url}/v1/models")
        if status != 200:
            raise Unusable(f"{url}: GET /v1/models answers {status}{target.reason(data)}")
        cards = {entry["id"]: entry["genserve"] for entry in json.loads(data)["data"]}
        missing = [name for name in names if name not in cards]
        if missing:
            raise Unusable(f"--model {missing[0]}: {url} serves {', '.join(cards)}")
        asked = [request(url, name, cards[name]) for name in names or cards]
        return [await _try(session, subject) for subject in asked if subject is not None]


async def _try(session: aiohttp.ClientSession, subject: Subject) -> Subject:
    """The same, once it has answered, with its runtime and what one answer holds."""
    asked = subject.target
    status, headers, data = await target.exchange(session, "POST", asked.url, data=asked.body, headers=asked.headers)
    if status != 200:
        raise Unusable(f"{asked.model}: {asked.url} answers {status}{target.reason(data)}")
    known = Target(**{**vars(asked), "runtime": headers.get("X-Genserve-Runtime", "unknown")})
    return Subject(known, subject.makes, _seconds(data) if subject.makes == SPEECH else 1.0)


def _seconds(content: bytes) -> float:
    """How long a WAV file plays."""
    with wave.open(io.BytesIO(content)) as file:
        return file.getnframes() / file.getframerate()


def measure(subject: Subject, clients: int, seconds: float) -> dict[str, Any]:
    """One closed loop, after a short one that nobody counts: what came of it, with where and when.

    Raises:
        BenchError: nothing was answered.
    """
    _loop(subject, clients, min(WARM_UP_SECONDS, seconds))
    result = _loop(subject, clients, seconds * (PATIENT if subject.makes in SLOW else 1))
    if result.failed or not result.answered:
        raise Unusable(f"{subject.target.model}: {result.failed} requests failed, {result.answered} were answered")
    return {
        "digest": subject.target.digest,
        "value": result.tokens_per_second if isinstance(result, TextResult) else result.throughput * subject.amount,
        "unit": UNITS[subject.makes],
        "clients": clients,
        "seconds": result.seconds,
        "answered": result.answered,
        "refused": result.refused,
        "p50": result.p50,
        "p99": result.p99,
        "client": result.client,
        "runtime": subject.target.runtime,
        "request": json.loads(subject.target.body),
        **machine.describe(),
    }


def _loop(subject: Subject, clients: int, seconds: float) -> Result:
    asked = subject.target
    if subject.makes == TEXT:
        return asyncio.run(load.text_closed_loop(asked, clients, seconds))
    if subject.makes in SLOW or wrk.version() is None:
        return asyncio.run(load.closed_loop(asked, clients, seconds))
    return wrk.closed_loop(asked.url, asked.body, clients, seconds, asked.headers)


@contextlib.contextmanager
def service(url: str | None) -> Iterator[str]:
    """The URL of the service that is to be measured: a running one, or one that is started for it.

    Raises:
        ServerError: it does not start.
    """
    if url is not None:
        yield service_url(url)
        return
    port = server.free_port()
    command = [sys.executable, "-m", "app.cli", "serve", "--weights", str(ROOT / "weights"), "--port", str(port)]
    with server.running(server.Launch("throughput", command, port, "/v1/images/generate")):
        yield f"http://127.0.0.1:{port}"


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Put figures beside those that the file holds of other models."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(dict(sorted({**known, **found}.items())), indent=1) + "\n")


def run(options: argparse.Namespace) -> None:
    """Measure; what was measured is written, whatever happens next."""
    with service(options.url) as url:
        for subject in asyncio.run(survey(url, options.model)):
            found = measure(subject, options.clients, options.seconds)
            print(f"{subject.target.model}: {found['value']:,.1f} {found['unit']}", file=sys.stderr, flush=True)
            write(options.json, {subject.target.model: found})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--url", help="a running service (default: one is started)")
    add("--model", nargs="+", action="extend", default=[], metavar="NAME", help="what to measure (default: all models)")
    add("--clients", type=int, default=CLIENTS, help="clients of the closed loop (default: %(default)s)")
    add("--seconds", type=float, default=SECONDS, help="length of a loop (default: %(default)s)")
    add("--json", type=Path, default=RESULTS, metavar="FILE", help="where to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not 1 <= options.clients <= 1024 or not 0 < options.seconds <= 600:
        parser.error("--clients: 1 to 1024; --seconds: above 0, up to 600")
    try:
        run(options)
    except (BenchError, server.ServerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
