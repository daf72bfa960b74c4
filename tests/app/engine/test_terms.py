"""What is done in steps has one deadline."""

import asyncio

import pytest

from app.engine.terms import Terms
from app.errors import DeadlineExceeded


async def test_what_is_left_of_a_request_s_time():
    now = asyncio.get_running_loop().time()
    terms = Terms("somebody", 60.0, lambda: b"a picture", whole=False)
    left = terms.left(now + 5.0)
    assert 0 < left.seconds <= 5.0
    assert (left.client, left.digest(), left.whole) == ("somebody", terms.digest(), False)
    with pytest.raises(DeadlineExceeded, match="not there in 60 s"):
        terms.left(now - 0.1)


async def test_a_further_stage_knows_what_the_client_gave():
    now = asyncio.get_running_loop().time()
    onward = Terms("somebody", 60.0).left(now + 5.0).onward(now + 4.0)
    assert 0 < onward.seconds <= 4.0
    assert (onward.given, onward.admitted, Terms().admitted) == (60.0, True, False)
    with pytest.raises(DeadlineExceeded, match="not there in 60 s"):
        onward.left(now - 0.1)


def test_requests_are_known_by_what_they_asked_for():
    assert Terms(origin=lambda: b"a").digest() == Terms("other", 3.0, lambda: b"a").digest()
    assert Terms(origin=lambda: b"a").digest() != Terms(origin=lambda: b"b").digest()
