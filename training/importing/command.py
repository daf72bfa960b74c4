"""Make a weights folder of somebody else's language model: `genserve import SOURCE --name NAME`.

SOURCE is a folder of Hugging Face's with safetensors, or a GGUF file. Nothing of it is run, and pickle is never opened.
Exit status: 0 written; 1 the source can't be imported, said in one line; 2 wrong arguments.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.errors import TrainingError

HELP = "make a weights folder of a language model: a Hugging Face folder or a GGUF file"
MAX_LENGTH = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.max_length is not None and not 1 <= options.max_length <= MAX_LENGTH:
        parser.error(f"--max-length {options.max_length}: from 1 to {MAX_LENGTH:,}")
    try:
        from models.errors import CheckpointError  # and with it torch
        from models.outputs import MODEL_NAME

        if not MODEL_NAME.fullmatch(options.name):
            parser.error(f"--name {options.name!r}: must match {MODEL_NAME.pattern}")
        print(_import(options))
    except (TrainingError, CheckpointError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="genserve import", description=f"{HELP.capitalize()}.")
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="folder with config.json, safetensors and tokenizer.json; or .gguf")
    add("--name", required=True, help="of the model, and of its folder")
    add("--out", type=Path, default=Path("weights"), metavar="FOLDER", help="where that goes (default: %(default)s)")
    add("--max-length", type=int, metavar="N", help="positions in a text, prompt included (default: the model's own)")
    add("--license", help="of the weights, for the model card (default: what the source says)")
    add("--description", help="one sentence for the model card")
    add("--force", action="store_true", help="replace a folder that exists")
    return parser


def _import(options: argparse.Namespace) -> str:
    """Import; returns what to tell the user."""
    from training.importing.folder import write

    return write(_read(options.source), options.out / options.name, options)


def _read(source: Path) -> Any:
    """The source, whatever kind it is."""
    from training.importing import hugging_face

    if source.is_dir():
        return hugging_face.read(source)
    if not source.is_file():
        raise TrainingError(f"{source}: no such file or folder")
    if source.suffix != ".gguf":
        raise TrainingError(f"{source}: neither a folder nor a .gguf file (pickle is never opened)")
    try:
        from training.importing import gguf
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise TrainingError("GGUF files need the package gguf, of the extra `import`") from error
    return gguf.read(source)


if __name__ == "__main__":
    sys.exit(main())
