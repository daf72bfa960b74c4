import dataclasses
import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint
from training import data, quality
from training.animals import FILES, TEST_PER_CLASS, array_memory, distinct, read_animals
from training.data import DEFAULT_PATHS, Split, load_dataset
from training.data_recipe import DataRecipe
from training.errors import TrainingError
from training.provenance import dataset_of
from training.weights import networks

HERE = Path("somewhere")
JUDGES = Path(__file__).parents[2] / "training" / "judges"
EACH = TEST_PER_CLASS + 10


def packed(thing):
    """As the package's files are: a gzipped pickle."""
    return gzip.compress(pickle.dumps(thing, protocol=4), 1, mtime=0)


def files(pictures, labels):
    return {FILES[0]: packed(np.asarray(pictures, np.uint8)), FILES[1]: packed(np.asarray(labels, np.int64))}


@pytest.fixture(scope="module")
def drawn():
    """Pictures of two classes, no two alike, in the order of their classes."""
    pictures = np.random.default_rng(1).integers(0, 256, (2 * EACH, 28, 28), dtype=np.uint8)
    return pictures, np.repeat([0, 1], EACH)


@pytest.fixture
def folder(drawn, tmp_path):
    for name, content in files(*drawn).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def prints(pictures):
    return {picture.tobytes() for picture in pictures}


def test_the_split_is_balanced_complete_and_disjoint(drawn):
    train, train_labels, test, test_labels = read_animals(HERE, files(*drawn))
    assert np.bincount(test_labels).tolist() == [TEST_PER_CLASS] * 2
    assert np.bincount(train_labels).tolist() == [10, 10]
    assert train.shape[1:] == test.shape[1:] == (28, 28)
    assert not prints(train) & prints(test)
    assert prints(train) | prints(test) == prints(drawn[0])
    label_of = {picture.tobytes(): label for picture, label in zip(*drawn, strict=True)}
    assert [label_of[picture.tobytes()] for picture in (*train, *test)] == [*train_labels, *test_labels]


def test_the_split_depends_on_the_pictures_alone(drawn):
    pictures, labels = drawn
    order = np.random.default_rng(2).permutation(len(labels))
    first, second = read_animals(HERE, files(*drawn)), read_animals(HERE, files(pictures[order], labels[order]))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one, other)


def test_duplicates_go_and_so_does_what_stands_under_two_labels():
    pictures = np.zeros((6, 2, 2), np.uint8)
    pictures[:, 0, 0] = [1, 2, 1, 3, 3, 4]
    kept = distinct(pictures, np.array([0, 0, 0, 0, 1, 1], np.uint8))
    assert sorted(kept) == [0, 1, 5]


def test_a_copy_does_not_reach_the_other_side(drawn):
    pictures, labels = drawn
    twice = files(np.concatenate([pictures, pictures]), np.concatenate([labels, labels]))
    for one, other in zip(read_animals(HERE, files(*drawn)), read_animals(HERE, twice), strict=True):
        assert np.array_equal(one, other)


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = np.arange(300, dtype=np.uint8)
    assert array_memory(HERE, packed((Payload(), array))) == array.tobytes()
    assert not Path("executed").exists()
    pickle.loads(pickle.dumps(Payload()))
    assert Path("executed").exists(), "the payload does nothing, so that this test shows nothing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 arrays found|not a gzipped pickle"),
        (b"plain text", "not a gzipped pickle"),
        (gzip.compress(b"plain text", mtime=0), "not a gzipped pickle"),
        (packed(np.zeros(300, np.uint8))[:-12], "not a gzipped pickle"),
        (gzip.compress(pickle.dumps(np.zeros(300, np.uint8), protocol=4)[:200], mtime=0), "not a gzipped pickle"),
        (packed({"no": "array"}), "0 arrays found where there should be one"),
        (packed([np.zeros(300, np.uint8), np.ones(300, np.uint8)]), "2 arrays found where there should be one"),
    ],
)
def test_a_broken_file_is_refused_by_name(content, message):
    with pytest.raises(TrainingError, match=f"x.gz: ({message})"):
        array_memory(Path("x.gz"), content)


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_are_read_or_refused(seed):
    random = np.random.default_rng(seed)
    good = bytearray(pickle.dumps(np.arange(300, dtype=np.uint8), protocol=4))
    good[: int(random.integers(1, 140))] = random.bytes(int(random.integers(0, 140)))
    with pytest.raises(TrainingError, match=r"somewhere: "):
        array_memory(HERE, gzip.compress(bytes(good), 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pictures, labels: (pictures[:, :, :27], labels), "animal_data.* no whole number of 28x28 pictures"),
        (lambda pictures, labels: (pictures[:-1], labels), "319 pictures do not fit 320 labels"),
        (lambda pictures, labels: (pictures, labels - 1), "labels from -1 to 0 found"),
        (lambda pictures, labels: (pictures, labels * 256), "labels from 0 to 256 found"),
        (lambda pictures, labels: (pictures[10:], labels[10:]), "150 different pictures of label 0, of which 150"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(drawn, change, message):
    with pytest.raises(TrainingError, match=message):
        read_animals(HERE, files(*change(*drawn)))


def test_labels_of_half_a_number_are_refused(drawn):
    contents = files(*drawn) | {FILES[1]: packed(np.zeros(301, np.uint8))}
    with pytest.raises(TrainingError, match=r"animal_label.*301 bytes are no whole number of 64-bit labels"):
        read_animals(HERE, contents)


def recipe(folder, labels=("Bear", "Bird")):
    return DataRecipe("animal-mnist", str(folder), "MIT", labels)


def test_a_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(TrainingError, match=r"animal_data.*missing; .*pip install .*animal_mnist==0\.4.*or set"):
        load_dataset(recipe(tmp_path))


def test_other_files_than_the_published_are_refused(folder):
    with pytest.raises(TrainingError, match=r"animal_data.*sha256.*another data\.name"):
        load_dataset(recipe(folder))


def test_a_folder_of_the_format_becomes_a_data_set(folder, monkeypatch):
    sha256 = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    source = dataclasses.replace(data.SOURCES["animal-mnist"], sha256=sha256)
    monkeypatch.setitem(data.SOURCES, "animal-mnist", source)
    dataset = load_dataset(recipe(folder))
    assert dataset.train.pictures.shape == (20, 1, 28, 28)
    assert dataset.train.pictures.dtype == torch.uint8
    assert dataset.test.labels.bincount().tolist() == [TEST_PER_CLASS] * 2
    assert dataset.card() == {"name": "animal-mnist", "license": "MIT", "sha256": sha256}
    with pytest.raises(TrainingError, match=r"label 1 found, data\.labels names 1"):
        load_dataset(recipe(folder, ("Bear",)))


needs_the_package = pytest.mark.skipif(
    not Path(DEFAULT_PATHS["animal-mnist"]).is_dir(), reason="the PyPI package animal_mnist is not unpacked in data/"
)


@needs_the_package
def test_the_published_animals_are_as_described():
    labels = ("Bear", "Bird", "Cat", "Cow", "Dog", "Elephant", "Giraffe", "Horse", "Sheep", "Zebra")
    dataset = load_dataset(recipe(DEFAULT_PATHS["animal-mnist"], labels))
    assert dataset.train.labels.bincount().tolist() == [787, 662, 842, 846, 847, 850, 850, 847, 835, 850]
    assert dataset.test.labels.bincount().tolist() == [TEST_PER_CLASS] * 10
    assert dataset.train.pictures[:, :, 0].float().mean() < 20, "the background is black"


@needs_the_package
@pytest.mark.parametrize("name", ["animals", "animals-guide"])
def test_the_committed_judges_are_as_good_as_their_cards_say(name):
    loaded = checkpoint.load(JUDGES / name, networks())
    test = dataset_of(loaded, None).test
    found = quality.measure_classifier(loaded.model, Split(test.pictures[:300], test.labels[:300]))
    assert found["accuracy"] == pytest.approx(loaded.config.card["metrics"]["accuracy"], abs=0.02)
    assert loaded.config.card["gates"]["accuracy"]["min"] >= 0.97
