"""A service that refuses, fails, lies and changes: tried again while there is hope, then one line."""

import zipfile

import pytest

from app.dataset import client
from tests.app.dataset import told

PASSING = [429, 503, 504, 0]


def test_what_passes_is_tried_again(service, make, tmp_path):
    service.statuses = PASSING * 2
    status, _, err = make()
    assert (status, len(told.contents(tmp_path / "set"))) == (0, 211), err
    assert len(service.bodies) == 6 + len(PASSING) * 2


@pytest.mark.parametrize(("status", "line"), [(503, "answers 503 to class 'left/right', seeds 0 to 63: told to answer"),
                                              (0, "/v1/images/generate: can't be reached: ")])  # fmt: skip
def test_what_does_not_pass_is_given_up(service, make, status, line):
    service.statuses = [status] * 100
    found, _, err = make("--concurrency", "1")
    assert found == 1
    assert line in err
    assert err.endswith(f"; given up after {client.TRIES} tries\n")
    assert len(service.bodies) == client.TRIES


def test_what_can_t_pass_is_not_tried_again(service, make):
    service.statuses = [500]
    status, _, err = make("--concurrency", "1")
    assert (status, len(service.bodies)) == (1, 1)
    assert err.endswith("answers 500 to class 'left/right', seeds 0 to 63: told to answer 500\n")


def test_the_service_says_how_long_to_wait(service, make, monkeypatch):
    pauses = []
    sleep = client.asyncio.sleep

    async def remember(seconds):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(client.asyncio, "sleep", remember)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.5)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 15.0)
    for said, pause in (("3", 3.0), ("0", 0.5), ("999", 15.0), ("Sun, 06 Nov 1994 08:49:37 GMT", 1.0)):
        assert client._retry_after({"Retry-After": said}) == (None if "GMT" in said else pause)
    service.refusal_headers, service.statuses = {"Retry-After": "3"}, [429, 503]
    assert make("--concurrency", "1")[0] == 0
    assert [pause for pause in pauses if pause] == [3.0, 3.0]


@pytest.mark.parametrize(("header", "value"), [("X-Genserve-Model", "told@ffffffffffff"),
                                               ("X-Genserve-Runtime", "cuda; told")])  # fmt: skip
def test_another_model_or_runtime_meanwhile(service, make, tmp_path, header, value):
    good = service.answer

    def change(body):  # after the first answer
        if len(service.bodies) == 2:
            service.headers = {**service.headers, header: value}
        return good(body)

    service.answer = change
    status, _, err = make("--concurrency", "1")
    assert status == 1
    assert f"the service has changed: {header} says {value}, the set is of " in err
    assert len(list((tmp_path / "set" / ".parts").glob("*.zip"))) == 1, "nothing of the other model is kept"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"nonsense", "not a readable archive"),
        (told.bundle([("a-seed-0.png", b"")], zipfile.ZIP_STORED), "not an archive of 64 pictures"),
        (told.answer({"seed": 1, "n": 64}), "not the pictures of seeds 0 to 63"),
        (told.bundle((f"-seed-{i}.png", b"GIF") for i in range(64)), "not a readable picture"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for(service, make, content, line):
    service.answer = lambda body: content
    status, _, err = make("--concurrency", "1")
    assert status == 1
    assert f"the answer to class 'left/right', seeds 0 to 63 is {line}" in err


def test_so_many_requests_in_flight_and_no_more(service, make):
    make("--concurrency", "2")
    assert service.most_flying <= 2
    assert len(service.bodies) == 6
