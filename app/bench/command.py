"""`genserve bench`: a plan from flags and service, one load after the other, a table at the end.

Exit codes: 0 everything was answered, 1 the service can't be used or a request failed, 2 bad flags, 130 interrupted.
Refusals (429) are no failures: an open loop above the service's capacity is meant to provoke them.
"""

import asyncio
import gc
import json
import sys
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import aiohttp
import uvloop

from app.bench import load, report, wrk
from app.bench.errors import BadFlag, BenchError, Unusable
from app.bench.options import Options, read
from app.bench.report import Row
from app.bench.result import Result
from app.bench.target import PICTURE, Target, survey

INTERRUPTED = 130
WARM_UP_SECONDS, WARM_UP_CLIENTS = 1.0, 8
SEED = 7  # of the open loops' schedules

T = TypeVar("T")


def run(flags: Mapping[str, object]) -> int:
    """Measure; the exit status."""
    try:
        options = read(flags)
        bench = Bench(options, _sender(options))
        return bench.run(_await(survey(options.url, options.models, n=options.n, max_tokens=options.max_tokens)))
    except BenchError as error:
        _say(str(error))
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED


def _sender(options: Options) -> str | None:
    """The version of wrk if closed loops of pictures go through it."""
    version = None if options.client == "python" else wrk.version()
    if version is None and options.client == "wrk":
        raise BadFlag("--client wrk: there is no program wrk on the PATH (Debian: apt install wrk)")
    most = max(options.clients)
    allowed = load.open_files(most)
    if allowed < most:
        raise BadFlag(f"--clients {most}: the limit on open files (ulimit -Hn) allows {max(allowed, 0)}")
    return version


def _await(work: Coroutine[Any, Any, T]) -> T:
    """On uvloop, which takes a quarter of the CPU time of a request off asyncio's own loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _say(line: str) -> None:
    print(f"genserve bench: {line}", file=sys.stderr)


class Bench:
    """One run over all targets; what is measured stays in `rows`, whatever happens next."""

    def __init__(self, options: Options, wrk_version: str | None) -> None:
        self.options, self.wrk_version = options, wrk_version
        self.rows: list[Row] = []

    def run(self, targets: Sequence[Target]) -> int:
        """Measure everything, then report; the exit status."""
        gc.collect()
        gc.freeze()  # a full collection in the client would be the p99
        status = 0
        try:
            for target in targets:
                for row in self._pictures(target) if target.kind == PICTURE else self._texts(target):
                    self._add(row)
        except KeyboardInterrupt:
            status = INTERRUPTED
            _say("interrupted; what was measured so far:")
        except BenchError as error:
            status = error.status
            _say(str(error))
        failed = any(row.result.failed or not row.result.answered for row in self.rows)
        return self._report(targets) or status or int(failed)

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        if row.result.failed and not row.result.answered:
            raise Unusable(f"{row.target.model}, {row.load}: none of {row.result.failed:,} requests was answered")

    def _pictures(self, target: Target) -> Iterator[Row]:
        seconds, clients = self.options.seconds, self.options.clients
        self._progress(target, "warm-up")
        self._closed(target, min(WARM_UP_CLIENTS, max(clients)), min(WARM_UP_SECONDS, seconds))
        best = 0.0
        for count in clients:
            self._progress(target, f"closed loop, clients: {count}")
            row = Row(target, self._closed(target, count, seconds))
            best = max(best, row.result.throughput)
            yield row
        for share in self.options.rates if best else ():
            self._progress(target, f"open loop, {share:g} of {best:,.0f} requests/s")
            yield Row(target, _await(load.open_loop(target, share * best, seconds, SEED)), share)

    def _closed(self, target: Target, clients: int, seconds: float) -> Result:
        if self.wrk_version is None:
            return _await(load.closed_loop(target, clients, seconds))
        return wrk.closed_loop(target.url, target.body, clients, seconds, target.headers)

    def _texts(self, target: Target) -> Iterator[Row]:
        self._progress(target, "warm-up")
        _await(load.text_closed_loop(target, 1, min(WARM_UP_SECONDS, self.options.seconds)))
        for count in self.options.clients:
            self._progress(target, f"closed loop, streams: {count}")
            yield Row(target, _await(load.text_closed_loop(target, count, self.options.seconds)))

    def _progress(self, target: Target, what: str) -> None:
        _say(f"{target.model}: {what}")

    def _report(self, targets: Sequence[Target]) -> int:
        """Print, and write the file; the exit status of that."""
        if not self.rows:
            return 0
        about = {
            "url": self.options.url,
            "client": f"{f'wrk {self.wrk_version}, ' if self.wrk_version else ''}aiohttp {aiohttp.__version__}",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "pictures_a_request": self.options.n,
            "max_tokens": self.options.max_tokens,
        }
        print(f"{about['url']}, {about['date']}, {about['client']}, {self.options.seconds:g} s each")
        for target in targets:
            print(f"{target.model}@{target.digest[:12]} on {target.runtime}")
        print()
        print("\n".join([report.table(self.rows), "", *report.notes(self.rows)]).rstrip())
        return self._write(report.document(self.rows, **about))

    def _write(self, document: dict[str, Any]) -> int:
        if self.options.json is None:
            return 0
        try:
            self.options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            _say(f"--json {self.options.json}: {error.strerror}")
            return 1
        return 0
