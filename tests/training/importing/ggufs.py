"""Tiny GGUF files, written with the `gguf` package as llama.cpp's converters write them."""

import json

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind

from training.importing.gguf_tensors import GPT2, LLAMA

FIELDS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}


def names(layers, gpt2):
    """GGUF's names by Hugging Face's."""
    found = {}
    for ours, theirs in (GPT2 if gpt2 else LLAMA).items():
        for i in range(layers if "{}" in theirs else 1):
            for end in ("weight", "bias"):
                found[f"{theirs.format(i)}.{end}"] = f"{f'blk.{i}.' if '{}' in theirs else ''}{ours}.{end}"
    return found


def in_pairs(tensor, heads):
    """llama.cpp's order of the rows of queries and keys: the two halves of a head in turns."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def tensors(model, architecture):
    """A transformers model's tensors in GGUF's names and layouts."""
    gpt2, config = architecture == "gpt2", model.config
    known = names(config.num_hidden_layers, gpt2)
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.float().numpy()
        if gpt2 and array.ndim == 2 and ".h." in name:
            array = array.T
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            q = name.endswith("q_proj.weight")
            array = in_pairs(array, config.num_attention_heads if q else config.num_key_value_heads)
        found[known[name]] = np.ascontiguousarray(array)
    return found


def fields(model, architecture):
    """Metadata of a transformers model."""
    config = model.config
    if architecture == "gpt2":
        return {
            "context_length": config.n_positions,
            "embedding_length": config.n_embd,
            "block_count": config.n_layer,
            "feed_forward_length": 4 * config.n_embd,
            "attention.head_count": config.n_head,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    found = {ours: getattr(config, theirs) for ours, theirs in FIELDS.items()}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        **found,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.freq_base": config.rope_parameters["rope_theta"],
    }


def text(tokenizer, pre="gpt-2", **changes):
    """Metadata of a byte-level tokenizer.json."""
    own = json.loads(tokenizer)
    special = {token["id"] for token in own["added_tokens"]}
    tokens = [token for token, _ in sorted(own["model"]["vocab"].items(), key=lambda pair: pair[1])]
    merges = [" ".join(merge) for merge in own["model"]["merges"]]
    kinds = [3 if place in special else 1 for place in range(len(tokens))]
    found = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": kinds, "merges": merges, "eos_token_id": 0}
    return {f"tokenizer.ggml.{name}": value for name, value in {**found, **changes}.items() if value is not None}


def write(path, architecture, metadata, arrays, kinds=None):
    """Write a file; `kinds` are the types of matrices, float32 when not given."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in metadata.items():
        _add(writer, name, value)
    for name, array in arrays.items():
        kind = kinds(name) if kinds and array.ndim == 2 else Kind.F32
        if kind in (Kind.F32, Kind.F16):
            writer.add_tensor(name, array.astype(np.float16 if kind == Kind.F16 else np.float32))
        else:
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, name, value):
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds.get(type(value), writer.add_array)(name, value)


def save(path, model, architecture, tokenizer, kinds=None, extra=None, more=None, **words):
    """Write a transformers model."""
    metadata = {f"{architecture}.{name}": value for name, value in fields(model, architecture).items()}
    arrays = {**tensors(model, architecture), **(more or {})}
    return write(path, architecture, {**metadata, **text(tokenizer, **words), **(extra or {})}, arrays, kinds)


@torch.no_grad()
def rounded(model, kind, architecture):
    """The model with its matrices as this type keeps them."""
    for name, array in tensors(model, architecture).items():
        if array.ndim == 2:
            known = {ours: theirs for theirs, ours in names(model.config.num_hidden_layers, False).items()}
            kept = torch.from_numpy(gguf.dequantize(gguf.quantize(array, kind), kind)).half().float()
            if architecture == "llama" and ("attn_q." in name or "attn_k." in name):
                heads = model.config.num_attention_heads if "attn_q." in name else model.config.num_key_value_heads
                kept = kept.reshape(heads, -1, 2, kept.shape[1]).swapaxes(1, 2).reshape(kept.shape)
            model.state_dict()[known[name]].copy_(kept)
    return model
