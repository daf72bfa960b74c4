"""What `output` of a config.json may say; and that it travels with the weights and counts in their digest."""

import dataclasses
import json

import pytest
import torch

from models import checkpoint, outputs
from models.config import read_config
from models.errors import CheckpointError
from models.gpt import GPT
from models.mlp_gan import MLPGenerator

SMALL = {"vocab_size": 8, "max_length": 8, "width": 8, "layers": 1, "heads": 2}
PICTURES = {"kind": "image", "decoder": "emoji-vq", "tokens": 64, "prompt_tokens": 16, "pad_token_id": 512}
SPEECH = {
    "kind": "audio",
    "sample_rate": 8000,
    "encoding": "mu-law",
    "characters": " 'abcä",
    "samples_per_character": 560,
    "start_token_id": 128,
}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "small", GPT(**SMALL), architecture="gpt", config=SMALL, output=SPEECH)
    return tmp_path / "small"


def change(folder, **changes):
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    raw["output"] = {**raw["output"], **changes}
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize("output", [PICTURES, SPEECH, {**PICTURES, "temperature": 0.7}, {**SPEECH, "temperature": 1}])
def test_what_is_said_is_taken_as_it_is(output):
    assert outputs.checked(output) == output


@pytest.mark.parametrize(
    ("base", "changes", "said"),
    [
        (PICTURES, {"kind": "video"}, '"kind" of image, audio expected'),
        (PICTURES, {"kind": ["image"]}, '"kind" of image, audio expected'),
        (PICTURES, {"kind": None}, '"kind" of image, audio expected'),
        (PICTURES, {"decoder": "../x"}, "decoder is out of bounds: '../x'"),
        (PICTURES, {"decoder": 7}, "decoder is out of bounds"),
        (PICTURES, {"tokens": 0}, "tokens is out of bounds: 0"),
        (PICTURES, {"tokens": True}, "tokens is out of bounds"),
        (PICTURES, {"tokens": 64.0}, "tokens is out of bounds"),
        (PICTURES, {"tokens": 1 << 40}, "tokens is out of bounds"),
        (PICTURES, {"pad_token_id": -1}, "pad_token_id is out of bounds"),
        (PICTURES, {"colour": "red"}, "unknown field 'colour'"),
        (PICTURES, {"x" * 5000: 1}, "unknown field 'xxx"),
        (PICTURES, {"temperature": "warm"}, "temperature is out of bounds"),
        (PICTURES, {"temperature": float("nan")}, "temperature is out of bounds"),
        (SPEECH, {"sample_rate": 0}, "sample_rate is out of bounds"),
        (SPEECH, {"encoding": "mp3"}, "encoding is out of bounds: 'mp3'"),
        (SPEECH, {"encoding": []}, "encoding is out of bounds"),
        (SPEECH, {"characters": ""}, "characters is out of bounds"),
        (SPEECH, {"characters": "aba"}, "characters is out of bounds"),
        (SPEECH, {"characters": "aB"}, "characters is out of bounds"),
        (SPEECH, {"characters": "".join(map(chr, range(0x4E00, 0x4E00 + 1025)))}, "characters is out of bounds"),
        (SPEECH, {"samples_per_character": "560"}, "samples_per_character is out of bounds"),
        (SPEECH, {"start_token_id": None}, "start_token_id is out of bounds"),
    ],
)
def test_what_can_t_be_read_is_named(base, changes, said):
    with pytest.raises(ValueError, match=r"^output: ") as caught:
        outputs.checked({**base, **changes})
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("raw", [None, 7, "audio", [], {}])
def test_something_else_than_an_object(raw):
    with pytest.raises(ValueError, match="object"):
        outputs.checked(raw)


@pytest.mark.parametrize("base", [PICTURES, SPEECH])
def test_every_field_has_to_be_there(base):
    for name in base.keys() - {"kind"}:
        with pytest.raises(ValueError, match=f"output: {name} is missing"):
            outputs.checked({key: value for key, value in base.items() if key != name})


def test_it_is_written_and_read_with_the_weights(folder):
    assert json.loads((folder / "config.json").read_text())["output"] == SPEECH
    assert checkpoint.load(folder).config.output == SPEECH


def test_it_counts_in_the_digest(folder):
    config = read_config(folder)
    others = [dataclasses.replace(config, output=output) for output in ({}, PICTURES, {**SPEECH, "sample_rate": 16000})]
    assert len({config.digest, *(other.digest for other in others)}) == 4


def test_without_one_nothing_is_written(tmp_path):
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "plain", GPT(**SMALL), architecture="gpt", config=SMALL)
    assert "output" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert checkpoint.load(tmp_path / "plain").config.output == {}


def test_a_folder_that_says_nonsense_is_refused_in_one_line(folder):
    change(folder, sample_rate=-3)
    with pytest.raises(CheckpointError, match=r"config\.json: output: sample_rate is out of bounds: -3$"):
        checkpoint.load(folder)


def test_nonsense_is_not_even_written(tmp_path):
    with pytest.raises(ValueError, match="encoding"):
        checkpoint.save(
            tmp_path / "x", GPT(**SMALL), architecture="gpt", config=SMALL, output={**SPEECH, "encoding": "mp3"}
        )
    assert not (tmp_path / "x").exists()


def test_a_model_of_pictures_has_none(tmp_path):
    config = {"latent_dim": 2, "widths": [4], "image_shape": [1, 4, 4]}
    checkpoint.save(tmp_path / "gan", MLPGenerator(**config), architecture="mlp-gan", config=config, output=PICTURES)
    with pytest.raises(CheckpointError, match="belongs to sequence models; mlp-gan makes pictures"):
        read_config(tmp_path / "gan")
