import functools
import gzip
import struct

import numpy as np
import pytest
import torch

from tests.training.conftest import pack_idx
from training.data import FILES, SOURCES, Loader, Split, load_dataset, parse_idx, to_samples
from training.data_recipe import DataRecipe
from training.errors import TrainingError

LABELS = ("left", "right", "bottom")
zipped = functools.partial(gzip.compress, mtime=0)  # what names a test must not depend on the time


def recipe(folder, name="halves", labels=LABELS):
    return DataRecipe(name, str(folder), "MIT", labels)


def copy_data(source, target):
    for name in FILES:
        (target / name).write_bytes((source / name).read_bytes())


def test_pictures_and_labels_arrive_as_written(data_folder):
    dataset = load_dataset(recipe(data_folder))
    assert dataset.train.pictures.shape == (96, 1, 8, 8)
    assert dataset.train.pictures.dtype == torch.uint8
    assert dataset.test.pictures.shape == (48, 1, 8, 8)
    assert sorted(dataset.test.labels.tolist()) == [0] * 16 + [1] * 16 + [2] * 16
    bright = dataset.train.pictures[1, 0].float()
    assert bright[:, 4:].min() >= 150 > bright[:, :4].max()
    assert set(dataset.card()) == {"name", "license", "sha256"}
    assert set(dataset.sha256) == set(FILES)


def test_own_test_pictures_are_in_no_order(data_folder, tmp_path):
    """Where they come class by class the first of them would be of one class; pictures and labels stay together."""
    copy_data(data_folder, tmp_path)
    pictures, labels = (parse_idx(data_folder / name, (data_folder / name).read_bytes()) for name in FILES[2:])
    order = labels.argsort(kind="stable")
    (tmp_path / FILES[2]).write_bytes(pack_idx(pictures[order]))
    (tmp_path / FILES[3]).write_bytes(pack_idx(labels[order]))
    test = load_dataset(recipe(tmp_path)).test
    assert len(set(test.labels[:16].tolist())) == 3
    found = {
        (bytes(picture.numpy()), label) for picture, label in zip(test.pictures, test.labels.tolist(), strict=True)
    }
    assert found == {(bytes(picture), int(label)) for picture, label in zip(pictures, labels, strict=True)}


def test_a_missing_file_names_the_debian_package_and_the_option(tmp_path):
    with pytest.raises(TrainingError, match=r"train-images.*Debian package dataset-fashion-mnist.*data\.path"):
        load_dataset(recipe(tmp_path, name="fashion-mnist"))
    with pytest.raises(TrainingError, match=r"train-images.*missing; set data\.path"):
        load_dataset(recipe(tmp_path))


def test_data_that_only_claim_to_be_fashion_mnist_are_refused(data_folder):
    with pytest.raises(TrainingError, match=r"train-images.*sha256.*another data\.name"):
        load_dataset(recipe(data_folder, name="fashion-mnist"))


@pytest.mark.parametrize("name", SOURCES)
def test_a_known_data_set_has_its_files_published_and_a_way_to_get_them(name):
    source = SOURCES[name]
    assert tuple(source.sha256) == source.files
    assert all(len(bytes.fromhex(digest)) == 32 for digest in source.sha256.values())
    assert source.path
    assert source.hint


def test_a_label_beyond_the_names_is_refused(data_folder):
    with pytest.raises(TrainingError, match=r"label 2 found, data\.labels names 2"):
        load_dataset(recipe(data_folder, labels=LABELS[:2]))


def test_splits_that_do_not_fit_are_refused(data_folder, tmp_path):
    copy_data(data_folder, tmp_path)
    (tmp_path / FILES[1]).write_bytes((data_folder / FILES[3]).read_bytes())
    with pytest.raises(TrainingError, match="do not fit"):
        load_dataset(recipe(tmp_path))
    copy_data(data_folder, tmp_path)
    raw = struct.pack(">HBB3I", 0, 8, 3, 48, 4, 16) + bytes(48 * 64)
    (tmp_path / FILES[2]).write_bytes(gzip.compress(raw))
    with pytest.raises(TrainingError, match="differ in size"):
        load_dataset(recipe(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a gzipped IDX file"),
        (b"plain text", "not a gzipped IDX file"),
        (zipped(b"ab"), "not a gzipped IDX file"),
        (zipped(bytes(100))[:-12], "not a gzipped IDX file"),
        (zipped(struct.pack(">HBBI", 0, 13, 1, 2) + bytes(8)), r"not IDX of unsigned bytes \(type 0x0d\)"),
        (zipped(struct.pack(">HBBI", 1, 8, 1, 2) + bytes(2)), "not IDX of unsigned bytes"),
        (zipped(struct.pack(">HBBI", 0, 8, 1, 4) + bytes(3)), r"3 bytes of data where the header says \[4\]"),
        (zipped(struct.pack(">HBBI", 0, 8, 1, 4) + bytes(5)), r"5 bytes of data where the header says \[4\]"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, content, message):
    with pytest.raises(TrainingError, match=message) as caught:
        parse_idx(tmp_path / "x.gz", content)
    assert "x.gz" in str(caught.value)


def test_grey_levels_span_the_range():
    assert to_samples(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def numbered(count):
    """A split whose labels number its pictures."""
    return Split(torch.zeros(count, 1, 2, 2, dtype=torch.uint8), torch.arange(count))


def test_an_epoch_deals_every_picture_once_and_epochs_differ():
    loader = Loader(numbered(12), 4, seed=1)
    epochs = [torch.cat([loader.next().labels for _ in range(3)]) for _ in range(2)]
    assert [epoch.sort().values.tolist() for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_the_order_depends_on_the_seed_and_not_on_global_state():
    def order(seed):
        np.random.seed(len(str(seed)))
        torch.manual_seed(seed)
        return Loader(numbered(64), 64, seed=seed).next().labels.tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("dealt", [0, 1, 2, 3, 7])
def test_a_loader_goes_on_from_its_state(dealt):
    whole, half = Loader(numbered(13), 4, seed=1), Loader(numbered(13), 4, seed=1)
    for _ in range(dealt):
        whole.next()
        half.next()
    resumed = Loader(numbered(13), 4, seed=1)
    resumed.load_state_dict(half.state_dict())
    for _ in range(8):
        assert resumed.next().labels.tolist() == whole.next().labels.tolist()


def test_halves_are_disjoint_and_complete():
    split = numbered(7)
    even, odd = split.half("even"), split.half("odd")
    assert even.labels.tolist() == [0, 2, 4, 6]
    assert odd.labels.tolist() == [1, 3, 5]
    assert len(even.pictures) == 4
    assert split.half("both") is split


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(TrainingError, match="batch_size 5 is more than the 4"):
        Loader(numbered(4), 5, seed=1)
