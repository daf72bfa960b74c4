"""What a synthetic set is worth: read, mixed, trained on, and told in a table."""

import json
import re

import numpy as np
import pytest
import torch

from app.dataset import command
from tests.app.dataset import told
from training import augmentation
from training.augmentation import joined, load_synthetic, main, mixtures, part, train
from training.data import Split
from training.errors import TrainingError
from training.quality import measure_classifier

CARD = {**told.CARD, "labels": ["left", "right", "bottom"], "image": {"height": 8, "width": 8, "channels": 1}}
HALVES = (np.s_[:, :4], np.s_[:, 4:], np.s_[4:, :])  # as the real ones of tests/training/conftest.py


def halves(body):
    """The service's answer: pictures of the class that was asked for, noise from the seed."""
    files = []
    for seed in range(body["seed"], body["seed"] + body["n"]):
        picture = np.random.default_rng(seed).integers(0, 60, (8, 8))
        picture[HALVES[body["label"]]] += 150
        files.append((f"told-seed-{seed}.png", told.png(picture.astype(np.uint8))))
    return told.bundle(files)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with the same set, 20 pictures a class, in both layouts."""
    folder = tmp_path_factory.mktemp("sets")
    with told.Service() as service:
        service.card, service.answer = CARD, halves
        for layout in ("png", "idx"):
            flags = ("--url", service.url, "--model", "told", "--per-class", "20", "--out", str(folder / layout))
            assert command.run(told.flags(*flags, "--format", layout)) == 0
    return folder


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(augmentation, "BATCH", 16)


def run(capsys, *arguments):
    return main([*map(str, arguments)]), *capsys.readouterr()


def test_both_layouts_are_read_alike(sets):
    png, idx = (load_synthetic(sets / layout).split for layout in ("png", "idx"))
    assert png.labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert idx.labels.tolist() == [0, 1, 2] * 20
    order = torch.argsort(idx.labels, stable=True)
    assert torch.equal(png.pictures, idx.pictures[order])
    assert (png.pictures.dtype, list(png.pictures.shape)) == (torch.uint8, [60, 1, 8, 8])


def test_a_part_holds_equally_many_of_each_class_and_is_always_the_same(dataset):
    found = part(dataset.train, 0.25, 3)
    assert torch.bincount(found.labels).tolist() == [8, 8, 8]
    again = part(dataset.train, 0.25, 3)
    assert torch.equal(found.pictures, again.pictures)
    assert len(part(dataset.train, 1.0, 3)) == len(dataset.train)


def test_a_part_that_can_t_be_had(dataset):
    uneven = Split(dataset.train.pictures[:6], torch.tensor([0, 0, 0, 0, 1, 2]))
    with pytest.raises(TrainingError, match="fraction 1: 2 pictures a class; class 1 has 1"):
        part(uneven, 1.0, 3)
    with pytest.raises(TrainingError, match=r"fraction 0\.001: 0 pictures a class"):
        part(dataset.train, 0.001, 3)


def test_what_is_mixed(dataset, sets):
    synthetic = load_synthetic(sets / "png").split
    found = mixtures(dataset, synthetic, [0.25, 0.5])
    assert [(len(one.split), one.real) for one in found] == [(24, 24), (84, 24), (48, 48), (108, 48), (60, 0)]
    both = joined(found[0].split, synthetic)
    assert torch.equal(found[1].split.pictures, both.pictures)


def test_a_training_is_the_same_for_the_same_seed(dataset):
    weights = {}
    for seed, augmented in ((0, False), (0, True), (1, False)):
        first, again = (train(dataset.train, 3, seed=seed, steps=3, augmented=augmented).state_dict() for _ in range(2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        weights[seed, augmented] = first["to_features.weight"]
    assert not torch.equal(weights[0, False], weights[0, True])
    assert not torch.equal(weights[0, False], weights[1, False])


def test_a_training_learns(dataset, sets):
    network = train(load_synthetic(sets / "idx").split, 3, seed=0, steps=60, augmented=False)
    assert not network.training
    assert measure_classifier(network, dataset.test)["accuracy"] > 0.9


def test_the_table(sets, data_folder, capsys):
    status, out, err = run(capsys, "--synthetic", sets / "png", "--real", data_folder, "--fractions", 0.25,
                           "--seeds", 2, "--steps", 3)  # fmt: skip
    assert status == 0, err
    head, _, *lines = out.splitlines()
    assert head == "told@0123456789ab, 2 seeds, 3 steps of 16 each"
    shown = r" \d+\.\d ± \d+\.\d % "
    for line, start in zip(lines[2:], ("0.25 of the real | 24 | 0", "0.25 of the real + synthetic | 24 | 60",
                                       "synthetic alone | 0 | 60"), strict=True):  # fmt: skip
        assert re.fullmatch(rf"\| {re.escape(start)} \|{shown}\|{shown}\|", line), line
    assert len(err.splitlines()) == 12
    rows = [line.rpartition(": ")[2] for line in err.splitlines()[:2]]
    assert f" {100 * (float(rows[0]) + float(rows[1])) / 2:.1f} ± " in lines[2]


def test_one_seed_has_no_deviation(sets, data_folder, capsys):
    status, out, _ = run(capsys, "--synthetic", sets / "idx", "--real", data_folder, "--fractions", 0.5, "--seeds", 1,
                         "--steps", 1)  # fmt: skip
    assert (status, "±" in out) == (0, False)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--fractions", "0"), "--fractions 0: above 0, up to 1"),
        (("--fractions", "nan"), "--fractions nan: above 0, up to 1"),
        (("--seeds", "0"), "--seeds 0: a whole number from 1 to 100"),
        (("--steps", "0"), "--steps 0: a whole number from 1 to 1,000,000"),
        (("--threads", "0"), "--threads 0: at least 1"),
        (("--synthetic", "nowhere"), "nowhere/manifest.json: No such file or directory"),
        (("--real", "nowhere"), "nowhere/train-images-idx3-ubyte.gz: missing"),
        (("--fractions", "0.1"), "batch_size 16 is more than the 9 training examples"),
    ],
)
def test_what_is_wrong_is_one_line(sets, data_folder, capsys, flags, line):
    status, _, err = run(capsys, "--synthetic", sets / "png", "--real", data_folder, "--steps", 1, *flags)
    assert (status, err.splitlines()[-1][: len(line) + 7]) == (1, f"error: {line}")


def test_a_set_that_is_not_what_it_should_be(sets, tmp_path, data_folder, capsys):
    manifest = json.loads((sets / "png" / "manifest.json").read_bytes())
    for change, line in (
        ({"complete": False}, f"{tmp_path}: not complete; run `genserve dataset` again"),
        ({"labels": []}, f"{tmp_path}/manifest.json: not a manifest of genserve dataset"),
        ({"parameters": {"format": "tar"}}, f"{tmp_path}/manifest.json: not a manifest of genserve dataset"),
        ({}, f"{tmp_path}: not what its manifest promises: 0 pictures of class 'left' instead of 20"),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
        status, _, err = run(capsys, "--synthetic", tmp_path, "--real", data_folder)
        assert (status, err[: len(line) + 7]) == (1, f"error: {line}")


def test_pictures_of_another_size(tmp_path, data_folder, capsys):
    with told.Service() as service:
        flags = ("--url", service.url, "--model", "told", "--per-class", "2", "--out", str(tmp_path / "set"))
        assert command.run(told.flags(*flags)) == 0
    capsys.readouterr()
    status, _, err = run(capsys, "--synthetic", tmp_path / "set", "--real", data_folder)
    assert status == 1
    assert err.startswith(f"error: {tmp_path}/set has pictures of [1, 4, 6], {data_folder} of [1, 8, 8]")
