"""Weights folders on disk: `config.json` and `model.safetensors`, never pickle, never code.

Knows files and networks; knows nothing of requests or of how the weights were made. Everything that can be wrong with a
folder becomes one `CheckpointError` that names the file and the cause.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import math
import os
import stat
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

import models
from models import controls, outputs
from models.critic import Critic, CriticFile

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
NAME_PATTERN = outputs.MODEL_NAME
TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"
CRITIC_FILE = "critic.safetensors"
MAX_TEMPLATE_BYTES = 1 << 20
MAX_CONFIG_BYTES = 1 << 20
FEW_PARAMETERS = 1 << 20  # are built whatever the file holds, to say what does not fit
MAX_CARD_DEPTH = 32
MAX_DIMENSIONS = 64  # torch's
MAX_SAID = 500  # characters of a file's own words in a message
MAX_HEADER_BYTES = 16 << 20  # a header names tensors; 16 MiB is room for 100,000 of them

Kind = Literal["latent", "sequence"]


class CheckpointError(Exception):
    """A weights folder can't be used; the message names the file and the cause."""


@dataclass(frozen=True)
class TokenizerFile:
    """The tokenizer beside a sequence model's weights: a `tokenizer.json` of the `tokenizers` library.

    Attributes:
        sha256: of the file.
        size: of the file, bytes.
        eos_token_id: the token that ends a text; None when there is none.
        stop_token_ids: further tokens that end a text.
        start_token_ids: what a prompt that is given as text begins with.
    """

    sha256: str
    size: int
    eos_token_id: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    start_token_ids: tuple[int, ...] = ()

    @property
    def vouched(self) -> list[object]:
        """What a digest covers; lists of ids only when there are any."""
        lists = [list(ids) for ids in (self.stop_token_ids, self.start_token_ids)]
        return [self.sha256, self.eos_token_id, *(lists if any(lists) else [])]


@dataclass(frozen=True)
class TemplateFile:
    """The chat template beside a sequence model's weights: text in the jinja language.

    Attributes:
        sha256: of the file.
        size: of the file, bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True)
class ModelConfig:
    """What `config.json` holds: enough to rebuild the network and to describe it to users.

    Attributes:
        architecture: key of `models.LATENT_MODELS` or `models.SEQUENCE_MODELS`.
        config: keyword arguments of the network's constructor.
        sha256: of `model.safetensors`.
        size: of `model.safetensors`, bytes.
        labels: names of the classes in order; empty when there are none.
        card: description, licence, training data and metrics, shown by `GET /v1/models`.
        tokenizer: the tokenizer of a sequence model; None for other models.
        chat_template: how a conversation becomes a prompt; None for a model that does not chat.
        output: what the tokens of a sequence model stand for, as `models.outputs` checks it; empty for text.
        controls: names for single numbers of a latent, as `models.controls` checks them.
        critic: the discriminator that a sampler follows; None for a model without one. Pictures of seeds do not depend
            on it, so the digest does not either.
    """

    architecture: str
    config: Mapping[str, Any]
    sha256: str
    size: int
    labels: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: TokenizerFile | None = None
    chat_template: TemplateFile | None = None
    output: Mapping[str, Any] = field(default_factory=dict)
    controls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    critic: CriticFile | None = None

    @property
    def kind(self) -> Kind:
        """Which of the two protocols the architecture follows."""
        return "latent" if self.architecture in models.LATENT_MODELS else "sequence"

    @property
    def digest(self) -> str:
        """Sha256 over all that decides the output: architecture, its arguments, its weights, tokenizer and template."""
        parts: list[object] = [self.architecture, dict(self.config), self.sha256]
        if self.tokenizer is not None:
            parts.append(self.tokenizer.vouched)
        if self.chat_template is not None:
            parts.append({"chat_template": self.chat_template.sha256})
        if self.output:
            parts.append({"output": dict(self.output)})
        if self.controls:
            parts.append({"controls": controls.vouched(self.controls)})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A verified network in evaluation mode with its configuration."""

    name: str
    config: ModelConfig
    model: nn.Module

    @property
    def parameters(self) -> int:
        """Number of parameters, shared ones counted once."""
        return sum(p.numel() for p in self.model.parameters())


def import_extra_models(module: str) -> None:
    """Import the operator's module, which adds its classes to the two dicts of `models`.

    The current folder is searched last, so that a module beside the weights is found without installing it.

    Raises:
        CheckpointError: the module can't be imported.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        importlib.import_module(module)
    except Exception as error:  # the operator's code: anything may come
        raise CheckpointError(f"GENSERVE_MODELS_MODULE={module} can't be imported: {error!r}") from error


Networks = Mapping[str, type[nn.Module]]


def served() -> Networks:
    """The architectures that can be served, the operator's own included."""
    return {**models.LATENT_MODELS, **models.SEQUENCE_MODELS}


def read_config(folder: Path, networks: Networks | None = None) -> ModelConfig:
    """Read and check `config.json` without touching the weights.

    Args:
        folder: the weights folder.
        networks: the known architectures; those that can be served when not given.

    Raises:
        CheckpointError: the file is missing, is not JSON of our format, or names an unknown architecture.
    """
    path = folder / CONFIG_FILE
    try:
        with _open(path) as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
        raw = json.loads(data, parse_constant=_refuse_constant)
        json.dumps(raw, ensure_ascii=False).encode()  # no lone surrogates, which no answer could carry
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}") from error
    return _parse_config(path, raw, served() if networks is None else networks)


def _open(path: Path) -> BufferedReader:
    """Open a regular file: another kind, such as a pipe, may never give what it is asked for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError("not a regular file")
    return os.fdopen(fd, "rb")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_plain(value: object, depth: int = 0) -> bool:
    """Whether a card can be sent on: numbers of at most 64 bits, and no deeper than anybody writes by hand."""
    if isinstance(value, dict | list):
        entries = value.values() if isinstance(value, dict) else value
        return depth < MAX_CARD_DEPTH and all(_is_plain(entry, depth + 1) for entry in entries)
    return not isinstance(value, int) or abs(value) < 1 << 63


def _short(text: str) -> str:
    """What a file says, fit for one line of a log."""
    said = text if text.isprintable() else repr(text)
    return said if len(said) <= MAX_SAID else f"{said[:MAX_SAID]}..."


def _parse_config(path: Path, raw: object, known: Networks) -> ModelConfig:
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise CheckpointError(f'{path}: not a Genserve configuration ("format": {FORMAT} expected)')
    try:
        weights, labels, card = raw["weights"], raw.get("labels", []), raw.get("card", {})
        tokenizer = _parse_tokenizer(raw["tokenizer"]) if raw.get("tokenizer") is not None else None
        template = TemplateFile(**raw["chat_template"]) if raw.get("chat_template") is not None else None
        known_fields = raw["architecture"], raw["config"], weights["sha256"], weights["size"]
        output = outputs.checked(raw["output"]) if raw.get("output") is not None else {}
        named = controls.checked(raw["controls"]) if raw.get("controls") is not None else {}
        critic = CriticFile(**raw["critic"]) if raw.get("critic") is not None else None
        config = ModelConfig(*known_fields, tuple(labels), card, tokenizer, template, output, named, critic)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: missing or malformed field {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    expected = {"architecture": str, "config": dict, "sha256": str, "size": int, "card": dict}
    wrong = [name for name, kind in expected.items() if not isinstance(getattr(config, name), kind)]
    if not all(isinstance(label, str) for label in config.labels):
        wrong.append("labels")
    if tokenizer is not None and not _well_typed(tokenizer):
        wrong.append("tokenizer")
    if template is not None and not (isinstance(template.sha256, str) and isinstance(template.size, int)):
        wrong.append("chat_template")
    if not _is_plain(config.card):
        wrong.append("card")
    if critic is not None:
        wrong += [f"critic.{name}" for name in critic.faults]
        wrong += [] if _is_plain(critic.card) else ["critic.card"]
    if wrong:
        raise CheckpointError(f"{path}: wrong type for {', '.join(wrong)}")
    if config.architecture not in known:
        names = ", ".join(sorted(known))
        raise CheckpointError(f"{path}: unknown architecture {_short(repr(config.architecture))} (known: {names})")
    if config.output and config.kind == "latent":
        raise CheckpointError(f"{path}: output: belongs to sequence models; {config.architecture} makes pictures")
    if config.controls and config.kind != "latent":
        raise CheckpointError(f"{path}: controls: belong to latent models, which {config.architecture} is not")
    if config.critic is not None and config.kind != "latent":
        raise CheckpointError(f"{path}: critic: belongs to latent models, which {config.architecture} is not")
    return config


def _parse_tokenizer(raw: Mapping[str, Any]) -> TokenizerFile:
    lists = {name: tuple(raw[name]) for name in ("stop_token_ids", "start_token_ids") if name in raw}
    return TokenizerFile(**{**raw, **lists})


def _well_typed(tokenizer: TokenizerFile) -> bool:
    eos = tokenizer.eos_token_id
    sound = isinstance(tokenizer.sha256, str) and isinstance(tokenizer.size, int)
    ids = [*tokenizer.stop_token_ids, *tokenizer.start_token_ids, *([] if eos is None else [eos])]
    return sound and all(isinstance(token, int) and token >= 0 for token in ids)


def build(architecture: str, config: Mapping[str, Any], networks: Networks | None = None) -> nn.Module:
    """Construct a network by architecture name, with fresh random weights.

    Raises:
        CheckpointError: the architecture is unknown or refuses its arguments.
    """
    network = (served() if networks is None else networks).get(architecture)
    if network is None:
        raise CheckpointError(f"unknown architecture {_short(repr(architecture))}")
    try:
        return network(**config)
    except Exception as error:  # constructors, the operator's among them, refuse bad arguments in their own ways
        said = f"{_short(str(dict(config)))}: {_short(str(error))}"
        raise CheckpointError(f"{architecture} refuses its config {said}") from error


def load(folder: Path, networks: Networks | None = None, *, as_stored: bool = False) -> Checkpoint:
    """Load, verify and return a network on the CPU, in evaluation mode.

    Args:
        folder: the weights folder.
        networks: the known architectures; those that can be served when not given.
        as_stored: parameters are the file's own tensors, mapped and in the file's precision, instead of copies in
            float32; what the constructor computed stays in float32.

    Raises:
        CheckpointError: anything about the folder is missing, truncated, tampered with, non-finite or does not fit.
    """
    if not NAME_PATTERN.fullmatch(folder.name):
        raise CheckpointError(f"{folder}: the folder's name must match {NAME_PATTERN.pattern}")
    config = read_config(folder, networks)
    path = folder / WEIGHTS_FILE
    _verify_file(path, config.size, config.sha256)
    if config.tokenizer is not None:
        _verify_file(folder / TOKENIZER_FILE, config.tokenizer.size, config.tokenizer.sha256)
    if config.chat_template is not None:
        _verify_template(folder / TEMPLATE_FILE, config.chat_template)
    return Checkpoint(folder.name, config, _read_network(path, config, networks, as_stored=as_stored))


def load_critic(folder: Path, config: ModelConfig) -> Critic | None:
    """Load and verify the critic beside a model's weights, on the CPU, in evaluation mode; None when there is none.

    Raises:
        CheckpointError: anything about it is missing, truncated, tampered with, non-finite or does not fit.
    """
    critic = config.critic
    if critic is None:
        return None
    path = folder / CRITIC_FILE
    _verify_file(path, critic.size, critic.sha256)
    return Critic(_read_network(path, critic, models.CRITICS), critic.scale, critic.step_size)


def _read_network(
    path: Path, described: ModelConfig | CriticFile, networks: Networks | None, *, as_stored: bool = False
) -> nn.Module:
    """The network that is described, filled from a verified file: in evaluation mode, frozen, no larger than that."""
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {_short(str(error))}") from error
    _check_finite(path, tensors)
    try:
        count = max(2 * described.size, FEW_PARAMETERS)  # an element takes a byte at least; some are shared
        with _at_most(count), _Uninitialised():
            model = build(described.architecture, described.config, networks)
    except CheckpointError as error:
        raise CheckpointError(f"{path.with_name(CONFIG_FILE)}: {error}") from error
    load_tensors(model, tensors, str(path), as_stored=as_stored)
    return model.eval().requires_grad_(False)


class _Uninitialised(TorchFunctionMode):
    """Parameters stay as they were allocated: random numbers for what is overwritten cost more than all the rest."""

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hand the parameter back instead of filling it."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


@contextlib.contextmanager
def _at_most(count: int) -> Iterator[None]:
    """No network with more parameters is built: a few bytes of configuration can ask for any number."""
    left = count

    def register(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= 0 if parameter is None else parameter.numel()
        if left < 0:
            raise ValueError("it asks for more parameters than the weights file can hold")

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


def _verify_template(path: Path, template: TemplateFile) -> None:
    if template.size > MAX_TEMPLATE_BYTES:
        raise CheckpointError(f"{path}: {template.size} bytes, more than {MAX_TEMPLATE_BYTES}")
    _verify_file(path, template.size, template.sha256)
    try:
        path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}") from error


def _verify_file(path: Path, size: int, sha256: str) -> None:
    """Check size and sha256, and the header length of a safetensors file, before any parser sees the file."""
    try:
        with _open(path) as file:
            there = os.fstat(file.fileno()).st_size
            if there != size:
                wrong = f"{there} bytes where {CONFIG_FILE} says {size}: truncated or replaced"
                raise CheckpointError(f"{path}: {wrong}")
            prefix = file.read(8)
            tensors = path.name in (WEIGHTS_FILE, CRITIC_FILE)
            if tensors and (len(prefix) < 8 or _header_size(prefix) > min(size - 8, MAX_HEADER_BYTES)):
                raise CheckpointError(f"{path}: the safetensors header does not fit in the file or is over its limit")
            if tensors:
                _check_header(path, file.read(_header_size(prefix)))
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: unreadable: {error}") from error
    if found != sha256:
        wrong = f"sha256 {found[:16]}... where {CONFIG_FILE} says {sha256[:16]}...: tampered with"
        raise CheckpointError(f"{path}: {wrong}")


def _check_header(path: Path, header: bytes) -> None:
    """What the library lets pass: a tensor that is named twice, and more dimensions than torch knows."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name comes twice in its header")
        return found

    try:
        tensors = json.loads(header, object_pairs_hook=once)
        shapes = [entry["shape"] for name, entry in tensors.items() if name != "__metadata__"]
        if any(len(shape) > MAX_DIMENSIONS for shape in shapes):
            raise ValueError(f"a tensor has more than {MAX_DIMENSIONS} dimensions")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {_short(str(error))}") from error


def _header_size(prefix: bytes) -> int:
    size: int = struct.unpack("<Q", prefix)[0]
    return size


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Finite where it is used, in float32: 1e300 in a float64 file is not."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not _extremes_finite(tensor):
            raise CheckpointError(f"{path}: tensor {_short(name)} holds non-finite values")


def _extremes_finite(tensor: Tensor) -> bool:
    """NaN is both the least and the greatest of whatever it is among; no copy in float32 is made of many numbers."""
    wide = tensor if tensor.element_size() > 1 else tensor.float()  # floats of 8 bits know no order
    return bool(torch.isfinite(torch.stack(wide.aminmax()).float()).all())


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, as_stored: bool = False) -> None:
    """Copy tensors into a network, or hand them over as they are; names, shapes and kinds of number must match.

    Raises:
        CheckpointError: names are missing or unexpected, or a shape or kind of number differs; the message shows up to
            three of them.
    """
    own = model.state_dict()
    faults = [f"{name} is missing" for name in sorted(own.keys() - tensors.keys())]
    faults += [f"{_short(name)} is unexpected" for name in sorted(tensors.keys() - own.keys())]
    faults += [
        f"{name} is {list(tensors[name].shape)}, {list(own[name].shape)} expected"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    faults += [
        f"{name} is {tensors[name].dtype}, {own[name].dtype} expected"
        for name in sorted(own.keys() & tensors.keys())
        if (own[name].is_floating_point(), own[name].is_complex())
        != (tensors[name].is_floating_point(), tensors[name].is_complex())
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(f"{source}: does not fit the architecture: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(dict(tensors), assign=as_stored)


def save(
    folder: Path,
    model: nn.Module,
    *,
    architecture: str,
    config: Mapping[str, Any],
    labels: tuple[str, ...] = (),
    card: Mapping[str, Any] | None = None,
    tokenizer: bytes | None = None,
    eos_token_id: int | None = None,
    output: Mapping[str, Any] | None = None,
    named: Mapping[str, Mapping[str, Any]] | None = None,
) -> ModelConfig:
    """Write `model.safetensors` (floats in fp16), `tokenizer.json` and `config.json`, each atomically.

    Returns what was written; `tokenizer` is the content of a sequence model's `tokenizer.json`, `output` says what its
    tokens stand for; `named` are the controls of a latent model.

    Raises:
        CheckpointError: a weight is non-finite or too large for fp16.
        ValueError: `output` or a control is none that a service can read.
    """
    meant = {} if output is None else outputs.checked(dict(output))
    controlled = {} if named is None else controls.checked(dict(named))
    path = folder / WEIGHTS_FILE
    data = _halves(path, model)
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    beside = None if tokenizer is None else write_tokenizer(folder, tokenizer, eos_token_id)
    fields = architecture, dict(config), digest, len(data), labels, dict(card or {}), beside
    written = ModelConfig(*fields, output=meant, controls=controlled)
    write_atomically(path, data)
    write_config(folder, written)
    return written


def _halves(path: Path, model: nn.Module) -> bytes:
    """A network as a safetensors file, floats in fp16.

    Raises:
        CheckpointError: a weight is non-finite or too large for that.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    tensors = {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in tensors.items()}
    _check_finite(path, tensors)
    return safetensors.torch.save(tensors)


def write_critic(
    folder: Path,
    network: nn.Module,
    *,
    architecture: str,
    config: Mapping[str, Any],
    scale: float,
    step_size: float,
    card: Mapping[str, Any],
) -> ModelConfig:
    """Put a critic beside a latent model's weights: `critic.safetensors`, then `config.json`, each atomically.

    The arguments are those of `CriticFile`; returns the folder's new configuration.

    Raises:
        CheckpointError: the folder can't be read, a weight does not fit into fp16, or a number is out of range.
    """
    written, path = read_config(folder), folder / CRITIC_FILE
    data = _halves(path, network)
    fields = architecture, dict(config), hashlib.sha256(data).hexdigest(), len(data), scale, step_size, dict(card)
    critic = CriticFile(*fields)
    if critic.faults:
        raise CheckpointError(f"{path}: {', '.join(critic.faults)} out of range")
    write_atomically(path, data)
    with_critic = dataclasses.replace(written, critic=critic)
    write_config(folder, with_critic)
    return with_critic


def write_tokenizer(
    folder: Path,
    content: bytes,
    eos_token_id: int | None = None,
    stop_token_ids: tuple[int, ...] = (),
    start_token_ids: tuple[int, ...] = (),
) -> TokenizerFile:
    """Write `tokenizer.json` atomically; what `config.json` has to say of it."""
    write_atomically(folder / TOKENIZER_FILE, content)
    sha256 = hashlib.sha256(content).hexdigest()
    return TokenizerFile(sha256, len(content), eos_token_id, stop_token_ids, start_token_ids)


def write_template(folder: Path, text: str) -> TemplateFile:
    """Write `chat_template.jinja` atomically; what `config.json` has to say of it."""
    content = text.encode()
    write_atomically(folder / TEMPLATE_FILE, content)
    return TemplateFile(hashlib.sha256(content).hexdigest(), len(content))


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write `config.json` atomically."""
    raw = {
        "format": FORMAT,
        "architecture": config.architecture,
        "config": dict(config.config),
        "weights": {"sha256": config.sha256, "size": config.size},
        "labels": list(config.labels),
        "card": dict(config.card),
    }
    if config.tokenizer is not None:
        fields = dataclasses.asdict(config.tokenizer)
        raw["tokenizer"] = {name: value for name, value in fields.items() if value != ()}
    if config.chat_template is not None:
        raw["chat_template"] = dataclasses.asdict(config.chat_template)
    if config.output:
        raw["output"] = dict(config.output)
    if config.controls:
        raw["controls"] = {name: dict(control) for name, control in config.controls.items()}
    if config.critic is not None:
        raw["critic"] = dataclasses.asdict(config.critic)
    write_atomically(folder / CONFIG_FILE, json.dumps(raw, indent=2, ensure_ascii=False).encode() + b"\n")


def with_card(config: ModelConfig, card: Mapping[str, Any]) -> ModelConfig:
    """The same configuration with another card."""
    return dataclasses.replace(config, card=dict(card))


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def tensor_bytes(model: nn.Module) -> int:
    """Bytes that the network's parameters and buffers take in their present dtype."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(math.prod(t.shape) * t.element_size() for t in tensors)
