"""A card is enough to read the data again that a model was trained on; other data are refused."""

import hashlib

import pytest
import torch

import training.captioned
from training.errors import TrainingError
from training.provenance import captioned_named, speech_named


def test_captioned_pictures_of_a_card_are_made_anew(captioned, caption_folder, monkeypatch):
    monkeypatch.setattr(training.captioned, "DEFAULT_PATHS", {"animals": str(caption_folder), "emoji": "nowhere"})
    card = {"training_data": captioned.card()}
    again = captioned_named("tiny", card, str(caption_folder))
    assert again.card() == captioned.card()
    assert torch.equal(again.train.captions, captioned.train.captions)
    with pytest.raises(TrainingError, match="does not name its training data"):
        captioned_named("tiny", {"training_data": {"name": "shapes"}}, None)
    changed = dict(captioned.card(), sha256={"a": hashlib.sha256(b"").hexdigest()})
    with pytest.raises(TrainingError, match="not the data that tiny was trained on"):
        captioned_named("tiny", {"training_data": changed}, str(caption_folder))


def test_clips_of_a_card_are_read_again(speech, speech_folder):
    again = speech_named("tiny", {"training_data": speech.card()}, str(speech_folder))
    assert [clip.name for clip in again.test] == [clip.name for clip in speech.test]
    other = {**speech.card(), "sha256": {"sounds": "0"}}
    with pytest.raises(TrainingError, match="not the data"):
        speech_named("tiny", {"training_data": other}, str(speech_folder))
    with pytest.raises(TrainingError, match="--data"):
        speech_named("tiny", {"training_data": speech.card()}, None)
    with pytest.raises(TrainingError, match="does not name"):
        speech_named("tiny", {}, None)
