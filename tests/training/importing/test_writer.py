"""A weights folder comes whole or not at all, and its tensors are what the library reads."""

import hashlib
import math

import pytest
import torch
from safetensors.torch import load_file

from training.errors import TrainingError
from training.importing.assembly import stored
from training.importing.writer import write_tensors
from training.new_folder import new_folder


def test_the_library_reads_what_was_written(tmp_path):
    path = tmp_path / "x.safetensors"
    wanted = {
        "a": torch.randn(3, 4),
        "b.c": torch.randn(5, 2).half(),
        "d": torch.randn(6).bfloat16(),
        "e": torch.randn(4, 3).T,
    }
    sha256, size = write_tensors(path, wanted, wanted.items())
    assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size) == (sha256, size)
    found = load_file(path)
    assert found.keys() == wanted.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in wanted.items()
    )


def test_one_tensor_is_held_at_a_time(tmp_path):
    """The next one is made when the one before is in the file."""
    path, sizes = tmp_path / "x.safetensors", []

    def make():
        for name in "abc":
            sizes.append(path.stat().st_size)
            yield name, torch.ones(1 << 16)

    write_tensors(path, "abc", make())
    assert sizes[2] - sizes[1] >= 1 << 17


def test_numbers_that_would_lie_askew_are_refused(tmp_path):
    tensors = {"a": torch.ones(3).half(), "b": torch.ones(3)}
    with pytest.raises(TrainingError, match="b: can't follow"):
        write_tensors(tmp_path / "x.safetensors", tensors, tensors.items())


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (torch.tensor([1.0, -2.5, 1e-4]), torch.float16),
        (torch.tensor([1.0, 70_000.0]), torch.float32),
        (torch.tensor([1e-7, 3e-7]), torch.float32),
        (torch.tensor([1e-9, 1.0]), torch.float16),
        (torch.tensor([0.0, 0.0]), torch.float16),
        (torch.tensor([1e-30]).bfloat16(), torch.bfloat16),
        (torch.tensor([1.0]).half(), torch.float16),
        (torch.empty(0), torch.float32),
    ],
)
def test_precision_is_given_up_only_where_it_does_no_harm(value, kept):
    found = stored(value)
    assert found.dtype == kept
    bound = 2**-11 * float(value.abs().max()) if value.numel() else math.inf
    assert not value.numel() or float((found.float() - value.float()).abs().max()) <= bound


def test_a_folder_takes_its_place_at_the_end(tmp_path):
    target = tmp_path / "out" / "name"
    with new_folder(target, replace=False) as folder:
        assert (folder.name, target.exists()) == ("name", False)
        (folder / "a").write_text("1")
    assert [path.name for path in target.parent.iterdir()] == ["name"]
    with pytest.raises(TrainingError, match="exists already"), new_folder(target, replace=False):
        pass
    with new_folder(target, replace=True) as folder:
        (folder / "b").write_text("2")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in target.parent.iterdir()] == ["name"], "the old one is gone"


def test_a_fault_leaves_what_was_there(tmp_path):
    target = tmp_path / "name"
    target.mkdir()
    (target / "a").write_text("1")
    with pytest.raises(FileNotFoundError), new_folder(target, replace=True) as folder:
        (folder / "gone" / "b").write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    assert (target / "a").read_text() == "1"
