"""llama.cpp's server for this machine, and its weights: built from the source that `llama-cpp-python` carries.

    python -m benchmarks.peers.llama_cpp build build/bench/llama.cpp
    python -m benchmarks.peers.llama_cpp convert build/bench/llama.cpp GGUF

Needs a C++ compiler, cmake and ninja. All weights come from one file: from its numbers in fp32 each precision is made.
"""

import argparse
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

SOURCE = "llama-cpp-python==0.3.36"
TARGETS = ("llama-server", "llama-quantize")
PRECISIONS = ("BF16", "Q8_0", "Q4_0", "Q4_1")
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",  # all that this CPU knows, bf16 products among it
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",  # it would be fetched
    "LLAMA_OPENSSL": "OFF",
}


class BuildError(Exception):
    """Something that the build needs is not there."""


def program(folder: Path, name: str) -> Path:
    """Where the build leaves a program."""
    return folder / "bin" / name


def weights(folder: Path, precision: str) -> Path:
    """Where `convert` leaves the weights of a precision."""
    return folder / "weights" / f"{precision.lower()}.gguf"


def build(folder: Path, jobs: int) -> None:
    """Fetch the source, compile the server and the quantiser.

    Raises:
        BuildError: the package does not hold what it should.
        CalledProcessError: a step failed; it has said why.
    """
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    package, _, _ = SOURCE.partition("==")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", package]
    subprocess.run([*pip, "--dest", source, SOURCE], check=True)
    (archive,) = source.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(source, filter="data")
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    subprocess.run(["cmake", "-G", "Ninja", "-S", _vendored(source), "-B", folder, *options], check=True)
    subprocess.run(["cmake", "--build", folder, "-j", str(jobs), "--target", *TARGETS], check=True)


def _vendored(source: Path) -> Path:
    found = list(source.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if len(found) != 1:
        raise BuildError(f"{source} holds {len(found)} sources of llama.cpp, not one")
    return found[0]


def convert(folder: Path, gguf: Path) -> None:
    """The file's numbers in fp32, and of them each precision.

    Raises:
        BuildError: the quantiser is not built.
        CalledProcessError: it failed; it has said why.
    """
    quantise = program(folder, "llama-quantize")
    if not quantise.exists():
        raise BuildError(f"{quantise} is not there: build first")
    plain = weights(folder, "F32")
    plain.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([quantise, "--allow-requantize", gguf, plain, "F32"], check=True)
    for precision in PRECISIONS:
        subprocess.run([quantise, plain, weights(folder, precision), precision], check=True)
    plain.unlink()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    builds = commands.add_parser("build", help="fetch and compile")
    builds.add_argument("folder", type=Path)
    builds.add_argument("--jobs", type=int, default=2, help="compilers at once")
    converts = commands.add_parser("convert", help="make the weights of each precision")
    converts.add_argument("folder", type=Path)
    converts.add_argument("gguf", type=Path)
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    if options.command == "build":
        build(options.folder, options.jobs)
    else:
        convert(options.folder, options.gguf)


if __name__ == "__main__":
    main()
