import json
from pathlib import Path

import pytest
import torch

from tests.training import captions
from training import emoji
from training.emoji import FILES, KEYWORDS, KEYWORDS_INSIDE, STYLES, Emoji, read_emoji
from training.errors import TrainingError

HERE = Path("somewhere")
GOOGLE, TWITTER = STYLES.values()


@pytest.fixture
def archives():
    return captions.archives()


def test_emoji_of_every_style_come_with_names_and_keywords(archives):
    found = read_emoji(HERE, archives)
    assert found.pictures.shape == (2, 3, 3, 32, 32)
    assert found.pictures.dtype == torch.uint8
    assert found.emoji == (
        Emoji("grinning face", ("grinning face", "happy", "face")),
        Emoji("bear face", ("bear", "animal")),
        Emoji("heavy red heart", ("love", "red heart", "happy")),
    )


def test_pictures_stand_on_white(archives):
    found = read_emoji(HERE, archives).pictures
    assert found[:, :, :, 0, 0].unique().tolist() == [255]
    assert found[0, 0, :, 16, 16].tolist() == [250, 0, 0]
    assert found[1, 2, :, 16, 16].tolist() == [70, 90, 160]


def test_pictures_that_can_be_seen_through_show_white():
    assert emoji._picture(captions.png((0, 0, 0), alpha=51))[:, 16, 16].tolist() == [204] * 3


def test_names_lose_case_and_accents():
    assert emoji.plain("Piñata CÔTE d'Ivoire") == "pinata cote d'ivoire"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (GOOGLE, b"no archive", rf"{GOOGLE}: not a \.tgz archive"),
        (GOOGLE, captions.archive({}), rf"{GOOGLE}: holds no package/emoji\.json"),
        (GOOGLE, captions.archive({"package/emoji.json": b"{"}), r"package/emoji\.json is not JSON"),
        (GOOGLE, captions.archive({"package/emoji.json": b'[{"name": 1}]'}), "is not the list of emoji: KeyError"),
        (TWITTER, captions.archive({}), rf"{TWITTER}: holds no package/img/twitter/64/1f600\.png"),
        (TWITTER, captions.archive({"package/img/twitter/64/1f600.png": b"x"}), r"1f600\.png is not a picture"),
        (KEYWORDS, captions.archive({}), rf"{KEYWORDS}: holds no {KEYWORDS_INSIDE}"),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(archives, file, content, said):
    with pytest.raises(TrainingError, match=said):
        read_emoji(HERE, {**archives, file: content})


def test_a_cut_archive_is_refused(archives):
    with pytest.raises(TrainingError, match=r"not a \.tgz archive"):
        read_emoji(HERE, {**archives, TWITTER: archives[TWITTER][:400]})


def test_a_file_too_large_for_a_picture_is_never_read(archives, monkeypatch):
    monkeypatch.setattr(emoji, "MAX_BYTES", 10)
    with pytest.raises(TrainingError, match=r"holds no package/emoji\.json"):
        read_emoji(HERE, archives)


def test_the_archives_are_named_with_how_to_get_them():
    for style, file in STYLES.items():
        assert f"emoji-datasource-{style}@16.0.0" in emoji.HINT
        assert file == f"emoji-datasource-{style}-16.0.0.tgz"
    assert set(FILES) == {GOOGLE, TWITTER, KEYWORDS}
    assert json.dumps(FILES)
