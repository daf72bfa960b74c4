"""Architectures by name: which there are, the operator's own among them, and networks built of them.

Knows classes and their arguments; knows nothing of files.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

import models
from models.errors import CheckpointError, short

Networks = Mapping[str, type[nn.Module]]


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


def served() -> Networks:
    """The architectures that can be served, the operator's own included."""
    return {**models.LATENT_MODELS, **models.SEQUENCE_MODELS}


def build(architecture: str, config: Mapping[str, Any], networks: Networks | None = None) -> nn.Module:
    """Construct a network by architecture name, with fresh random weights.

    Raises:
        CheckpointError: the architecture is unknown or refuses its arguments.
    """
    network = (served() if networks is None else networks).get(architecture)
    if network is None:
        raise CheckpointError(f"unknown architecture {short(repr(architecture))}")
    try:
        return network(**config)
    except Exception as error:  # constructors, the operator's among them, refuse bad arguments in their own ways
        said = f"{short(str(dict(config)))}: {short(str(error))}"
        raise CheckpointError(f"{architecture} refuses its config {said}") from error


def build_empty(
    architecture: str, config: Mapping[str, Any], networks: Networks | None = None, *, most: int
) -> nn.Module:
    """The same with parameters that hold anything, to be overwritten.

    Raises:
        CheckpointError: likewise, or the network has more than `most` parameters.
    """
    with _at_most(most), _Uninitialised():
        return build(architecture, config, networks)


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
