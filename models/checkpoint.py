"""Weights folders on disk: `config.json` and `model.safetensors`, never pickle, never code.

Knows files and networks; knows nothing of requests or of how the weights were made. Everything that can be wrong with a
folder becomes one `CheckpointError` that names the file and the cause.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import models
from models import controls, outputs
from models.architecture import Networks, build_empty
from models.config import ModelConfig, TemplateFile, TokenizerFile, read_config, write_config
from models.critic import Critic, CriticFile
from models.errors import CheckpointError
from models.files import (
    CONFIG_FILE,
    CRITIC_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    verify,
    write_atomically,
)
from models.tensors import halves, load_tensors, read_tensors

MAX_TEMPLATE_BYTES = 1 << 20
FEW_PARAMETERS = 1 << 20  # are built whatever the file holds, to say what does not fit


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
    if not outputs.MODEL_NAME.fullmatch(folder.name):
        raise CheckpointError(f"{folder}: the folder's name must match {outputs.MODEL_NAME.pattern}")
    config = read_config(folder, networks)
    path = folder / WEIGHTS_FILE
    verify(path, config.size, config.sha256)
    if config.tokenizer is not None:
        verify(folder / TOKENIZER_FILE, config.tokenizer.size, config.tokenizer.sha256)
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
    verify(path, critic.size, critic.sha256)
    return Critic(_read_network(path, critic, models.CRITICS), critic.scale, critic.step_size)


def _verify_template(path: Path, template: TemplateFile) -> None:
    if template.size > MAX_TEMPLATE_BYTES:
        raise CheckpointError(f"{path}: {template.size} bytes, more than {MAX_TEMPLATE_BYTES}")
    verify(path, template.size, template.sha256)
    try:
        path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}") from error


def _read_network(
    path: Path, described: ModelConfig | CriticFile, networks: Networks | None, *, as_stored: bool = False
) -> nn.Module:
    """The network that is described, filled from a verified file: in evaluation mode, frozen, no larger than that."""
    tensors = read_tensors(path)
    most = max(2 * described.size, FEW_PARAMETERS)  # an element takes a byte at least; some are shared
    try:
        model = build_empty(described.architecture, described.config, networks, most=most)
    except CheckpointError as error:
        raise CheckpointError(f"{path.with_name(CONFIG_FILE)}: {error}") from error
    load_tensors(model, tensors, str(path), as_stored=as_stored)
    return model.eval().requires_grad_(False)


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
    data = halves(path, model)
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    beside = None if tokenizer is None else write_tokenizer(folder, tokenizer, eos_token_id)
    fields = architecture, dict(config), digest, len(data), labels, dict(card or {}), beside
    written = ModelConfig(*fields, output=meant, controls=controlled)
    write_atomically(path, data)
    write_config(folder, written)
    return written


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
    data = halves(path, network)
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
