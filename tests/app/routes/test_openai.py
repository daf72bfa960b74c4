"""The stock `openai` client works unchanged, over the application in this process."""

import base64
import io

import openai
import pytest
from PIL import Image

from tests import fakes
from tests.conftest import running, stock_client

URL = "/v1/images/generations"


@pytest.fixture
async def stock(client):
    async with stock_client(client) as ai:
        yield ai


def decoded(answer):
    return [base64.b64decode(item.b64_json) for item in answer.data]


async def test_generate(client, stock):
    answer = await stock.images.generate(prompt="", model="echo", n=3, extra_body={"seed": 7})
    assert answer.created > 1_600_000_000
    assert answer.size == "4x4"
    assert answer.output_format == "png"
    for j, content in enumerate(decoded(answer)):
        assert content == (await client.post("/v1/images/generate", json={"seed": 7 + j})).content


async def test_the_prompt_names_a_label(client, stock):
    wanted = (await client.post("/v1/images/generate", json={"seed": 7, "label": 3})).content
    for prompt in ("kind 3", " KIND 3 "):
        assert decoded(await stock.images.generate(prompt=prompt, extra_body={"seed": 7})) == [wanted]


@pytest.mark.parametrize(("size", "side"), [("auto", 4), ("4x4", 4), ("12x12", 12), ("256x256", 256)])
async def test_sizes_are_whole_multiples(stock, size, side):
    answer = await stock.images.generate(prompt="", size=size)
    assert Image.open(io.BytesIO(decoded(answer)[0])).size == (side, side)
    assert answer.size == f"{side}x{side}"


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"prompt": "a cat"}, "prompt"),
        ({"prompt": "", "size": "5x5"}, "size"),
        ({"prompt": "", "size": "8x4"}, "size"),
        ({"prompt": "", "size": "0x0"}, "size"),
        ({"prompt": "", "size": "260x260"}, "size"),
        ({"prompt": "", "size": "large"}, "size"),
        ({"prompt": "", "n": 0}, "n"),
        ({"prompt": "", "n": 65}, "n"),
        ({"prompt": "", "response_format": "url"}, "response_format"),
        ({"prompt": "", "output_format": "jpeg"}, "output_format"),
        ({"prompt": "", "quality": "hd"}, "quality"),
        ({"prompt": "", "background": "transparent"}, "background"),
        ({"prompt": "", "style": "vivid"}, "style"),
        ({"prompt": "", "extra_body": {"steps": 20}}, "steps"),
        ({"prompt": "", "extra_body": {"seed": -1}}, "seed"),
    ],
)
async def test_what_can_t_be_done_is_refused_by_name(stock, arguments, param):
    with pytest.raises(openai.BadRequestError) as caught:
        await stock.images.generate(**arguments)
    assert caught.value.param == param
    assert caught.value.code in ("invalid_field", "unknown_field")
    assert caught.value.type == "invalid_request_error"


async def test_neutral_fields_are_accepted(stock):
    answer = await stock.images.generate(
        prompt="", response_format="b64_json", quality="auto", background="auto", moderation="auto", user="me",
        output_format="webp",
    )  # fmt: skip
    assert Image.open(io.BytesIO(decoded(answer)[0])).format == "WEBP"
    assert answer.output_format == "webp"


async def test_headers_are_there_as_well(stock):
    raw = await stock.images.with_raw_response.generate(prompt="", extra_body={"seed": 7})
    assert raw.headers["x-genserve-seed"] == "7"
    assert raw.headers["x-genserve-model"].startswith("echo@")
    assert raw.request_id == raw.headers["x-request-id"]


async def test_models(client, stock):
    models = [model async for model in stock.models.list()]
    assert [model.id for model in models] == ["echo"]
    assert models[0].object == "model"
    assert models[0].owned_by == "genserve"
    model = await stock.models.retrieve("echo")
    assert model.model_extra["genserve"]["labels"] == list(fakes.LABELS)
    with pytest.raises(openai.NotFoundError) as caught:
        await stock.models.retrieve("other")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        await stock.images.generate(prompt="", model="other")


async def test_the_service_s_state_is_told_as_the_client_expects(client, stock, monkeypatch):
    from app.errors import Draining, Overloaded

    for error, raised in (
        (Overloaded("full", retry_after=1), openai.RateLimitError),
        (Draining("bye"), openai.InternalServerError),
    ):

        def refuse(*_, error=error):
            raise error

        monkeypatch.setattr(client.app.state.engine, "submit", refuse)
        with pytest.raises(raised) as caught:
            await stock.images.generate(prompt="")
        assert caught.value.code == error.code


async def test_a_model_without_labels_takes_no_prompt(settings, tmp_path):
    fakes.write(tmp_path / "plain", "plain", num_classes=0)
    async with running(settings(weights=tmp_path / "plain")) as client:
        refused = await client.post(URL, json={"prompt": "kind 3"})
        assert refused.status_code == 400
        assert "(none)" in refused.json()["error"]["message"]
        assert (await client.post(URL, json={"prompt": ""})).status_code == 200


@pytest.mark.parametrize("body", ["", "[]", "{", '{"prompt": 3}', "[" * 10_000])
async def test_bad_bodies_have_openai_s_shape(client, body):
    response = await client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert set(response.json()) == {"error"}


async def test_neutral_values_of_the_native_route_s_kind(client):
    """Null is as good as absent, on every optional field."""
    body = dict.fromkeys(["model", "n", "size", "seed", "response_format", "output_format", "quality", "background"])
    assert (await client.post(URL, json=body)).status_code == 200
