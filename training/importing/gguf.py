"""GGUF files of llama.cpp, told in the terms of Hugging Face's folders.

Knows the metadata that decides what a network computes. A field of the architecture that is not known is refused by
name, because llama.cpp would not ignore it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.attention import frequencies
from models.llama import scale_frequencies
from training.errors import TrainingError
from training.importing.architectures import TRANSPOSED
from training.importing.gguf_file import GgufFile
from training.importing.gguf_tensors import GPT2, LLAMA, GgufTensors, read_tensor
from training.importing.gguf_text import read_text
from training.importing.source import Source

CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
FIELDS = {  # Hugging Face's names by GGUF's, for the family of Llama
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "attention.sliding_window": "sliding_window",
}
GPT2_FIELDS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
IGNORED = {"vocab_size", "rope.dimension_count", "attention.value_length", "rope.scaling.type", "rope.scaling.factor"}
NEUTRAL = {"expert_count": 0, "expert_used_count": 0, "rope.scaling.finetuned": False, "attention.causal": True}
LLAMA3 = {"type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_length": 8192}
CLOSE = 1e-3


def read(path: Path) -> Source:
    """What a file holds.

    Raises:
        TrainingError: it is damaged, or holds what is not supported.
    """
    file = GgufFile(path)
    name = file.fields.get("general.architecture")
    if not isinstance(name, str) or name not in CLASSES:
        raise TrainingError(f"general.architecture: {name!r:.100} is not supported (known: {', '.join(CLASSES)})")
    config = _config(file, name)
    heads, keys = config.get("num_attention_heads"), config.get("num_key_value_heads")
    permuted = {"q_proj.weight": heads, "k_proj.weight": keys or heads} if name == "llama" else {}
    tensors = GgufTensors(
        file, GPT2 if name == "gpt2" else LLAMA, _divisors(file, permuted), TRANSPOSED if name == "gpt2" else ()
    )
    _check_stretching(file, name, config)
    return Source(config, tensors, read_text(file), _card(file))


def _config(file: GgufFile, name: str) -> dict[str, Any]:
    """The fields of a config.json."""
    own = {key.removeprefix(f"{name}."): value for key, value in file.fields.items() if key.startswith(f"{name}.")}
    known = GPT2_FIELDS if name == "gpt2" else FIELDS
    for key, value in own.items():
        if key not in known and key not in IGNORED and not (key in NEUTRAL and value == NEUTRAL[key]):
            raise TrainingError(f"{name}.{key}: {value!r:.100} is not supported")
    config = {theirs: _plain(own[key]) for key, theirs in known.items() if key in own}
    config |= {"architectures": [CLASSES[name]], "vocab_size": _vocabulary(file)}
    tied = "output.weight" not in file.entries
    config["tie_word_embeddings"] = True if name == "gpt2" else tied
    if "sliding_window" in config:  # which Hugging Face's Llama does not know
        config |= {"architectures": [CLASSES[name].replace("Llama", "Mistral")], "use_sliding_window": True}
    if name != "gpt2":
        _check_heads(name, own, config)
    return config


def _plain(value: Any) -> Any:
    """A float32 as the shortest number that it is: 1e-5, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _vocabulary(file: GgufFile) -> int:
    if "token_embd.weight" not in file.entries:
        raise TrainingError(f"{file.path}: the source lacks token_embd.weight")
    return file.entries["token_embd.weight"].shape[0]


def _check_heads(name: str, own: Mapping[str, Any], config: dict[str, Any]) -> None:
    """Whole heads are turned, and values are as wide as keys."""
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    for key, value in (("embedding_length", width), ("attention.head_count", heads)):
        if not isinstance(value, int) or value < 1:
            raise TrainingError(f"{name}.{key}: {value!r:.100} is not a positive whole number")
    assert isinstance(width, int)
    assert isinstance(heads, int)
    config.setdefault("head_dim", width // heads)
    config.setdefault("num_key_value_heads", heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.get(key, config["head_dim"]) != config["head_dim"]:
            raise TrainingError(f"{name}.{key}: {own[key]!r:.100} is not supported (head_dim {config['head_dim']} is)")
    kind = own.get("rope.scaling.type", "none")
    if kind == "linear":
        config["rope_scaling"] = {"type": "linear", "factor": _plain(own.get("rope.scaling.factor"))}
    elif kind != "none":
        raise TrainingError(f"{name}.rope.scaling.type: {kind!r:.100} is not supported (none and linear are)")


def _divisors(file: GgufFile, permuted: Mapping[str, Any]) -> dict[str, int]:
    """Heads by the ends of names; rows of which they are no half are refused here, before anybody divides them."""
    for heads in permuted.values():
        if not isinstance(heads, int) or heads < 1:
            raise TrainingError(f"llama.attention.head_count_kv: {heads!r:.100} is not a positive whole number")
    ends = {"attn_q.weight": "q_proj.weight", "attn_k.weight": "k_proj.weight"}
    for name, entry in file.entries.items():
        end = next((theirs for ours, theirs in ends.items() if name.endswith(ours)), "")
        if end in permuted and entry.shape[0] % (2 * permuted[end]):
            raise TrainingError(f"{name}: {entry.shape[0]} rows are not {permuted[end]} heads")
    return dict(permuted)


def _check_stretching(file: GgufFile, name: str, config: dict[str, Any]) -> None:
    """llama.cpp keeps Llama 3's stretching of positions as a tensor of divisors: find the rule that made them."""
    if "rope_freqs.weight" not in file.entries:
        return
    divisors = read_tensor(file, "rope_freqs.weight").float()
    plain = frequencies(2 * divisors.numel(), config.get("rope_theta", 10_000.0))
    scaling = {**LLAMA3, "factor": float(divisors.max())}
    if name == "gpt2" or divisors.numel() * 2 != config["head_dim"] or not _made_by(divisors, plain, scaling):
        raise TrainingError("rope_freqs.weight: stretches positions in another way than Llama 3: not supported")
    theirs = {key: value for key, value in scaling.items() if key not in ("type", "original_max_length")}
    config["rope_scaling"] = {
        **theirs,
        "rope_type": "llama3",
        "original_max_position_embeddings": scaling["original_max_length"],
    }


def _made_by(divisors: Tensor, plain: Tensor, scaling: Mapping[str, Any]) -> bool:
    if not bool(torch.isfinite(divisors).all()) or float(divisors.max()) <= 0:
        return False
    return torch.allclose(plain / scale_frequencies(plain, scaling), divisors, rtol=CLOSE)


def _card(file: GgufFile) -> dict[str, Any]:
    with file.path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    said = {key: file.fields.get(f"general.{key}") for key in ("name", "license")}
    stated = {key: value for key, value in said.items() if isinstance(value, str)}
    return {**stated, "source": {"name": file.path.name, "sha256": sha256}}
