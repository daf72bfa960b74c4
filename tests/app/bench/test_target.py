"""What the service says it serves decides what is sent; what it refuses is one line."""

import json

import pytest

from app.bench import target
from app.bench.errors import BadFlag, Unusable
from tests.app.bench.conftest import MODELS


async def ask(service, *names, **changes):
    return await target.survey(service.url, names, **{"n": 1, "max_tokens": 5, **changes})


async def test_all_that_can_be_measured_is(service):
    targets = await ask(service)
    assert [(one.model, one.kind, one.digest) for one in targets] == [
        ("gan", "latent", "d1"), ("gpt", "sequence", "d2"),
    ]  # fmt: skip
    assert {one.runtime for one in targets} == {"cpu; told"}
    assert [json.loads(body)["model"] for body in service.bodies] == ["gan", "gpt"]
    assert json.loads(targets[1].body)["stream"] is True


async def test_models_are_measured_once_each_in_the_order_asked_for(service):
    targets = await ask(service, "gpt", "gan", "gpt", n=3)
    assert [one.model for one in targets] == ["gpt", "gan"]
    assert json.loads(targets[1].body) == {"model": "gan", "n": 3}


@pytest.mark.parametrize(("name", "line"), [("nope", "serves broken, gan, gpt"), ("broken", "no weights")])
async def test_a_model_that_can_t_be_measured_is_a_bad_flag(service, name, line):
    with pytest.raises(BadFlag, match=rf"--model {name}: .*{line}"):
        await ask(service, name)


async def test_another_kind_is_left_out(service):
    service.models = {"data": [*MODELS["data"], {"id": "voice", "genserve": {"kind": "sound"}}]}
    assert len(await ask(service)) == 2
    with pytest.raises(BadFlag, match="neither pictures nor text"):
        await ask(service, "voice")


@pytest.mark.parametrize(
    ("models", "line"),
    [
        (503, "answers 503: models are being loaded"),
        ("<html>", "not answered as genserve does"),
        ({"data": [{"id": "gpt-5"}]}, "not answered as genserve does"),
        ({"data": []}, "serves no model"),
        ({"data": MODELS["data"][:1]}, "serves no model"),
    ],
)
async def test_a_service_without_models_is_unusable(service, models, line):
    service.models = models
    with pytest.raises(Unusable, match=line) as caught:
        await ask(service)
    assert "\n" not in str(caught.value)


async def test_a_request_that_the_service_refuses_is_a_bad_flag(service):
    service.statuses = [400]
    with pytest.raises(BadFlag, match="gan: the service refuses the request: told to answer 400"):
        await ask(service)


@pytest.mark.parametrize(("status", "line"), [(500, "answers 500: told to answer 500"), (0, "can't be reached: ")])
async def test_a_service_that_fails_is_unusable(service, status, line):
    service.statuses = [200, status]
    with pytest.raises(Unusable, match=line):
        await ask(service)


@pytest.mark.parametrize(
    ("url", "line"), [("http://127.0.0.1:1", "Connection refused"), ("http://nowhere.invalid", "nowhere.invalid")]
)
async def test_no_service(url, line):
    with pytest.raises(Unusable, match=line):
        await target.survey(url, (), n=1, max_tokens=1)


async def test_a_service_that_never_answers(service, monkeypatch):
    monkeypatch.setattr(target, "TIMEOUT", target.aiohttp.ClientTimeout(total=0.1))
    service.hold = 30
    with pytest.raises(Unusable, match="no answer within"):
        await ask(service)


def test_a_body_that_is_no_problem_of_genserve_s_gives_no_reason():
    assert [target.reason(data) for data in (b"", b"[]", b"7", b'{"error": "x"}', b"{}")] == [""] * 5
