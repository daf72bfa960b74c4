"""Pictures of captions over HTTP: one model writes codes, another paints them, and the answer is as for any picture."""

import asyncio
import base64
import dataclasses
import io
import zipfile

import numpy as np
import pytest
import torch

from app import latents
from app.codecs import grid
from app.settings import Settings
from tests import fake_outputs as fakes
from tests.app.routes.test_images import pixels, story
from tests.conftest import running
from tests.fakes import held
from tests.fakes import write as write_latent
from tests.serving import eventually

URL = "/v1/images/generate"
OPENAI = "/v1/images/generations"
ZIP, JSON = "application/zip", "application/json"


@pytest.fixture
def caption_settings(tmp_path, gate):
    """Settings for the fakes: "echo" makes pictures of seeds, "scribe" and "painter" of captions."""
    folder = tmp_path / "caption-weights"
    fakes.write_painter(folder)
    fakes.write_scribe(folder, gate=str(gate))
    write_latent(folder, "echo", gate=str(gate))
    fixed = {"weights": folder, "models_module": "tests.fake_outputs", "device": "cpu", "max_slots": 8, "dtype": "fp32"}
    return lambda **fields: Settings(**{**fixed, **fields})


@pytest.fixture
async def client(caption_settings):
    async with running(caption_settings()) as client:
        yield client


async def ask(client, accept="*/*", url=URL, **body):
    response = await client.post(url, json=body, headers={"Accept": accept})
    assert response.status_code == 200, response.text
    return response


async def files(client, **body):
    """The pictures of a request, each as a file."""
    answer = (await ask(client, JSON, **body)).json()
    return [base64.b64decode(item["base64"]) for item in answer["images"]]


@pytest.mark.parametrize("caption", ["red dog", "A BLUE cat!", "", "a cat, on a"])
@pytest.mark.parametrize("guidance", [None, 0.0, 1.0, 5.5])
async def test_a_caption_becomes_codes_and_these_a_picture(client, caption, guidance):
    plain = caption.lower().replace("!", "").replace(",", "")
    beside = {} if guidance is None else {"guidance": guidance}
    response = await ask(client, model="scribe", prompt=caption, temperature=0, **beside)
    wanted = fakes.painted([fakes.written(plain, fakes.GUIDANCE if guidance is None else guidance)])
    np.testing.assert_array_equal(pixels(response.content), wanted[0])


async def test_guidance_matters_in_these_tests():
    assert (
        fakes.written("red dog", 0.0)
        == fakes.written("blue cat", 0.0)
        != fakes.written("red dog", 3.0)
        != fakes.written("blue cat", 3.0)
    )


async def test_headers_name_both_models_and_the_seed(client):
    response = await ask(client, prompt="red dog", seed=7)
    models = client.app.state.engine.models
    assert response.headers["x-genserve-model"] == models["scribe"].identity
    assert response.headers["x-genserve-decoder"].startswith(f"{models['painter'].identity}; float32; threads=")
    assert response.headers["x-genserve-seed"] == "7"
    assert "x-genserve-decoder" not in (await ask(client)).headers
    drawn = await ask(client, prompt="red dog")
    again = await ask(client, prompt="red dog", seed=int(drawn.headers["x-genserve-seed"]))
    assert again.content == drawn.content


async def test_picture_j_is_that_of_seed_plus_j_alone(client):
    """Byte for byte, in every wrapping and company, and neighbours differ."""
    bundle = await ask(client, ZIP, prompt="red dog", seed=40, n=6, scale=2)
    with zipfile.ZipFile(io.BytesIO(bundle.content)) as archive:
        assert archive.namelist() == [f"scribe-{j:02d}-seed-{40 + j}.png" for j in range(6)]
        found = [archive.read(name) for name in archive.namelist()]
    assert found == await files(client, prompt="red dog", seed=40, n=6, scale=2)
    alone = await asyncio.gather(*(ask(client, prompt="red dog", seed=40 + j, scale=2) for j in range(6)))
    assert [response.content for response in alone] == found
    assert len(set(found)) > 3
    sheet = await ask(client, prompt="red dog", seed=40, n=6)
    small = [pixels((await ask(client, prompt="red dog", seed=40 + j)).content) for j in range(6)]
    np.testing.assert_array_equal(pixels(sheet.content), grid(np.stack(small)))


async def test_webp_too(client):
    png, webp = [(await ask(client, prompt="red dog", seed=1, format=kind)).content for kind in ("png", "webp")]
    np.testing.assert_array_equal(pixels(png)[..., 0], pixels(webp)[..., 0])


async def test_the_story_holds_the_prompt_only_when_asked_for(client):
    body = {"prompt": "a red dog", "seed": 3, "guidance": 1.5, "top_k": 9, "scale": 2}
    model, parameters = story((await ask(client, **body)).content)
    models = client.app.state.engine.models
    assert model == models["scribe"].identity
    decoder = models["painter"].identity
    assert parameters == {"seed": 3, "guidance": 1.5, "top_k": 9, "scale": 2, "decoder": decoder}
    _, told = story((await ask(client, **body, prompt_in_provenance=True)).content)
    assert told == {**parameters, "prompt": "a red dog"}


def gain(network, caption, codes):
    """log p(codes | caption) - log p(codes | no caption), by the network itself."""
    likely = []
    for scale in (1.0, 0.0):
        state = network.init_state(1)
        network.condition(torch.tensor([[scale]]), [1], [0], state)
        logits = [network.prefill(torch.tensor([fakes.words(caption)]), [0], [fakes.CAPTION], [0], state)]
        for place, code in enumerate(codes[:-1]):
            logits.append(network.step(torch.tensor([code]), torch.tensor([fakes.CAPTION + place]), 8, state))
        rows = torch.cat(logits).log_softmax(-1)
        likely.append(float(rows[torch.arange(len(codes)), torch.tensor(codes)].sum()))
    return likely[0] - likely[1]


def codes_of(content):
    """What the painter was given."""
    return np.rint(pixels(content)[..., 0].astype(float) / 255 * (fakes.CODES - 1)).astype(int).ravel().tolist()


async def test_of_candidates_the_one_is_kept_that_its_caption_makes_likeliest(client):
    network, others = fakes.Scribe(), 0
    body = {"prompt": "blue cat", "guidance": 0.5}
    kept = await files(client, **body, seed=10, n=4, candidates=5)
    for seed, content in zip(range(10, 14), kept, strict=True):
        each = [(await ask(client, **body, seed=own)).content for own in latents.further_seeds(seed, 5)]
        best = max((codes_of(one) for one in each), key=lambda codes: gain(network, "blue cat", codes))
        assert codes_of(content) == best
        assert content == (await ask(client, **body, seed=seed, candidates=5)).content
        assert story(content)[1]["candidates"] == 5
        others += best != codes_of(each[0])
    assert others >= 2, "or the test shows nothing"


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"prompt": "red zebra on a unicorn"}, "prompt", "does not know 'zebra', 'unicorn'; GET /v1/models/scribe"),
        ({"prompt": "красная собака"}, "prompt", "'красная', 'собака'"),
        ({"prompt": "🐶"}, "prompt", "'🐶'"),
        ({"prompt": " ".join(f"x{i}" for i in range(20))}, "prompt", "and 12 more"),
        ({"prompt": "a red dog on a"}, "prompt", "5 words; scribe takes 4"),
        ({"prompt": "a" * 1001}, "prompt", "at most 1000"),
        ({"prompt": 7}, "prompt", "string"),
        ({"model": "scribe"}, "prompt", "told what to draw"),
        ({"prompt": "a", "label": 3}, "label", "scribe, which draws captions"),
        ({"prompt": "a", "truncation": 0.5}, "truncation", "captions"),
        ({"prompt": "a", "latents": [[1, 2], [3, 4]]}, "latents", "captions"),
        ({"prompt": "a", "interpolate": {"from_seed": 1, "to_seed": 2}}, "interpolate", "captions"),
        ({"prompt": "a", "style_seed": 2}, "style_seed", "captions"),
        ({"prompt": "a", "format": "apng"}, "format", "no apng"),
        ({"prompt": "a", "n": 9, "candidates": 8}, "candidates", "exceed 64"),
        ({"prompt": "a", "candidates": 9}, "candidates", "less than or equal to 8"),
        ({"prompt": "a", "guidance": 21}, "guidance", "less than or equal to 20"),
        ({"prompt": "a", "guidance": -1}, "guidance", "greater than or equal to 0"),
        ({"prompt": "a", "seed": latents.MAX_SEED, "n": 2}, "seed", "must not exceed"),
        ({"prompt": "a", "model": "echo"}, "prompt", "echo does not draw captions"),
        ({"guidance": 2}, "guidance", "echo does not draw captions"),
        ({"model": "painter"}, "model", "give it latents, or ask scribe"),
        ({"model": "painter", "seed": 3, "n": 2}, "model", "ask scribe"),
        ({"model": "painter", "latents": [[1.5, 2], [3, 4]]}, "latents", "whole numbers from 0 to 15"),
        ({"model": "painter", "latents": [[1, 2], [3, 16]]}, "latents", "whole numbers from 0 to 15"),
        ({"model": "painter", "latents": [[1, 2], [3, -1]]}, "latents", "whole numbers from 0 to 15"),
        ({"model": "painter", "interpolate": {"from_seed": 1, "to_seed": 2}}, "interpolate", "there is nothing"),
        ({"model": "painter", "mix": [{"seed": 1}, {"seed": 2}]}, "mix", "painter takes codes"),
    ],
)
async def test_what_makes_no_sense_is_named(client, body, field, said):
    response = await client.post(URL, json=body)
    assert (response.status_code, response.json()["field"]) == (400, field)
    assert said in response.json()["detail"]
    assert client.app.state.engine.in_flight == 0


async def test_a_decoder_of_codes_takes_them_as_latents(client):
    codes = [[3, 0], [15, 9]]
    response = await ask(client, model="painter", latents=codes)
    np.testing.assert_array_equal(pixels(response.content), fakes.painted([np.ravel(codes)])[0])


async def test_where_nothing_draws_captions_no_decoder_is_blamed(settings):
    async with running(settings()) as client:
        refused = await client.post(URL, json={"prompt": "red dog"})
        assert (refused.status_code, refused.json()["field"]) == (400, "prompt")
        assert refused.json()["detail"] == "prompt: echo does not draw captions"
        named = await client.post(URL, json={"prompt": "red dog", "model": "dalle"})
        assert "no model 'dalle' that makes pictures of captions or pictures" in named.json()["detail"]


async def test_the_default_makes_pictures_of_seeds(client):
    assert (await ask(client)).headers["x-genserve-model"].startswith("echo@")
    assert (await ask(client, prompt="a")).headers["x-genserve-model"].startswith("scribe@")


@pytest.mark.parametrize("route", ["/v1/text/complete", "/v1/completions", "/v1/chat/completions"])
async def test_it_is_no_text_model(client, route):
    chat = {"messages": [{"role": "user", "content": "a"}]}
    for model in ({}, {"model": "scribe"}):
        response = await client.post(route, json=model | (chat if "chat" in route else {"prompt": "a"}))
        assert response.status_code == 404
        assert "that makes text" in response.text


async def test_one_bad_caption_fails_alone(client, gate):
    """Four captions that are written together, one of them poisoned."""
    waiting = asyncio.ensure_future(ask(client, prompt="wait", seed=1))
    await eventually(lambda: held(gate).exists())
    good = [asyncio.ensure_future(ask(client, prompt="red dog", seed=seed)) for seed in range(3)]
    bad = asyncio.ensure_future(client.post(URL, json={"prompt": "raise"}))
    await eventually(lambda: client.app.state.engine.in_flight == 5)
    gate.unlink()
    await waiting
    assert (await bad).json()["code"] == "compute_failed"
    found = [response.content for response in await asyncio.gather(*good)]
    assert found == [(await ask(client, prompt="red dog", seed=seed)).content for seed in range(3)]


async def test_one_deadline_over_both(client, gate):
    late = await client.post(URL, json={"prompt": "wait"}, headers={"X-Request-Timeout": "0.2"})
    gate.unlink()
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    await eventually(lambda: client.app.state.engine.in_flight == 0)


async def test_a_full_queue_refuses_all_pictures_at_once(caption_settings, gate):
    async with running(caption_settings(max_queue=64)) as client:
        waiting = asyncio.ensure_future(ask(client, prompt="wait", seed=1))
        await eventually(lambda: held(gate).exists())
        refused = await client.post(URL, json={"prompt": "red dog", "n": 20, "candidates": 3})
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.app.state.engine.in_flight == 1
        gate.unlink()
        await waiting
        assert len(await files(client, prompt="red dog", n=20, candidates=3)) == 20


async def test_what_choosing_takes_is_foreseen(client, gate):
    """At a second for the codes of a picture one is in time; the best of two is not, and that is said at once."""
    engine = client.app.state.engine
    waiting = asyncio.ensure_future(ask(client, prompt="wait", seed=1))
    await eventually(lambda: held(gate).exists())
    (lane,) = engine._lanes
    tokens = engine.models["scribe"].output["tokens"]
    for _ in range(200):
        lane.admission.learn_sequence("scribe", tokens, 1.0)
    hurried = {"X-Request-Timeout": "2"}
    refused = await client.post(URL, json={"prompt": "red dog", "candidates": 2}, headers=hurried)
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert "it would be done in 3.00 s" in refused.json()["detail"]
    assert engine.in_flight == 1
    gate.unlink()
    await waiting
    assert (await client.post(URL, json={"prompt": "red dog"}, headers=hurried)).status_code == 200


# for OpenAI's clients


async def test_openai_s_route_draws_captions(client):
    native = await files(client, prompt="red dog", seed=5, n=2, scale=3, guidance=4)
    response = await ask(client, url=OPENAI, model="scribe", prompt="red dog", seed=5, n=2, size="6x6", guidance=4)
    assert [base64.b64decode(item["b64_json"]) for item in response.json()["data"]] == native
    assert response.json()["size"] == "6x6"
    assert response.headers["x-genserve-model"].startswith("scribe@")


async def test_openai_s_prompt_is_a_label_where_it_names_one(client):
    assert (await ask(client, url=OPENAI)).headers["x-genserve-model"].startswith("echo@")
    assert (await ask(client, url=OPENAI, prompt="Kind 3")).headers["x-genserve-model"].startswith("echo@")
    assert (await ask(client, url=OPENAI, prompt="red dog")).headers["x-genserve-model"].startswith("scribe@")
    for body, param in (
        ({"prompt": "red zebra"}, "prompt"),
        ({"prompt": "kind 3", "guidance": 2}, "guidance"),
        ({"prompt": "red dog", "model": "echo"}, "prompt"),
    ):
        refused = await client.post(OPENAI, json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


# what is said of the models


async def test_cards_say_what_is_made_of_what(client):
    cards = {model["id"]: model["genserve"] for model in (await client.get("/v1/models")).json()["data"]}
    assert {name: card["makes"] for name, card in cards.items()} == {
        "echo": "pictures",
        "painter": "pictures of codes",
        "scribe": "pictures of captions",
    }
    assert (cards["painter"]["codes"], cards["painter"]["codes_from"]) == (fakes.CODES, "scribe")
    assert cards["scribe"]["output"] == fakes.PICTURES
    assert cards["scribe"]["image"] == {"height": 2, "width": 2, "channels": 1}
    assert "words" not in cards["scribe"]
    shown = (await client.get("/v1/models/scribe")).json()["genserve"]
    assert shown["words"] == sorted(fakes.WORDS)
    assert "words" not in (await client.get("/v1/models/echo")).json()["genserve"]


async def test_too_many_words_are_not_listed(client, monkeypatch):
    monkeypatch.setattr("app.routes.models.MOST_LISTED", 3)
    assert (await client.get("/v1/models/scribe")).json()["genserve"]["words"] is None


@pytest.mark.parametrize("together", [True, False])
async def test_without_its_decoder_it_is_not_served(caption_settings, together):
    fields = {"models": ("scribe", "echo"), **({"broken_models": "skip"} if together else {})}
    async with running(caption_settings(**fields), wait=False) as client:
        engine = client.app.state.engine
        await eventually(lambda: engine.failure is not None or engine.ready)
        said = engine.models["scribe"].error if together else engine.failure
    assert said == "scribe needs painter, which makes its pictures and is not served: serve both or neither"


async def test_a_caption_in_flight_is_drawn_to_its_end_by_a_drain(caption_settings, gate):
    """Its codes are being written when the service is told to stop; they still become a picture."""
    async with running(caption_settings()) as client:
        engine = client.app.state.engine
        asked = asyncio.ensure_future(client.post(URL, json={"prompt": "wait", "seed": 1}))
        await eventually(lambda: engine.in_flight == 1)
        drain = asyncio.ensure_future(engine.drain(60))
        await asyncio.sleep(0)
        assert (await client.post(URL, json={"prompt": "red dog"})).status_code == 503
        gate.unlink()
        assert (await asked).status_code == 200
        assert await drain is True


async def test_a_server_of_captions_alone_draws_them_for_openai_s_clients_too(caption_settings):
    async with running(caption_settings(models=("painter", "scribe"))) as client:
        native = await ask(client, prompt="red dog", seed=3)
        answer = await client.post(OPENAI, json={"prompt": "red dog", "seed": 3})
        assert answer.status_code == 200, answer.text
        assert base64.b64decode(answer.json()["data"][0]["b64_json"]) == native.content


async def test_a_guidance_of_one_says_nothing_to_a_model_without(caption_settings, tmp_path):
    fakes.write_plain_scribe(tmp_path / "caption-weights")
    async with running(caption_settings(models=("painter", "plain"))) as client:
        drawn = 0
        for seed in range(30):  # some of whose codes are words, which no decoder has
            body = {"prompt": "red dog", "seed": seed}
            guided, free = [await client.post(URL, json={**body, **beside}) for beside in ({"guidance": 1}, {})]
            assert guided.status_code == free.status_code
            if guided.status_code == 200:
                drawn += 1
                assert pixels(guided.content).tolist() == pixels(free.content).tolist()
        assert drawn


async def test_codes_that_the_decoder_does_not_have_are_no_picture(caption_settings, monkeypatch):
    async with running(caption_settings()) as client:
        engine = client.app.state.engine
        engine.models["painter"] = dataclasses.replace(engine.models["painter"], codes=1)
        answer = await client.post(URL, json={"prompt": "red dog", "seed": 3})
        assert (answer.status_code, answer.json()["code"]) == (500, "compute_failed")
        assert answer.json()["detail"] == "scribe wrote a code that painter does not have"
