"""Make a weights folder from someone's own state dict, so that the server can serve it.

`python -m training.export --from state_dict.pt --arch NAME --config FILE --name NAME` reads a state dict that
`torch.save` wrote (with `weights_only=True`: no code runs) or a .safetensors file, builds the architecture with the
arguments in the JSON file, checks that everything fits, and writes `weights/NAME/`. `GENSERVE_MODELS_MODULE` names a
module that adds architectures of one's own. Exit status: 0 written; 1 refused, said in one line.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from models import checkpoint
from models.architecture import build, import_extra_models, served
from models.errors import CheckpointError
from models.files import CONFIG_FILE
from models.outputs import MODEL_NAME
from models.protocols import LatentModel
from models.tensors import load_tensors
from training.errors import TrainingError
from training.plain import load_plain

NESTED_KEYS = ("state_dict", "model_state_dict", "model")
FP16_MAX = torch.finfo(torch.float16).max


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        print(export(options))
    except (TrainingError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.export",
        description="Make a weights folder from a state dict (.pt, .pth, .bin, .safetensors).",
        epilog=f"A dict that holds the state dict under one of {', '.join(NESTED_KEYS)} is taken too.",
    )
    parser.add_argument("--from", dest="source", type=Path, required=True, help="the state dict's file")
    parser.add_argument("--arch", required=True, help="architecture, a key of models.LATENT_MODELS or SEQUENCE_MODELS")
    parser.add_argument("--config", type=Path, required=True, help="JSON object: the constructor's keyword arguments")
    parser.add_argument("--name", required=True, help="of the model, and of its folder")
    parser.add_argument(
        "--weights", type=Path, default=Path("weights"), help="where the folder goes (default: weights)"
    )
    parser.add_argument("--labels", help="names of the classes in order: a,b,c or a text file with one a line")
    parser.add_argument("--prefix", default="", help="use only the keys that begin with this, and cut it off")
    parser.add_argument("--description", default="", help="one sentence for the model card")
    parser.add_argument("--license", default="not stated", help="of the weights, for the model card")
    parser.add_argument("--force", action="store_true", help="replace a folder that exists")
    return parser


def export(options: argparse.Namespace) -> str:
    """Write the weights folder; returns what to tell the user.

    Raises:
        TrainingError: the input is missing, is no state dict, or makes no usable model.
        CheckpointError: the architecture is unknown, or the state dict does not fit it.
    """
    folder = _target(options)
    if module := os.environ.get("GENSERVE_MODELS_MODULE"):
        import_extra_models(module)
    if options.arch not in served():
        known = ", ".join(sorted(served()))
        raise TrainingError(f"--arch {options.arch}: unknown (known: {known}; GENSERVE_MODELS_MODULE adds your own)")
    arguments = read_arguments(options.config)
    model = build(options.arch, arguments)
    tensors = cut_prefix(read_state_dict(options.source), options.prefix)
    check_values(tensors, options.source)
    load_tensors(model, tensors, str(options.source))
    labels = read_labels(options.labels)
    check_model(model.eval(), labels)
    card = {"description": options.description, "license": options.license, "metrics": {}}
    config = checkpoint.save(folder, model, architecture=options.arch, config=arguments, labels=labels, card=card)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"wrote {folder}: {options.arch}, {parameters:,} parameters, {config.size:,} bytes, digest {config.digest}"


def _target(options: argparse.Namespace) -> Path:
    if not MODEL_NAME.fullmatch(options.name):
        raise TrainingError(f"--name {options.name!r}: must match {MODEL_NAME.pattern}")
    folder: Path = options.weights / options.name
    if (folder / CONFIG_FILE).exists() and not options.force:
        raise TrainingError(f"{folder} exists already; --force replaces it")
    return folder


def read_arguments(path: Path) -> dict[str, Any]:
    """The constructor's keyword arguments from a JSON file.

    Raises:
        TrainingError: the file is missing or does not hold a JSON object.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise TrainingError(f"--config {path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(f"--config {path}: not readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise TrainingError(f"--config {path}: a JSON object expected, the constructor's keyword arguments")
    return found


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict from a file of torch.save or of safetensors.

    A dict whose values are not all tensors is looked into: it must hold a dict under exactly one of `NESTED_KEYS`.

    Raises:
        TrainingError: the file is missing or damaged, holds more than tensors and plain values, or no state dict.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (OSError, SafetensorError, ValueError) as error:
            raise TrainingError(f"{path}: not readable as safetensors: {error}") from error
    return _find_state_dict(load_plain(path), path)


def _find_state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(loaded, Mapping):
        raise TrainingError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    nested = [key for key in NESTED_KEYS if isinstance(loaded.get(key), Mapping)]
    if len(nested) > 1:
        raise TrainingError(f"{path}: holds dicts under {' and '.join(nested)}: save the one that is meant alone")
    found = loaded[nested[0]] if nested else loaded
    strange = [str(key) for key, value in found.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strange or not found:
        said = f"{', '.join(strange[:3])} {'are' if len(strange) > 1 else 'is'} no tensor" if strange else "it is empty"
        raise TrainingError(f"{path}: not a state dict: {said} (looked under {', '.join(NESTED_KEYS)} too)")
    return dict(found)


def cut_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it; all of them when it is empty.

    Raises:
        TrainingError: no name begins so.
    """
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not found:
        raise TrainingError(f"--prefix {prefix}: no key begins so (the first is {next(iter(tensors))})")
    return found


def check_values(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that fp16 can't hold.

    Raises:
        TrainingError: a tensor holds infinities, not-a-numbers, or values beyond fp16.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"{path}: tensor {name} holds non-finite values")
        if (largest := float(tensor.abs().max())) > FP16_MAX:
            raise TrainingError(f"{path}: tensor {name} reaches {largest:g}, more than fp16 can hold")


def read_labels(given: str | None) -> tuple[str, ...]:
    """Labels from a comma list, or from a text file with one a line.

    Raises:
        TrainingError: a label is empty or comes twice, or the file is not text.
    """
    if given is None:
        return ()
    try:
        lines = Path(given).read_text().splitlines() if Path(given).is_file() else given.split(",")
    except (OSError, ValueError) as error:
        raise TrainingError(f"--labels {given}: unreadable: {error}") from error
    labels = tuple(line.strip() for line in lines)
    if not all(labels) or len(set(labels)) < len(labels):
        raise TrainingError(f"--labels {given}: a label is empty or comes twice")
    return labels


def check_model(model: nn.Module, labels: tuple[str, ...]) -> None:
    """Try a latent model once: right shape, finite, in range; and as many labels as classes.

    Raises:
        TrainingError: the server could not serve it; the message says why.
    """
    if not isinstance(model, LatentModel):
        return  # sequence models carry no labels and have nothing that can be tried without a vocabulary
    if labels and len(labels) != model.num_classes:
        raise TrainingError(f"--labels names {len(labels)} classes, the model has {model.num_classes}")
    try:
        with torch.no_grad():
            samples = model.decode(torch.zeros(2, *model.latent_shape), torch.zeros(2, dtype=torch.int64))
    except Exception as error:  # the operator's code: anything may come
        raise TrainingError(f"decode fails on 2 latents of shape {model.latent_shape}: {error!r}") from error
    if samples.ndim != 4 or samples.shape[0] != 2 or samples.shape[1] not in (1, 3, 4):
        raise TrainingError(f"decode made {list(samples.shape)} of 2 latents; [2, 1 or 3 or 4, H, W] expected")
    if not bool(torch.isfinite(samples).all()) or float(samples.abs().max()) > 1 + 1e-3:
        raise TrainingError("decode made values outside [-1, 1] of latents of zeros")


if __name__ == "__main__":
    sys.exit(main())
