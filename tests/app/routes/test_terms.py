"""The time that a request has comes from its header; what it asks for is the same however it is to be packed."""

import pytest

from app.routes import terms
from app.schemas.encode import EncodeQuery
from app.schemas.images import ImageRequest
from app.schemas.text import TextRequest
from tests import fake_sequences, fakes


@pytest.mark.parametrize("header", ["0", "-1", "nan", "inf", "soon", "3601", ""])
async def test_a_timeout_that_is_no_number_of_seconds(client, header):
    answer = await client.post("/v1/images/generate", json={}, headers={"X-Request-Timeout": header})
    assert answer.status_code == 400
    assert answer.json()["field"] == "X-Request-Timeout"


async def test_a_timeout_that_is_one(client):
    answer = await client.post("/v1/images/generate", json={}, headers={"X-Request-Timeout": "30.5"})
    assert answer.status_code == 200


def test_what_the_worker_never_sees_is_no_part_of_what_was_asked_for():
    plain, packed = ImageRequest(label=1), ImageRequest(label=1, scale=4, format="webp", duration_ms=50, loop="once")
    assert terms._origin(plain) == terms._origin(packed)
    assert terms._origin(plain) != terms._origin(ImageRequest(label=2))
    assert terms._origin(TextRequest(prompt="a")) == terms._origin(TextRequest(prompt="a", stream=True))


def test_a_drawn_seed_is_no_part_of_it_a_given_one_is():
    assert b"seed" not in terms._origin(ImageRequest())
    assert terms._origin(ImageRequest(seed=1)) != terms._origin(ImageRequest(seed=2))


def test_a_file_is_part_of_what_was_asked_for():
    query = EncodeQuery(label=1)
    assert terms._origin(query, b"one") == terms._origin(EncodeQuery(label=1), b"one")
    assert len({terms._origin(query, b"one"), terms._origin(query, b"two"), terms._origin(query)}) == 3


async def test_what_is_not_done_in_time(client, gate):
    late = await client.post(
        "/v1/images/generate", json={"latents": [fakes.GATE, 0, 0, 0]}, headers={"X-Request-Timeout": "0.2"}
    )
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert late.json()["type"] == "urn:genserve:error:deadline_exceeded"
    gate.unlink()
    assert (await client.post("/v1/images/generate", json={})).status_code == 200


async def test_a_stream_that_does_not_begin_in_time_has_a_status_of_its_own(text_client, gate):
    for path in ("/v1/text/complete", "/v1/completions"):
        late = await text_client.post(
            path,
            json={"model": "counting", "prompt": fake_sequences.GATE_PREFILL, "max_tokens": 2, "stream": True},
            headers={"X-Request-Timeout": "0.2"},
        )
        assert late.status_code == 504
        assert "deadline_exceeded" in late.text
    gate.unlink()
