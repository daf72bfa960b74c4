"""Content negotiation by RFC 9110, section 12.5.1."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import NotAcceptable
from app.routes.accept import negotiate

OFFERS = ("image/png", "image/webp", "application/zip", "application/json")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("application/*", "application/zip"),
        ("application/json", "application/json"),
        ("Application/JSON", "application/json"),
        ("image/png;q=0.5, application/zip", "application/zip"),
        ("image/png;q=0.5, application/zip;q=0.4", "image/png"),
        ("*/*, application/json", "application/json"),
        ("image/png;q=0, */*", "image/webp"),
        ("image/*;q=0, */*;q=0.1", "application/zip"),
        ("text/html, application/xml;q=0.9, image/webp, */*;q=0.8", "image/webp"),
        ("image/png ; q=0.1 , image/webp ; q=0.2", "image/webp"),
        ("image/png;level=1", "image/png"),
        ("image/webp;q=7", "image/webp"),
        (",,,image/webp,", "image/webp"),
    ],
)
def test_choice(accept, chosen):
    assert negotiate(accept, OFFERS) == chosen


@pytest.mark.parametrize(
    "accept", ["text/html", "*/*;q=0", "image/png;q=0", "image/png;q=x", "image/png;q=nan", "png", ";"]
)
def test_nothing_acceptable(accept):
    with pytest.raises(NotAcceptable) as caught:
        negotiate(accept, OFFERS)
    assert "image/png, image/webp" in caught.value.detail


def test_long_headers_are_cut_in_the_answer():
    with pytest.raises(NotAcceptable) as caught:
        negotiate("x/y," * 10_000, OFFERS)
    assert len(caught.value.detail) < 400


RANGES = st.sampled_from([*OFFERS, "image/*", "application/*", "*/*", "text/html"])
QUALITIES = st.integers(0, 10).map(lambda tenths: tenths / 10)


@given(st.dictionaries(RANGES, QUALITIES, min_size=1))
def test_agrees_with_the_definition(ranges):
    """Each offer has the quality of the most exact range that covers it; the best offer is chosen."""

    def quality(offer):
        for name in (offer, offer.split("/")[0] + "/*", "*/*"):
            if name in ranges:
                return ranges[name]
        return 0.0

    accept = ", ".join(f"{name};q={q}" for name, q in ranges.items())
    try:
        chosen = negotiate(accept, OFFERS)
    except NotAcceptable:
        assert max(map(quality, OFFERS)) == 0
    else:
        assert quality(chosen) == max(map(quality, OFFERS)) > 0


@given(st.text(alphabet=st.characters(max_codepoint=255)))
def test_any_header_gives_an_offer_or_a_refusal(accept):
    with contextlib.suppress(NotAcceptable):
        assert negotiate(accept, OFFERS) in OFFERS
