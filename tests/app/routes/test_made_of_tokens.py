"""The seed contract for what tokens become, with small real networks: the same bytes alone, in company and again."""

import asyncio
import base64
import itertools

import pytest
import torch

from app.settings import Settings
from models import checkpoint
from models.text_to_image import TextToImage
from models.vq import VQVAE
from models.wavenet import WaveNet
from tests import fake_outputs as fakes
from tests.app.routes.test_captions import pixels
from tests.app.test_wav import read
from tests.conftest import running

IMAGES, AUDIO = "/v1/images/generate", "/v1/audio/generate"
PAINTER = {"num_codes": 16, "code_dim": 4, "channels": (16, 8, 8), "hidden": 8, "blocks": 1, "base_size": 4}
SCRIBE = {"num_codes": 16, "vocab_size": 26, "prompt_tokens": 4, "max_length": 20, "width": 32, "layers": 2, "heads": 4}
VOICE = {"width": 16, "skip": 16, "stacks": 2, "layers": 4, "hop": 10, "characters": 28, "condition_length": 40}
VOICE |= {"text_width": 16, "features": 16, "max_length": 2001}
DRAWN = ("scribe", "painter")
LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
PICTURES = {"kind": "image", "decoder": "painter", "tokens": 16, "prompt_tokens": 4, "pad_token_id": fakes.PAD}
SPEECH = {"kind": "audio", "sample_rate": 1000, "encoding": "mu-law", "characters": LETTERS}
SPEECH |= {"samples_per_character": 20, "start_token_id": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Networks as they were made, their matrices larger, so that what they say depends on what they read."""
    weights = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, network, architecture, config, beside in (
        ("painter", VQVAE(**PAINTER), "vq-vae", PAINTER, {}),
        (
            "scribe",
            TextToImage(**SCRIBE),
            "text-to-image",
            SCRIBE,
            {"tokenizer": fakes.word_tokenizer(), "output": PICTURES},
        ),
        ("voice", WaveNet(**VOICE), "wavenet", VOICE, {"output": SPEECH}),
    ):
        for parameter in network.parameters():
            parameter.data.mul_(4 if parameter.ndim == 2 and name != "painter" else 1)
        checkpoint.save(weights / name, network, architecture=architecture, config=config, **beside)
    return weights


@pytest.fixture
def settings(folder):
    return lambda **fields: Settings(**{"weights": folder, "device": "cpu", "max_slots": 4, **fields})


async def ask(client, url, **body):
    response = await client.post(url, json=body, headers={"Accept": "*/*" if url == AUDIO else "application/json"})
    assert response.status_code == 200, response.text
    return response


async def pictures(client, **body):
    answer = (await ask(client, IMAGES, model="scribe", **body)).json()
    return [base64.b64decode(item["base64"]) for item in answer["images"]]


def asked():
    """Captions and transcripts of many kinds, one after the other."""
    captions = ["red dog", "a blue cat", "", "dog on a cat"]
    styles = [{}, {"guidance": 3.5}, {"top_k": 4}, {"temperature": 0.7, "top_p": 0.9}, {"guidance": 0, "candidates": 2}]
    for seed, (caption, style) in enumerate(zip(itertools.cycle(captions), styles, strict=False)):
        yield IMAGES, {"model": "scribe", "prompt": caption, "seed": 7 * seed, "n": 1 + seed % 3, **style}
        yield (
            AUDIO,
            {"prompt": "please hold"[: 2 + seed], "seed": seed, "stream": seed % 2 == 0, "top_k": 9 * (seed % 3)},
        )


@pytest.mark.parametrize("dtype", ["fp32", "auto"])
async def test_bytes_alone_in_company_and_after_a_restart(settings, dtype):
    async with running(settings(dtype=dtype)) as client:
        together = [answer.content for answer in await asyncio.gather(*(ask(client, url, **b) for url, b in asked()))]
        alone = [(await ask(client, url, **body)).content for url, body in asked()]
        assert alone == together
        assert len(set(together)) == len(together)
        sizes = client.app.state.telemetry.registry
        for model in ("scribe", "voice"):
            rows, ticks = (
                sizes.get_sample_value(f"genserve_batch_size_{what}", {"model": model}) for what in ("sum", "count")
            )
            assert rows > ticks, "they did run together"
    async with running(settings(dtype=dtype)) as client:
        again = await asyncio.gather(*(ask(client, url, **body) for url, body in reversed(list(asked()))))
    assert [answer.content for answer in again][::-1] == together


async def test_picture_j_is_that_of_seed_plus_j(settings):
    async with running(settings(models=DRAWN)) as client:
        four = await pictures(client, prompt="red dog", seed=3, n=4, guidance=2.5)
        assert four == [(await pictures(client, prompt="red dog", seed=3 + j, guidance=2.5))[0] for j in range(4)]
        assert pixels(four[0]).shape == (16, 16, 3)
        assert len(set(four)) == 4
        assert four != await pictures(client, prompt="blue cat", seed=3, n=4, guidance=2.5)
        kept = await pictures(client, prompt="red dog", seed=3, n=2, candidates=3)
        assert kept[1:] == await pictures(client, prompt="red dog", seed=4, candidates=3)


async def test_without_guidance_the_caption_changes_nothing(settings):
    async with running(settings(models=DRAWN, dtype="fp32")) as client:
        red, blue = [pixels((await pictures(client, prompt=p, seed=1, guidance=0))[0]) for p in ("red dog", "blue cat")]
        assert (red == blue).all()


async def test_a_transcript_is_listened_to(settings):
    """Another transcript or another length is another clip, sample by sample the same each time."""
    async with running(settings(models=("voice",))) as client:
        clips = [
            read((await ask(client, AUDIO, prompt=prompt, seconds=seconds, seed=1)).content)[1].tolist()
            for prompt, seconds in (("ab", 0.3), ("ab", 0.3), ("xz", 0.3), ("ab", 0.4))
        ]
        assert clips[0] == clips[1]
        assert clips[0] != clips[2]
        assert clips[0] != clips[3][:300], "the speed of speech follows from the length"
        assert len(set(clips[0])) > 20
        whole, streamed = [
            read((await ask(client, AUDIO, prompt="hello", seconds=0.5, seed=3, stream=stream)).content)[1].tolist()
            for stream in (False, True)
        ]
        assert whole == streamed
        assert len(whole) == 500


async def test_codes_of_a_picture_make_it_again(settings):
    """The decoder's encoder gives codes that it takes back, and that are numbers of codes."""
    async with running(settings(models=DRAWN)) as client:
        (file,) = await pictures(client, prompt="red dog", seed=5)
        url = "/v1/images/encode?model=painter"
        found = (await client.post(url, content=file, headers={"Content-Type": "image/png"})).json()["latents"]
        assert all(number == int(number) and 0 <= number < 16 for row in found for number in row)
        answer = await client.post(IMAGES, json={"model": "painter", "latents": found})
        assert answer.status_code == 200
