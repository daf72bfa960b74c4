"""`genserve dataset`: a labelled set of pictures through a service that runs, which may be cut short and gone on with.

Exit codes: 0 the set is complete, 1 the service can't be used or the disk fails, 2 bad flags, or the folder holds
something else, 130 interrupted. After 1 and 130 the same command goes on where it was; a set that was complete and has
been changed since is only told of.
"""

import asyncio
import sys
from collections.abc import Iterator, Mapping

import aiohttp

from app.bench.errors import BadFlag, BenchError
from app.bench.target import PICTURE, survey
from app.dataset import client, layouts
from app.dataset.folder import Folder
from app.dataset.options import Options, read
from app.dataset.plan import Part, Plan, make_plan
from app.dataset.progress import Progress

INTERRUPTED = 130


def run(flags: Mapping[str, object]) -> int:
    """Make the set, or what is missing of it; the exit status."""
    try:
        options = read(flags)
        with Folder(options.out, asyncio.run(_plan(options))) as folder:
            return _make(options, folder)
    except BenchError as error:
        _say(str(error))
        return error.status
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        return INTERRUPTED


def _say(line: str) -> None:
    print(f"genserve dataset: {line}", file=sys.stderr)


async def _plan(options: Options) -> Plan:
    """What to make, from what is wanted and what the service serves."""
    (target,) = await survey(options.url, [options.model], n=1, max_tokens=1)
    if target.kind != PICTURE:
        raise BadFlag(f"--model {options.model}: writes texts, a set is made of pictures")
    async with client.session() as connection:
        card = await client.card(connection, options.url, options.model)
    return make_plan(options, target.digest, target.runtime, card)


def _make(options: Options, folder: Folder) -> int:
    if folder.complete:
        layouts.check(folder)
        _say(f"{folder.path}: complete already, and as its manifest says")
        return 0
    missing = [part for parts in folder.plan.rounds() for part in parts if not folder.holds(part)]
    asyncio.run(_fetch(options, folder, missing))
    folder.finish(layouts.write(folder))
    print(f"{folder.path}: {folder.plan.total:,} pictures of {folder.plan.identity} on {folder.plan.runtime}")
    return 0


async def _fetch(options: Options, folder: Folder, missing: list[Part]) -> None:
    """Ask for what is missing, so many parts at once."""
    total = folder.plan.total
    progress = Progress(total - sum(part.count for part in missing), total)
    waiting = iter(missing)
    try:
        async with client.session() as connection, asyncio.TaskGroup() as group:
            for _ in range(min(options.concurrency, len(missing))):
                group.create_task(_work(connection, options.url, folder, waiting, progress))
    except ExceptionGroup as group:  # the first to fail has cancelled the others
        raise group.exceptions[0] from None


async def _work(
    connection: aiohttp.ClientSession, url: str, folder: Folder, waiting: Iterator[Part], progress: Progress
) -> None:
    for part in waiting:
        folder.put(part, await client.fetch(connection, url, folder.plan, part))
        progress.add(part.count)
