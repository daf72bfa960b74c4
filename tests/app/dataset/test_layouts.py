"""What other programs read: PNG files in a folder a class, or MNIST's two files."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from app.dataset import layouts
from tests.app.dataset import told
from training.data import parse_idx


def test_png(make, tmp_path):
    status, out, err = make("--seed", "9")
    assert (status, out) == (0, f"{tmp_path}/set: 210 pictures of told@0123456789ab on cpu; told\n"), err
    files = told.contents(tmp_path / "set")
    names = [f"{folder}/{seed:03d}.png" for folder, first in (("0-left_right", 9), ("1-up", 79), ("2-down", 149))
             for seed in range(first, first + 70)]  # fmt: skip
    assert sorted(files) == sorted([*names, "manifest.json"])
    with Image.open(tmp_path / "set" / "1-up" / "100.png") as image:
        assert np.array_equal(np.asarray(image), told.picture(100, 1))
    said = told.manifest(tmp_path / "set")
    assert (said["complete"], said["model"], said["runtime"]) == (True, "told@0123456789ab", "cpu; told")
    assert [one["seeds"] for one in said["classes"]] == [{"first": f, "last": f + 69} for f in (9, 79, 149)]
    for one in said["classes"]:
        own = b"".join(files[name] for name in sorted(files) if name.startswith(one["folder"]))
        assert one["sha256"] == hashlib.sha256(own).hexdigest()


def test_idx(make, tmp_path):
    assert make("--format", "idx")[0] == 0
    files = told.contents(tmp_path / "set")
    assert sorted(files) == sorted(["manifest.json", *layouts.FILES])
    pictures, labels = (parse_idx(tmp_path / name, files[name]) for name in layouts.FILES)
    assert (pictures.shape, labels.tolist()) == ((210, 4, 6), [0, 1, 2] * 70)
    assert all(np.array_equal(pictures[3 * j + c], told.picture(70 * c + j, c)) for c in range(3) for j in range(70))
    said = told.manifest(tmp_path / "set")
    assert said["files"] == {name: hashlib.sha256(files[name]).hexdigest() for name in layouts.FILES}
    assert said["classes"][2]["sha256"] == hashlib.sha256(pictures[2::3].tobytes()).hexdigest()
    assert files[layouts.IMAGES][3:8] == bytes(5), "no name, no time"


def test_a_model_without_classes(service, make, tmp_path):
    service.card = {**service.card, "num_classes": 0, "labels": []}
    assert make()[0] == 0
    assert {name.split("/")[0] for name in told.contents(tmp_path / "set")} == {"all", "manifest.json"}
    assert all("label" not in body for body in service.bodies)


@pytest.mark.parametrize("layout", ["png", "idx"])
def test_a_part_that_is_damaged_at_the_end(service, make, tmp_path, layout, monkeypatch):
    write = layouts.write

    def damage(folder):
        (tmp_path / "set" / ".parts" / "1-70.zip").write_bytes(b"rot")
        return write(folder)

    monkeypatch.setattr(layouts, "write", damage)
    status, _, err = make("--format", layout)
    assert (status, "a part was damaged meanwhile: not a readable archive" in err) == (1, True)
    monkeypatch.undo()
    service.bodies.clear()
    assert make("--format", layout)[0] == 0
    assert [body["seed"] for body in service.bodies] == [70]
