"""What a folder may hold before, and what it holds after."""

import errno
import fcntl
import json
import os

import pytest

from app.dataset import folder as folders
from tests.app.dataset import told


def test_a_folder_of_something_else(make, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.doc").write_text("precious")
    status, _, err = make()
    assert status == 2
    assert err == f"genserve dataset: {tmp_path}/set: holds 'thesis.doc' and no manifest.json; take a new folder\n"
    assert list(told.contents(tmp_path / "set")) == ["thesis.doc"]


def test_folders_are_made_and_an_empty_one_is_taken(make, tmp_path):
    (tmp_path / "empty").mkdir()
    assert make(out=tmp_path / "empty")[0] == 0
    assert make(out=tmp_path / "new" / "deep")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--per-class", "71"), 'parameters {"per_class": 70, '),
        (("--seed", "1"), "parameters "),
        (("--truncation", "0.5"), "parameters "),
        (("--format", "idx"), "parameters "),
    ],
)
def test_the_set_of_other_parameters(make, tmp_path, arguments, line):
    make()
    before = told.contents(tmp_path / "set")
    status, _, err = make(*arguments)
    assert status == 2
    assert f"{tmp_path}/set/manifest.json: of another set: {line}" in err
    assert "; take another --out" in err
    assert told.contents(tmp_path / "set") == before


@pytest.mark.parametrize(("header", "value", "line"), [
    ("X-Genserve-Runtime", "cuda; told", "runtime cpu; told, now asked for: cuda; told"),
    ("digest", "ffff" * 4, "model told@0123456789ab, now asked for: told@ffffffffffff"),
])  # fmt: skip
def test_the_set_of_another_model_or_runtime(service, make, tmp_path, header, value, line):
    service.statuses = [200, 500]
    assert make("--concurrency", "1")[0] == 1
    service.headers = {**service.headers, header: value}
    service.card = {**service.card, header: value}
    status, _, err = make()
    assert (status, "other set: " + line in err) == (2, True), err


def test_what_is_no_manifest(make, tmp_path):
    make()
    place = tmp_path / "set" / "manifest.json"
    good = told.manifest(tmp_path / "set")
    for content in ("", "[]", "{}", json.dumps({**good, "classes": []}), json.dumps({**good, "files": None}),
                    json.dumps({**good, "classes": good["classes"][::-1]})):  # fmt: skip
        place.write_text(content)
        status, _, err = make()
        assert (status, err) == (2, f"genserve dataset: {place}: not a manifest that genserve dataset wrote\n")


def test_two_at_once_are_one_too_many(make, tmp_path):
    (tmp_path / "set" / ".parts").mkdir(parents=True)
    with (tmp_path / "set" / ".parts" / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert make() == (2, "", f"genserve dataset: {tmp_path}/set: another process is writing it\n")
    assert make()[0] == 0


def test_a_damaged_part_is_asked_for_again(service, make, tmp_path):
    service.statuses = [200, 200, 500]
    assert make("--concurrency", "1")[0] == 1
    parts = sorted((tmp_path / "set" / ".parts").glob("*.zip"))
    assert len(parts) == 2
    parts[0].write_bytes(parts[0].read_bytes()[:-50])
    service.bodies.clear()
    assert make()[0] == 0
    assert sorted(body["seed"] for body in service.bodies) == [0, 64, 134, 140, 204]


def test_a_set_that_was_changed_is_not_what_the_manifest_says(make, tmp_path):
    for layout, name in (("png", "1-up/080.png"), ("idx", "train-labels-idx1-ubyte.gz")):
        out = tmp_path / layout
        assert make("--format", layout, out=out)[0] == 0
        line = f"genserve dataset: {out}: complete already, and as its manifest says\n"
        assert make("--format", layout, out=out) == (0, "", line)
        (out / name).write_bytes(b"changed")
        status, _, err = make("--format", layout, out=out)
        place = name if layout == "idx" else "1-up"
        assert (status, err[: err.index(" (")]) == (1, f"genserve dataset: {out}/{place}: not what the manifest says")
        (out / name).unlink()
        missing = "missing; take the whole set away, and the same command makes it anew"
        line = f"genserve dataset: {out}/{name}: {missing if layout == 'png' else 'No such file or directory'}\n"
        assert make("--format", layout, out=out) == (1, "", line)


def test_a_file_that_does_not_belong_to_a_complete_set_is_named(make, tmp_path):
    assert make()[0] == 0
    stranger = tmp_path / "set" / "1-up" / "extra.png"
    stranger.write_bytes(b"")
    line = f"genserve dataset: {stranger}: does not belong to the set; take it away\n"
    assert make() == (1, "", line)
    stranger.unlink()
    assert make()[0] == 0


def test_the_disk_refuses(make, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    status, _, err = make(out=tmp_path / "file" / "set")
    assert (status, err) == (1, f"genserve dataset: {tmp_path}/file/set/.parts: Not a directory\n")
    full = os.fsync
    calls = []

    def fsync(number):
        calls.append(number)
        if len(calls) == 5:  # of a part, after the folder, its parts, the manifest and its name
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        full(number)

    monkeypatch.setattr(folders.os, "fsync", fsync)
    status, _, err = make("--concurrency", "1")
    assert (status, err.splitlines()[-1]) == (1, f"genserve dataset: {tmp_path}/set: No space left on device")
    assert make()[0] == 0, "with space again, it goes on"
