"""The command line of `genserve import`: wrong arguments, sources that are none, and a missing extra."""

import subprocess
import sys

import pytest

from tests.training.importing import tiny
from tests.training.importing.conftest import VOCAB
from training.importing import command


@pytest.fixture
def source(tmp_path, tokenizer):
    return tiny.save(tiny.gpt2(VOCAB), tmp_path / "source", tokenizer)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "SOURCE"),
        (["x"], "--name"),
        (["x", "--name", "No Such"], "--name 'No Such': must match"),
        (["x", "--name", "../x"], "must match"),
        (["x", "--name", "x", "--max-length", "0"], "--max-length 0: from 1 to"),
        (["x", "--name", "x", "--max-length", "many"], "invalid int"),
        (["x", "--name", "x", "--what"], "unrecognized"),
    ],
)
def test_wrong_arguments_are_status_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(arguments)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_a_source_that_is_none_is_named(run, tmp_path):
    assert run(tmp_path / "gone") == (1, f"error: {tmp_path / 'gone'}: no such file or folder\n")
    (tmp_path / "x.pt").write_bytes(b"x")
    assert "neither a folder nor a .gguf file" in run(tmp_path / "x.pt")[1]
    assert "config.json: missing" in run(tmp_path)[1]


def test_a_folder_that_exists_stays_unless_it_is_forced(source, tmp_path, capsys):
    arguments = [str(source), "--name", "small", "--out", str(tmp_path / "weights")]
    assert command.main(arguments) == 0
    assert "gpt2" in capsys.readouterr().out
    before = (tmp_path / "weights" / "small" / "config.json").read_bytes()
    assert command.main(arguments) == 1
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert (tmp_path / "weights" / "small" / "config.json").read_bytes() == before
    assert command.main([*arguments, "--force", "--max-length", "8"]) == 0
    assert (tmp_path / "weights" / "small" / "config.json").read_bytes() != before


def test_learned_positions_are_cut(source, tmp_path):
    import torch

    from models import checkpoint

    arguments = [str(source), "--out", str(tmp_path / "weights")]
    assert command.main([*arguments, "--name", "long"]) == command.main(
        [*arguments, "--name", "s", "--max-length", "8"]
    )
    long, short = (checkpoint.load(tmp_path / "weights" / name).model for name in ("long", "s"))
    tokens = torch.arange(8)[None]
    assert (long.max_length, short.max_length) == (64, 8)
    torch.testing.assert_close(short(tokens), long(tokens))


def test_the_same_source_gives_the_same_digest(source, tmp_path, capsys):
    digests = set()
    for name in ("a", "b"):
        assert command.main([str(source), "--name", name, "--out", str(tmp_path / "weights")]) == 0
        digests.add(capsys.readouterr().out.split()[-1])
    assert len(digests) == 1


def test_gguf_without_its_package_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for name in [name for name in sys.modules if name.startswith("training.importing.gguf")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("training.importing.gguf", raising=False)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert "need the package gguf, of the extra `import`" in run(tmp_path / "x.gguf")[1]


def test_the_command_is_free_of_torch_until_it_imports():
    code = "import sys; import training.importing.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
