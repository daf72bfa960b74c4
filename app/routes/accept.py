"""Content negotiation (RFC 9110, section 12.5.1)."""

import functools
from collections.abc import Sequence

from starlette.types import Scope

from app.errors import NotAcceptable

MAX_RANGES = 64


def accepted(scope: Scope) -> str:
    """What a request says in Accept, of which it may have several."""
    return ", ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"accept")


@functools.lru_cache(maxsize=256)
def negotiate(accept: str, offers: tuple[str, ...]) -> str:
    """The offer that Accept prefers: by quality, then by how exactly it was named, then by our own order.

    Raises:
        NotAcceptable: none of the offers is wanted.
    """
    ranges = [_parse(item) for item in accept.split(",")[:MAX_RANGES] if item.strip()] or [("*/*", 1.0)]
    best, best_rank = None, (0.0, 0)
    for offer in offers:
        rank = _rank(offer, ranges)
        if rank[0] > 0 and rank > best_rank:
            best, best_rank = offer, rank
    if best is None:
        raise NotAcceptable(f"Accept is {accept[:200]!r}; this route offers {', '.join(offers)}")
    return best


def _parse(item: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in item.split(";"))
    quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    try:
        return media_range, min(max(float(quality), 0.0), 1.0)
    except ValueError:
        return media_range, 0.0


def _rank(offer: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """Quality and exactness of the most exact range that covers the offer."""
    family = offer.partition("/")[0] + "/*"
    exactness = {offer: 3, family: 2, "*/*": 1}
    covering = [(exactness[name], quality) for name, quality in ranges if name in exactness]
    if not covering:
        return 0.0, 0
    exact, quality = max(covering)
    return quality, exact
