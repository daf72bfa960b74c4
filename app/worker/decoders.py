"""What a sequence model's output asks for beyond itself: tokens and slots that are large enough, and a served decoder.

Knows descriptions of models; knows no tensors, files or requests.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.engine.jobs import ModelInfo
from app.worker.runner import ModelFault

LEVELS = 256  # of 8-bit mu-law

log = logging.getLogger("genserve.worker")


def check_output(info: ModelInfo) -> None:
    """Refuse a sequence model whose tokens can't be what its folder says they are.

    Raises:
        ModelFault: they can't.
    """
    output = info.output
    if info.task == "captions":
        needed = output["prompt_tokens"] + output["tokens"]
        if needed > info.max_length:
            raise ModelFault(f"output: {needed} tokens of caption and codes, where the network holds {info.max_length}")
        _check_id(output, "pad_token_id", info)
    if info.task == "speech":
        if info.vocab_size != LEVELS:
            raise ModelFault(f"output: mu-law has {LEVELS} levels, the network {info.vocab_size} tokens")
        if info.condition_length < 1:
            raise ModelFault("output: the network takes no condition, so it can't be told what to say")
        _check_id(output, "start_token_id", info)


def _check_id(output: Mapping[str, Any], name: str, info: ModelInfo) -> None:
    if output[name] >= info.vocab_size:
        raise ModelFault(f"output: {name} is {output[name]}; the network knows {info.vocab_size} tokens")


def joined(infos: Sequence[ModelInfo], *, skip: bool) -> list[ModelInfo]:
    """The same models; those that write codes know the size of their pictures, and their decoders who writes for them.

    Args:
        infos: of all models of a worker.
        skip: whether a model without its decoder is marked as failed, rather than raised about.

    Raises:
        ModelFault: a model's decoder is not served, or does not fit it.
    """
    by_name = {info.name: info for info in infos}
    for info in infos:
        if info.error is not None or info.task != "captions":
            continue
        try:
            decoder = _decoder_of(info, by_name)
        except ModelFault as fault:
            if not skip:
                raise
            log.error("skipped: %s", fault)
            by_name[info.name] = ModelInfo(name=info.name, error=str(fault))
        else:
            by_name[info.name] = dataclasses.replace(info, image_shape=decoder.image_shape)
            by_name[decoder.name] = dataclasses.replace(decoder, codes_from=decoder.codes_from or info.name)
    return list(by_name.values())


def _decoder_of(info: ModelInfo, by_name: Mapping[str, ModelInfo]) -> ModelInfo:
    name, tokens = info.output["decoder"], info.output["tokens"]
    decoder = by_name.get(name)
    if decoder is None or decoder.error is not None:
        raise ModelFault(f"{info.name} needs {name}, which makes its pictures and is not served: serve both or neither")
    if decoder.task != "codes" or math.prod(decoder.latent_shape) != tokens or decoder.codes > info.vocab_size:
        shape = list(decoder.latent_shape)
        said = f"{name} takes {shape} of {decoder.codes} codes, {info.name} writes {tokens} of {info.vocab_size} tokens"
        raise ModelFault(f"{info.name} does not fit its decoder: {said}")
    return decoder
