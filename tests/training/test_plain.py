import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from training.errors import TrainingError
from training.plain import load_plain


def test_tensors_and_plain_values_arrive(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(OrderedDict(weight=torch.ones(2), step=3, name="x"), path)
    found = load_plain(path)
    assert found["weight"].tolist() == [1.0, 1.0]
    assert (found["step"], found["name"]) == (3, "x")


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_never_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Payload()}, "zip.pt", pickle_protocol=protocol)
    torch.save({"weight": Payload()}, "old.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    Path("plain.pt").write_bytes(pickle.dumps(Payload(), protocol=protocol))
    for name in ("zip.pt", "old.pt", "plain.pt"):
        with pytest.raises(TrainingError, match=f"{name}: damaged, or holds more than tensors"):
            load_plain(Path(name))
    assert not Path("pwned").exists()


def test_a_whole_model_is_refused_with_advice(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "x.pt")
    with pytest.raises(TrainingError, match=r"x\.pt.*save model\.state_dict\(\), not the model"):
        load_plain(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"PK\x03\x04", b"text, and some more of it", bytes(range(256)), b"\x80\x04."]
)
def test_anything_else_is_one_line(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"x\.pt: damaged") as caught:
        load_plain(path)
    assert "\n" not in str(caught.value)


def test_a_folder_or_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainingError, match="damaged, or not a file"):
        load_plain(tmp_path)
    with pytest.raises(TrainingError, match=r"none\.pt"):
        load_plain(tmp_path / "none.pt")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.randn(50)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(TrainingError):
            load_plain(path)
