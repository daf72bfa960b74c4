import dataclasses
from pathlib import Path

import pytest
import torch

from tests.training import captions
from training import captioned as module
from training import emoji, scenes
from training.captioned import ANIMALS, Captioned, load_captioned, told
from training.data import FILES, to_samples
from training.data_recipe import CaptionedRecipe
from training.emoji import Emoji
from training.errors import TrainingError
from training.words import padding_of, rows

REAL = Path(module.DEFAULT_PATHS["emoji"])


@pytest.fixture
def table(caption_folder):
    return captions.table(caption_folder)


def load(table, **changes):
    return load_captioned(CaptionedRecipe(**table | changes))


def words_of(dataset, tokens):
    padding = padding_of(dataset.tokenizer)
    return " ".join(dataset.tokenizer.id_to_token(token) for token in tokens.tolist() if token != padding)


def test_the_splits_are_what_the_recipe_says(captioned):
    assert len(captioned.train) == 60 + 2 * 3 * 4
    assert len(captioned.test) == captions.TESTED * 10
    assert len(captioned.emoji) == 2 * 3
    assert len(captioned.held_out) == 180


def test_the_training_never_sees_a_held_out_combination_and_the_test_split_nothing_else(captioned, table):
    labels = torch.arange(10).repeat_interleave(captions.EACH)
    trained = {scene.combination for scene in captioned.train.drawn.scenes(labels, ANIMALS)}
    assert not trained & set(captioned.held_out)
    assert {scene.combination for scene in captioned.asked} <= set(captioned.held_out)
    for number in range(60):
        said = words_of(captioned, captioned.train.captions[number])
        assert not any(said == rows_said(captioned, one) for one in captioned.held_out)


def rows_said(dataset, combination):
    caption = scenes.Scene(combination, "small").caption(scenes.CAPTIONS[1])
    return words_of(dataset, torch.tensor(rows(dataset.tokenizer, [caption], captions.LENGTH)[0]))


def test_a_batch_is_pictures_with_their_captions(captioned):
    batch = captioned.test.batch(torch.tensor([3, 11]))
    assert batch.samples.shape == (2, 3, 32, 32)
    assert batch.labels.dtype == torch.int64
    for number, tokens, picture in zip((3, 11), batch.labels, batch.samples, strict=True):
        scene = captioned.asked[number]
        assert words_of(captioned, tokens) == scene.caption().replace(",", "")
        colour = torch.tensor(scenes.COLOURS[scene.combination.background]) / 127.5 - 1
        torch.testing.assert_close(picture[:, 0, 0], colour)


def test_scenes_and_emoji_may_stand_in_one_batch_in_any_order(captioned):
    mixed = captioned.train.batch(torch.tensor([61, 5, 83, 0]))
    for place, number in enumerate((61, 5, 83, 0)):
        alone = captioned.train.batch(torch.tensor([number]))
        assert torch.equal(mixed.samples[place], alone.samples[0])
        assert torch.equal(mixed.labels[place], alone.labels[0])
    assert torch.equal(mixed.samples[0], to_samples(captioned.train.pictures[0])), "the second caption of the first"
    assert torch.equal(mixed.samples[2], to_samples(captioned.train.pictures[5])), "the last one"


def test_every_emoji_stands_once_under_its_name_and_style(captioned):
    batch = captioned.emoji.batch(torch.arange(6))
    assert [words_of(captioned, tokens) for tokens in batch.labels] == [
        name.replace(",", "") for name in captioned.named
    ]
    assert torch.equal(batch.samples, to_samples(captioned.emoji.pictures))


def test_examples_are_the_same_every_time(captioned, table):
    again = load(table)
    for split in ("train", "test", "emoji"):
        first, second = getattr(captioned, split), getattr(again, split)
        index = torch.arange(len(first))
        assert all(torch.equal(*pair) for pair in zip(first.batch(index), second.batch(index), strict=True))
    other = load(table, seed=4)
    assert other.held_out != captioned.held_out
    assert not torch.equal(other.train.captions, captioned.train.captions)


def test_a_split_moves_to_a_device_as_a_whole(captioned):
    moved = captioned.train.to(torch.device("meta"))
    assert isinstance(moved, Captioned)
    assert moved.device.type == "meta"
    assert all(value.device.type == "meta" for value in vars(moved.drawn).values())
    assert {moved.covered.device.type, moved.pictures.device.type, moved.shown.device.type} == {"meta"}


def test_emoji_are_told_by_name_or_keywords_with_their_style_or_without():
    found = told([Emoji("bear face", ("bear", "cub"))], 200, seed=1)
    assert len(found) == 400
    assert not any("twitter" in caption for caption in found[:200])
    assert not any("google" in caption for caption in found[200:])
    assert {"bear face", "bear face, google style", "bear, google style", "cub bear", "bear cub, twitter style"} <= set(
        found
    )
    assert told([Emoji("odd one", ())], 50, seed=1)[0].startswith("odd one"), "one without keywords has its name"


def test_rare_keywords_are_unknown_words(captioned):
    known = captioned.tokenizer.get_vocab()
    assert len(known) == captions.WORDS
    assert {"happy", "heart", "grinning", "zebra", "small", "orange", "style"} <= known.keys()
    assert "love" not in known, "one emoji alone has it"


def test_files_of_one_s_own_are_not_compared_and_the_card_says_what_they_are(captioned, table):
    card = captioned.card()
    assert card["name"] == "shapes"
    assert set(card["sha256"]) == {*FILES, *emoji.FILES}
    assert card["held_out"] == 0.2
    assert "animals" not in card, "where the files lay is nobody's business"


def test_the_published_data_are_checked(table, tmp_path, caption_folder, monkeypatch):
    for file in emoji.FILES:
        (tmp_path / file).write_bytes((caption_folder / file).read_bytes())
    monkeypatch.setattr(module, "_silhouettes", lambda recipe: pytest.fail("emoji are looked at first"))
    with pytest.raises(TrainingError, match=r"google-16\.0\.0\.tgz: sha256 is .*the published one has fb5fd131"):
        module._read(tmp_path, "emoji-animals")


@pytest.mark.parametrize("file", emoji.FILES)
def test_a_missing_archive_names_the_command_and_the_key(tmp_path, file, caption_folder):
    for other in emoji.FILES:
        if other != file:
            (tmp_path / other).write_bytes((caption_folder / other).read_bytes())
    with pytest.raises(TrainingError, match=rf"{file}: missing; get them with `npm pack.*data\.emoji"):
        module._read(tmp_path, "shapes")


def test_an_unreadable_archive_is_said(tmp_path):
    (tmp_path / emoji.FILES[0]).mkdir()
    with pytest.raises(TrainingError, match="unreadable"):
        module._read(tmp_path, "shapes")


def test_missing_silhouettes_name_the_key_of_their_folder(table, tmp_path):
    with pytest.raises(TrainingError, match=r"animal_mnist==0.4.*data\.animals"):
        load(table, name="emoji-animals", animals=str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / emoji.FILES[0]).is_file(), reason="the archives of emoji are not in data/emoji")
def test_the_published_data_can_be_read():
    recipe = CaptionedRecipe(
        "captioned", module.NAME, "", **module.DEFAULT_PATHS, held_out=0.2, seed=8, scenes=100, emoji_captions=1,
        rarest=3, first_word=1024, caption_length=16,
    )  # fmt: skip
    dataset = load_captioned(recipe)
    assert (len(dataset.emoji), len(dataset.test)) == (2 * 1911, 1500)
    assert dataset.tokenizer.get_vocab_size() == 2370
    assert dataclasses.asdict(recipe)["first_word"] == padding_of(dataset.tokenizer)
