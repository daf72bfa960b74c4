"""What to send and where: the service says what it serves, one request a model says whether it can be asked so."""

import json
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from app.bench.errors import BadFlag, Unusable

PICTURE, TEXT = "latent", "sequence"  # kinds, as `GET /v1/models` calls them
PROMPT, TEMPERATURE = "Once upon a time", 0.8
HEADERS = {"Content-Type": "application/json"}
TIMEOUT = aiohttp.ClientTimeout(total=60)


@dataclass(frozen=True)
class Target:
    """One model and the request that asks it for something.

    Attributes:
        runtime: what the model runs on, as an answer's `X-Genserve-Runtime` said; empty before one came.
    """

    model: str
    digest: str
    kind: str
    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=HEADERS.copy)
    runtime: str = ""


def picture(url: str, model: str, digest: str = "", n: int = 1) -> Target:
    """A request for n pictures; the service draws the seed, so that no two are alike."""
    return Target(model, digest, PICTURE, f"{url}/v1/images/generate", _body(model=model, n=n))


def text(url: str, model: str, digest: str = "", max_tokens: int = 64) -> Target:
    """A request for a streamed text of so many tokens at most."""
    body = _body(model=model, prompt=PROMPT, max_tokens=max_tokens, temperature=TEMPERATURE, stream=True)
    return Target(model, digest, TEXT, f"{url}/v1/text/complete", body)


def _body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


async def survey(url: str, names: Sequence[str], *, n: int, max_tokens: int) -> list[Target]:
    """Ask the service what it serves, then each model for one thing.

    Args:
        url: of the service, without a slash at its end.
        names: the models to measure; empty: all that make pictures or text.
        n: pictures a request.
        max_tokens: tokens a text at most.

    Raises:
        Unusable: the service can't be reached, isn't ready, has nothing to measure, or fails.
        BadFlag: it has no such model, or refuses such a request.
    """
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        status, _, data = await exchange(session, "GET", f"{url}/v1/models")
        if status != 200:
            raise Unusable(f"{url}: GET /v1/models answers {status}{reason(data)}")
        cards = _choose(_cards(url, data), names, url)
        targets = [
            picture(url, name, card.get("digest", ""), n)
            if card["kind"] == PICTURE
            else text(url, name, card.get("digest", ""), max_tokens)
            for name, card in cards.items()
        ]
        return [await _try(session, target) for target in targets]


async def exchange(session: aiohttp.ClientSession, method: str, url: str, **send: Any) -> tuple[int, Any, bytes]:
    """Status, headers, body."""
    try:
        async with session.request(method, url, allow_redirects=False, **send) as response:
            return response.status, response.headers, await response.read()
    except TimeoutError:
        raise Unusable(f"{url}: no answer within {TIMEOUT.total:.0f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unusable(f"{url}: can't be reached: {_why(error)}") from None


def _why(error: Exception) -> str:
    """What the system says, without the layers around it."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(inner, OSError) and inner.errno and not isinstance(inner, (socket.gaierror, ssl.SSLError)):
        return os.strerror(inner.errno)  # the other two count their errors themselves
    return str(inner) or type(inner).__name__


def _cards(url: str, data: bytes) -> dict[str, dict[str, Any]]:
    """Each model's card by its name, in the service's order."""
    try:
        return {str(entry["id"]): dict(entry["genserve"]) for entry in json.loads(data)["data"]}
    except (ValueError, KeyError, TypeError):
        raise Unusable(f"{url}: GET /v1/models is not answered as genserve does") from None


def _choose(cards: dict[str, dict[str, Any]], names: Sequence[str], url: str) -> dict[str, dict[str, Any]]:
    """The cards of the models to measure; a model that is broken or of another kind is chosen by nobody."""
    usable = {name: card for name, card in cards.items() if _measurable(card)}
    for name in names:
        if name not in cards:
            raise BadFlag(f"--model {name}: {url} serves {', '.join(cards) or 'no models'}")
        if name not in usable:
            raise BadFlag(f"--model {name}: {cards[name].get('error') or 'neither pictures nor text'}")
    if not usable:
        raise Unusable(f"{url}: serves no model that makes pictures or text")
    return {name: usable[name] for name in dict.fromkeys(names or usable)}


def _measurable(card: Mapping[str, Any]) -> bool:
    """Whether a model makes pictures of seeds, or text."""
    return card.get("kind") in (PICTURE, TEXT) and "codes" not in card and "output" not in card


async def _try(session: aiohttp.ClientSession, target: Target) -> Target:
    """The same target, once it has answered, with its runtime."""
    status, headers, data = await exchange(session, "POST", target.url, data=target.body, headers=target.headers)
    if status == 400:
        raise BadFlag(f"{target.model}: the service refuses the request{reason(data)}")
    if not 200 <= status < 300:
        raise Unusable(f"{target.model}: {target.url} answers {status}{reason(data)}")
    return replace(target, runtime=headers.get("X-Genserve-Runtime", "unknown"))


def reason(data: bytes) -> str:
    """What an error's body says, on one line; empty when it isn't one of genserve's."""
    try:
        body = json.loads(data)
        found = body.get("detail") or body["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f": {' '.join(str(found).split())}"
