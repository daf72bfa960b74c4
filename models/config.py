"""`config.json` of a weights folder: enough to rebuild the network and to describe it to users; read, checked, written.

Knows what may stand in the file; never touches the weights.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import models
from models import controls, outputs
from models.architecture import Networks, served
from models.critic import CriticFile
from models.errors import CheckpointError, short
from models.files import CONFIG_FILE, open_regular, write_atomically

FORMAT = 1
MAX_CONFIG_BYTES = 1 << 20
MAX_CARD_DEPTH = 32

Kind = Literal["latent", "sequence"]
Entry = TypeVar("Entry")


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

    @property
    def sound(self) -> bool:
        """Whether the fields are what they should be."""
        eos = [] if self.eos_token_id is None else [self.eos_token_id]
        ids = [*self.stop_token_ids, *self.start_token_ids, *eos]
        described = isinstance(self.sha256, str) and isinstance(self.size, int)
        return described and all(isinstance(token, int) and token >= 0 for token in ids)


@dataclass(frozen=True)
class TemplateFile:
    """The chat template beside a sequence model's weights: text in the jinja language.

    Attributes:
        sha256: of the file.
        size: of the file, bytes.
    """

    sha256: str
    size: int

    @property
    def sound(self) -> bool:
        """Whether the fields are what they should be."""
        return isinstance(self.sha256, str) and isinstance(self.size, int)


@dataclass(frozen=True)
class ModelConfig:
    """What `config.json` holds.

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

    @property
    def faults(self) -> list[str]:
        """The fields that are not what they should be."""
        kinds = {"architecture": str, "config": dict, "sha256": str, "size": int, "card": dict}
        wrong = [name for name, kind in kinds.items() if not isinstance(getattr(self, name), kind)]
        sound = {
            "labels": all(isinstance(label, str) for label in self.labels),
            "tokenizer": self.tokenizer is None or self.tokenizer.sound,
            "chat_template": self.chat_template is None or self.chat_template.sound,
            "card": _is_plain(self.card),
        }
        wrong += [name for name, is_sound in sound.items() if not is_sound]
        if self.critic is not None:
            wrong += [f"critic.{name}" for name in self.critic.faults]
            wrong += [] if _is_plain(self.critic.card) else ["critic.card"]
        return wrong


def _is_plain(value: object, depth: int = 0) -> bool:
    """Whether a card can be sent on: numbers of at most 64 bits, and no deeper than anybody writes by hand."""
    if isinstance(value, dict | list):
        entries = value.values() if isinstance(value, dict) else value
        return depth < MAX_CARD_DEPTH and all(_is_plain(entry, depth + 1) for entry in entries)
    return not isinstance(value, int) or abs(value) < 1 << 63


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
        with open_regular(path) as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
        raw = json.loads(data, parse_constant=_refuse_constant)
        json.dumps(raw, ensure_ascii=False).encode()  # no lone surrogates, which no answer could carry
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}") from error
    return _checked(path, raw, served() if networks is None else networks)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _checked(path: Path, raw: object, known: Networks) -> ModelConfig:
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise CheckpointError(f'{path}: not a Genserve configuration ("format": {FORMAT} expected)')
    try:
        config = _parse(raw)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: missing or malformed field {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if wrong := config.faults:
        raise CheckpointError(f"{path}: wrong type for {', '.join(wrong)}")
    if config.architecture not in known:
        names = ", ".join(sorted(known))
        raise CheckpointError(f"{path}: unknown architecture {short(repr(config.architecture))} (known: {names})")
    _check_kind(path, config)
    return config


def _parse(raw: Mapping[str, Any]) -> ModelConfig:
    """Nothing but `output` and `controls` is checked here: see `ModelConfig.faults`."""
    weights, labels, card = raw["weights"], raw.get("labels", []), raw.get("card", {})
    tokenizer = _optional(raw, "tokenizer", _parse_tokenizer)
    template = _optional(raw, "chat_template", lambda entry: TemplateFile(**entry))
    named = raw["architecture"], raw["config"], weights["sha256"], weights["size"]
    output = _optional(raw, "output", outputs.checked) or {}
    controlled = _optional(raw, "controls", controls.checked) or {}
    critic = _optional(raw, "critic", lambda entry: CriticFile(**entry))
    return ModelConfig(*named, tuple(labels), card, tokenizer, template, output, controlled, critic)


def _optional(raw: Mapping[str, Any], name: str, parse: Callable[[Any], Entry]) -> Entry | None:
    """What a field says; None where it is not there or null."""
    return None if raw.get(name) is None else parse(raw[name])


def _parse_tokenizer(raw: Mapping[str, Any]) -> TokenizerFile:
    lists = {name: tuple(raw[name]) for name in ("stop_token_ids", "start_token_ids") if name in raw}
    return TokenizerFile(**{**raw, **lists})


def _check_kind(path: Path, config: ModelConfig) -> None:
    """Refuse entries that belong to models of the other kind."""
    if config.kind == "latent":
        if config.output:
            raise CheckpointError(f"{path}: output: belongs to sequence models; {config.architecture} makes pictures")
    elif config.controls:
        raise CheckpointError(f"{path}: controls: belong to latent models, which {config.architecture} is not")
    elif config.critic is not None:
        raise CheckpointError(f"{path}: critic: belongs to latent models, which {config.architecture} is not")


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write `config.json` atomically."""
    raw = {
        "format": FORMAT,
        "architecture": config.architecture,
        "config": dict(config.config),
        "weights": {"sha256": config.sha256, "size": config.size},
        "labels": list(config.labels),
        "card": dict(config.card),
        **_written_entries(config),
    }
    write_atomically(folder / CONFIG_FILE, json.dumps(raw, indent=2, ensure_ascii=False).encode() + b"\n")


def _written_entries(config: ModelConfig) -> dict[str, Any]:
    """The entries that not every model has, as the file holds them."""
    raw: dict[str, Any] = {}
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
    return raw


def with_card(config: ModelConfig, card: Mapping[str, Any]) -> ModelConfig:
    """The same configuration with another card."""
    return dataclasses.replace(config, card=dict(card))
