"""What a manifest calls complete outlasts a power cut: it is on the disk before the manifest is."""

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from app.dataset import disk
from tests.app.dataset import told


@pytest.fixture
def seen(monkeypatch):
    """What is asked of the disk, in order; files and folders by their inodes, files with their sizes then."""
    steps, fsync, replace, rmtree = [], os.fsync, Path.replace, shutil.rmtree

    def fsyncing(number):
        fsync(number)
        found = os.fstat(number)
        steps.append(("kept", found.st_ino, None if stat.S_ISDIR(found.st_mode) else found.st_size))

    def replacing(place, target):
        steps.append(("named", target, place.stat().st_size))
        return replace(place, target)

    def removing(place, **options):
        steps.append(("removed", place, None))
        rmtree(place, **options)

    monkeypatch.setattr(os, "fsync", fsyncing)
    monkeypatch.setattr(Path, "replace", replacing)
    monkeypatch.setattr(shutil, "rmtree", removing)
    return steps


def kept(place):
    found = place.stat()
    return ("kept", found.st_ino, None if place.is_dir() else found.st_size)


@pytest.mark.parametrize("layout", ["png", "idx"])
def test_all_of_a_set_is_on_the_disk_before_its_manifest_says_so(make, tmp_path, seen, layout):
    out = tmp_path / "deep" / "set"
    assert make("--format", layout, out=out)[0] == 0
    manifest = out / "manifest.json"
    complete = max(i for i, step in enumerate(seen) if step[:2] == ("named", manifest))
    contents = [place for place in out.rglob("*") if place != manifest]
    assert len(contents) == {"png": 3 + 210, "idx": 2}[layout]
    for place in contents:
        assert kept(place) in seen[:complete], f"{place} may be empty or gone under a complete manifest"
    assert kept(manifest) in seen[:complete]
    last = max(i for i, (kind, place, size) in enumerate(seen) if kind == "named" and place != manifest)
    folders = [i for i, step in enumerate(seen) if step == kept(out)]
    assert any(last < i < complete for i in folders), "the names of what the set holds"
    assert any(complete < i < seen.index(("removed", out / ".parts", None)) for i in folders), "the manifest's name"


def test_the_folder_of_a_set_is_on_the_disk_itself(make, tmp_path, seen):
    out = tmp_path / "deep" / "set"
    assert make(out=out)[0] == 0
    first = next(i for i, step in enumerate(seen) if step[0] == "named")
    assert {kept(tmp_path), kept(tmp_path / "deep"), kept(out)} <= set(seen[:first])


def test_a_picture_that_the_disk_does_not_take(make, tmp_path, monkeypatch):
    fsync = os.fsync

    def failing(number):
        if Path(f"/proc/self/fd/{number}").readlink().match("1-up/100.png"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(number)

    monkeypatch.setattr(os, "fsync", failing)
    status, out, err = make()
    assert (status, out) == (1, "")
    assert err.endswith(f"genserve dataset: {tmp_path}/set: Input/output error\n")
    assert told.manifest(tmp_path / "set")["complete"] is False
    monkeypatch.undo()
    assert make()[0] == 0


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.EACCES, True), (errno.EIO, False)])
def test_a_file_system_that_keeps_no_names_on_request(tmp_path, monkeypatch, number, passes):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if passes:
        disk.keep_names(tmp_path)
    else:
        with pytest.raises(OSError, match="Input/output error"):
            disk.keep_names(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=os.strerror(number)):
        disk.keep([tmp_path / "file"])
