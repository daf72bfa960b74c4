"""Folders as `save_pretrained` of Hugging Face's transformers writes them, read without running anything of theirs.

Knows config.json, safetensors in one file or in shards, tokenizer.json and the small files beside it. Pickle is never
opened.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from training.errors import TrainingError
from training.importing.source import Source, Text

MAX_JSON = 16 << 20
MAX_TOKENIZER = 128 << 20
MAX_TEMPLATE = 1 << 20
MAX_FILES = 1024
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DTYPES = {"F64", "F32", "F16", "BF16"}


def read(folder: Path) -> Source:
    """What a folder holds.

    Raises:
        TrainingError: something is missing, damaged or too large.
    """
    config = read_object(folder / "config.json")
    tensors = Shards(folder)
    text = _text(folder, config)
    files = {path.name: _sha256(path) for path in tensors.files}
    return Source(config, tensors, text, {"source": {"name": folder.resolve().name, "sha256": files}})


def read_object(path: Path, missing: bool = False) -> dict[str, Any]:
    """A JSON object; an empty one for a file that may be missing and is.

    Raises:
        TrainingError: the file is missing, too large or no JSON object.
    """
    if missing and not path.exists():
        return {}
    try:
        found = json.loads(_bounded(path, MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise TrainingError(f"{path}: a JSON object expected")
    return found


def _bounded(path: Path, limit: int) -> bytes:
    """The content of a file that is not larger than anybody needs."""
    if not path.is_file():
        raise TrainingError(f"{path}: missing")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise TrainingError(f"{path}: larger than {limit} bytes")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shards:
    """The tensors of a folder, in one file of safetensors or in several.

    Attributes:
        files: that hold them.
    """

    def __init__(self, folder: Path) -> None:
        """Open the files; tensors are read when asked for.

        Raises:
            TrainingError: a file is missing or damaged, or the folder holds pickle alone.
        """
        self.files = [folder / name for name in _shards(folder)]
        self._where: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            self._list(path)

    def _list(self, path: Path) -> None:
        if not path.is_file():
            raise TrainingError(f"{path}: missing")
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118  # it is no dict
                if name in self._where:
                    raise TrainingError(f"{path}: {name[:200]} is in {self._where[name].name} too")
                part = file.get_slice(name)
                self._where[name], self._shapes[name] = path, tuple(part.get_shape())

    def names(self) -> Iterable[str]:
        """Of all tensors."""
        return self._where

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        return self._shapes[name]

    def read(self, name: str) -> Tensor:
        """One tensor; float64 becomes float32.

        Raises:
            TrainingError: its numbers are no floats.
        """
        path = self._where[name]
        with _opened(path) as file:
            kind = file.get_slice(name).get_dtype()
            if kind not in DTYPES:
                raise TrainingError(f"{path}: {name} holds {kind}, {' or '.join(sorted(DTYPES))} expected")
            tensor: Tensor = file.get_tensor(name)
        return tensor if tensor.dtype in FLOATS else tensor.float()


def _opened(path: Path) -> Any:
    """A file of safetensors; its reader checks the header against the file's size."""
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError, ValueError) as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise TrainingError(f"{path}: not readable as safetensors: {said}") from error


def _shards(folder: Path) -> list[str]:
    """Names of the files with weights."""
    if (folder / WEIGHTS).exists():
        return [WEIGHTS]
    if not (folder / INDEX).exists():
        pickles = [name for name in PICKLES if (folder / name).exists()]
        hint = f" ({pickles[0]} is pickle, which can hold code and is never opened)" if pickles else ""
        raise TrainingError(f"{folder}: neither {WEIGHTS} nor {INDEX} there{hint}")
    weights = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(map(_is_name, weights.values())):
        raise TrainingError(f"{folder / INDEX}: weight_map is not an object of names of files beside it")
    names = sorted(set(weights.values()))
    if len(names) > MAX_FILES:
        raise TrainingError(f"{folder / INDEX}: {len(names)} files, more than {MAX_FILES}")
    return names


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _text(folder: Path, config: Mapping[str, Any]) -> Text:
    content = _bounded(folder / "tokenizer.json", MAX_TOKENIZER)
    tokenizer = parse_tokenizer(content, str(folder / "tokenizer.json"))
    said = read_object(folder / "tokenizer_config.json", missing=True)
    generation = read_object(folder / "generation_config.json", missing=True)
    stops = _stops(folder, tokenizer, [generation, config], said)
    starts = _starts(tokenizer, said)
    return Text(content, stops[0] if stops else None, tuple(stops[1:]), starts, _template(folder, said))


def parse_tokenizer(content: bytes, source: str) -> Tokenizer:
    """A tokenizer.json, parsed.

    Raises:
        TrainingError: the library can't read it.
    """
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises no narrower class
        raise TrainingError(f"{source}: not readable as a tokenizer: {str(error)[:200]}") from error


def _stops(folder: Path, tokenizer: Tokenizer, configs: list[Mapping[str, Any]], said: Mapping[str, Any]) -> list[int]:
    """What ends a text, the tokenizer's own end first: a number or a list in two files, a text in a third."""
    own = tokenizer.token_to_id(token) if (token := token_text(said.get("eos_token"))) is not None else None
    found = [] if own is None else [own]
    for config in configs:
        value = config.get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
            raise TrainingError(f"{folder}: eos_token_id {str(value)[:100]} is neither a token nor a list of tokens")
        found += ids
    return list(dict.fromkeys(found))


def token_text(token: object) -> str | None:
    """The text of a token that is given as text or as an object; None for anything else."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _starts(tokenizer: Tokenizer, said: Mapping[str, Any]) -> tuple[int, ...]:
    """What the tokenizer puts before a text. `add_bos_token` has the last word, as in transformers.

    Raises:
        TrainingError: the tokenizer puts something behind a text.
    """
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    before = len(whole) - len(plain)
    if whole[before:] != plain or said.get("add_eos_token"):
        raise TrainingError("the tokenizer puts tokens behind a text (add_eos_token): not supported")
    bos = token_text(said.get("bos_token"))
    if said.get("add_bos_token") is False or (said.get("add_bos_token") and bos is None):
        return ()
    if said.get("add_bos_token") and bos is not None and not before:
        start = tokenizer.token_to_id(bos)
        return () if start is None else (start,)
    return tuple(whole[:before])


def _template(folder: Path, said: Mapping[str, Any]) -> str | None:
    """The chat template from its own file, else from tokenizer_config.json; of several named ones the default."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return _bounded(path, MAX_TEMPLATE).decode()
        except UnicodeDecodeError as error:
            raise TrainingError(f"{path}: not UTF-8: {error}") from error
    found = said.get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return check_template(found, str(folder / "tokenizer_config.json"))


def check_template(found: object, source: str) -> str | None:
    """A chat template, or None where there is none.

    Raises:
        TrainingError: it is no text, or larger than anybody needs.
    """
    if found is None:
        return None
    if not isinstance(found, str) or len(found.encode(errors="replace")) > MAX_TEMPLATE:
        raise TrainingError(f"{source}: the chat template is no text of at most {MAX_TEMPLATE} bytes")
    return found
