import io
import subprocess
import tarfile

import pytest

from benchmarks.peers import llama_cpp

# Stands for the quantiser: takes what the real one takes, and writes down how it was called.
QUANTISER = """#!/bin/sh
for target; do :; done
case "$1" in --allow-requantize) shift; ;; esac
echo "$1 -> $3" > "$2"
"""


@pytest.fixture
def built(tmp_path):
    program = llama_cpp.program(tmp_path, "llama-quantize")
    program.parent.mkdir()
    program.write_text(QUANTISER)
    program.chmod(0o755)
    return tmp_path


def test_every_precision_is_made_of_the_same_numbers(built):
    llama_cpp.convert(built, built / "model.gguf")
    plain = llama_cpp.weights(built, "F32")
    for precision in llama_cpp.PRECISIONS:
        assert llama_cpp.weights(built, precision).read_text() == f"{plain} -> {precision}\n"
    assert not plain.exists()


def test_nothing_is_converted_without_a_quantiser(tmp_path):
    with pytest.raises(llama_cpp.BuildError, match="llama-quantize is not there: build first"):
        llama_cpp.convert(tmp_path, tmp_path / "model.gguf")


@pytest.fixture
def commands(monkeypatch):
    """What would have been run; pip leaves a package with, or without, the source."""
    ran = []

    def run(command, check):
        assert check
        ran.append([str(part) for part in command])
        if "pip" in command:
            _pack(command[command.index("--dest") + 1], run.member)

    monkeypatch.setattr(subprocess, "run", run)
    return ran, run


def _pack(folder, member):
    with tarfile.open(folder / "llama_cpp_python-0.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(f"llama_cpp_python-0/{member}"), io.BytesIO())


def test_the_source_is_unpacked_and_compiled(tmp_path, commands):
    ran, run = commands
    run.member = "vendor/llama.cpp/CMakeLists.txt"
    llama_cpp.build(tmp_path, jobs=2)
    _, configure, compile_ = ran
    assert str(tmp_path / "source/llama_cpp_python-0/vendor/llama.cpp") in configure
    assert "-DGGML_NATIVE=ON" in configure
    assert compile_[-2:] == ["llama-server", "llama-quantize"]


def test_a_package_without_the_source_is_told_of(tmp_path, commands):
    commands[1].member = "README.md"
    with pytest.raises(llama_cpp.BuildError, match="holds 0 sources"):
        llama_cpp.build(tmp_path, jobs=2)
