"""What goes over HTTP: a model's card, and the pictures of a part, asked for again while there is hope."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from app.bench.errors import Unusable
from app.bench.target import TIMEOUT, exchange, reason
from app.dataset import archive
from app.dataset.plan import Part, Plan

ARCHIVE = {"Content-Type": "application/json", "Accept": "application/zip"}
PASSING = (429, 503, 504)  # overloaded, not ready or restarting, too late: later it may work
TRIES = 12  # of one request; with the pauses below, a service may be gone for about a minute and a half
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0  # seconds; each pause is twice the one before unless the service says how long


def session() -> aiohttp.ClientSession:
    """For one set."""
    return aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar())


async def card(connection: aiohttp.ClientSession, url: str, model: str) -> Mapping[str, Any]:
    """What the service says of a model.

    Raises:
        Unusable: the service can't be reached, or does not answer as genserve does.
    """
    status, _, data = await exchange(connection, "GET", f"{url}/v1/models/{model}")
    if status != 200:
        raise Unusable(f"{url}: GET /v1/models/{model} answers {status}{reason(data)}")
    try:
        return dict(json.loads(data)["genserve"])
    except (ValueError, KeyError, TypeError):
        raise Unusable(f"{url}: GET /v1/models/{model} is not answered as genserve does") from None


async def fetch(connection: aiohttp.ClientSession, url: str, plan: Plan, part: Part) -> bytes:
    """The archive of a part, checked.

    Raises:
        Unusable: the service refuses, goes on failing, answers something else, or is no longer the one of the plan.
    """
    why, pause = "", FIRST_PAUSE
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(pause)
        try:
            status, headers, data = await exchange(
                connection, "POST", f"{url}/v1/images/generate", data=plan.body(part), headers=ARCHIVE
            )
        except Unusable as error:
            why, pause = str(error), _longer(pause)
            continue
        if status == 200:
            return _checked(plan, part, headers, data)
        why = f"{url}: answers {status} to {_name(plan, part)}{reason(data)}"
        if status not in PASSING:
            raise Unusable(why)
        pause = _retry_after(headers) or _longer(pause)
    raise Unusable(f"{why}; given up after {TRIES} tries")


def _longer(pause: float) -> float:
    return min(2 * pause, LONGEST_PAUSE)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to be left alone for; None when it does not say, or says it as a date."""
    given = headers.get("Retry-After", "")
    return min(max(int(given), FIRST_PAUSE), LONGEST_PAUSE) if given.isdecimal() else None


def _checked(plan: Plan, part: Part, headers: Mapping[str, str], data: bytes) -> bytes:
    """An answer, if it is of this model on this runtime and holds these pictures."""
    for header, wanted in (("X-Genserve-Model", plan.identity), ("X-Genserve-Runtime", plan.runtime)):
        if (found := headers.get(header, "nothing")) != wanted:
            raise Unusable(f"the service has changed: {header} says {found}, the set is of {wanted}")
    try:
        archive.pixels(archive.unpack(data, part), plan.shape)
    except ValueError as error:
        raise Unusable(f"the answer to {_name(plan, part)} is {error}") from None
    return data


def _name(plan: Plan, part: Part) -> str:
    return f"class {plan.labels[part.category]!r}, seeds {part.seeds[0]} to {part.seeds[-1]}"
