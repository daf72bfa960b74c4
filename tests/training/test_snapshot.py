import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from training.errors import TrainingError
from training.snapshot import load_snapshot, restore_random, save_snapshot


def draws():
    return random.random(), np.random.normal(), torch.randn(3).tolist()


def test_all_three_generators_go_on_where_they_were(tmp_path):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    draws()
    save_snapshot(tmp_path / "s.pt", {"step": 3})
    expected = [draws() for _ in range(3)]
    state = load_snapshot(tmp_path / "s.pt")
    assert state["step"] == 3
    restore_random(state)
    assert [draws() for _ in range(3)] == expected


def test_a_write_that_fails_leaves_the_old_snapshot(tmp_path, monkeypatch):
    path = tmp_path / "s.pt"
    save_snapshot(path, {"step": 1})

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            save_snapshot(path, {"step": 2})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            save_snapshot(path, {"step": 2})
    assert load_snapshot(path)["step"] == 1


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_truncated_snapshot_is_refused_by_name(tmp_path, keep):
    path = tmp_path / "s.pt"
    save_snapshot(path, {"weights": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrainingError, match=r"s\.pt: damaged"):
        load_snapshot(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "s.pt"
    with pytest.raises(TrainingError, match="no snapshot to resume from"):
        load_snapshot(path)
    torch.save({"step": 1}, path)
    with pytest.raises(TrainingError, match="not a snapshot of format 1"):
        load_snapshot(path)


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


def test_code_in_a_snapshot_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "random": Payload()}, "s.pt")
    with pytest.raises(TrainingError, match="holds more than tensors"):
        load_snapshot(Path("s.pt"))
    Path("plain.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(TrainingError, match="holds more than tensors"):
        load_snapshot(Path("plain.pt"))
    assert not Path("pwned").exists()
