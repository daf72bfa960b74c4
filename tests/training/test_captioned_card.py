import json
import math

import pytest

from models import checkpoint, outputs
from models.protocols import ConditionedModel, EncodingModel
from tests.training import captions
from training import captioned as data
from training import card, evaluate, illustration, reconstruction
from training.errors import TrainingError
from training.illustrator import load_decoder
from training.publish import publish


@pytest.fixture
def published(make_run, recipe, tmp_path, monkeypatch):
    """`published("vq")`: the weights folder of a run of two steps."""
    monkeypatch.setattr(illustration, "DRAWN", 1)

    def make(kind, **changes):
        run = make_run(recipe(kind, steps=2, **changes))
        run.start()
        run.train(lambda: run.finished, lambda progress, values: None)
        publish(run, "tiny.toml")
        return tmp_path / "export" / f"tiny-{kind}"

    return make


def raw(folder):
    return json.loads((folder / "config.json").read_text())


def test_an_autoencoder_is_published_as_it_is_served(published, captioned):
    folder = published("vq", gates={"psnr": {"min": 0.0}})
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md", "samples.png"}
    loaded = load_decoder(folder, captioned)
    assert isinstance(loaded.model, EncodingModel)
    assert set(loaded.config.card["metrics"]) == set(reconstruction.METRICS)
    again = card.rounded(reconstruction.measure(loaded.model, captioned))
    assert loaded.config.card["metrics"] == again, "measured with the rounded weights"
    assert "output" not in raw(folder)


def test_its_card_says_what_was_held_out_and_whose_the_emoji_are(published):
    text = (published("vq") / "README.md").read_text()
    for said in ("each row followed by what comes back", "20 scenes of silhouettes", "all 6 pictures of emoji"):
        assert said in text
    assert "codes at random make no picture" in text
    assert "Twemoji, Copyright 2020 Twitter, Inc and other contributors, [CC-BY 4.0]" in text
    assert "peak signal-to-noise ratio" in text


@pytest.fixture
def folder(published):
    return published("text-to-image", gates={"animal_found": {"min": 0.0}})


def test_a_text_to_image_network_is_published_with_all_that_the_service_asks_for(folder, captioned):
    loaded = checkpoint.load(folder)
    assert isinstance(loaded.model, ConditionedModel)
    assert outputs.checked(raw(folder)["output"]) == {
        "kind": "image",
        "decoder": "tiny-vq",
        "tokens": 64,
        "prompt_tokens": captions.LENGTH,
        "pad_token_id": captions.CODES,
        "temperature": raw(folder)["card"]["evaluation"]["temperature"],
    }
    assert (folder / "tokenizer.json").read_text() == captioned.tokenizer.to_str()
    assert raw(folder)["tokenizer"]["eos_token_id"] is None


def test_the_best_manner_becomes_the_network_s_own(folder):
    found = raw(folder)
    curve = found["card"]["evaluation"]["curve"]
    drawn = [(point["guidance"], point["temperature"]) for point in curve]
    assert drawn == [(1.0, 0.5), (1.0, 1.0), (3.0, 0.5), (3.0, 1.0)]
    best = max(curve, key=lambda point: math.prod(point[name] for name in illustration.CHOOSING))
    assert found["config"]["guidance"] == checkpoint.load(folder).model.guidance == best["guidance"]
    assert found["output"]["temperature"] == best["temperature"]
    assert set(found["card"]["metrics"]) == set(illustration.METRICS)


def test_its_card_lists_the_captions_and_says_that_emoji_were_seen(folder):
    text = (folder / "README.md").read_text()
    shown = raw(folder)["card"]["evaluation"]["captions"]
    assert len(shown) == 80
    assert all(caption in text for caption in shown)
    for said in (
        "with captions that the training has seen",
        "| guidance | temperature | animal found | colours found | emoji found |",
        "tiny-vq@",
    ):
        assert said in text
    assert "20% of all" in text
    assert "CC-BY 4.0" in text


@pytest.mark.parametrize("kind", ["vq", "text-to-image"])
def test_a_folder_is_measured_anew_from_the_command_line(published, kind, caption_folder, monkeypatch, capsys):
    folder = published(kind)
    monkeypatch.setattr(data, "DEFAULT_PATHS", {"animals": str(caption_folder), "emoji": str(caption_folder)})
    monkeypatch.setattr(evaluate, "find_folder", lambda name: folder if name == "it" else caption_folder / name)
    before = raw(folder)
    assert evaluate.main(["it", "--judge", str(caption_folder / "shapes")]) == 0
    assert raw(folder) == before, "the same figures"
    said = capsys.readouterr().out
    assert all(name in said for name in before["card"]["metrics"])
    assert evaluate.main(["it", "--truncations", "0.5"]) == 1
    assert "draws codes: --truncations and --inception have no meaning" in capsys.readouterr().err


def test_a_gate_that_is_missed_exports_nothing(published, tmp_path):
    with pytest.raises(TrainingError, match=r"gates missed: animal_found is 0\.\d+, min 1\.01 wanted"):
        published("text-to-image", gates={"animal_found": {"min": 1.01}})
    assert not (tmp_path / "export").exists()
