"""Tiny random networks of Hugging Face's transformers, saved as its own code saves them."""

import torch
import transformers

transformers.utils.logging.disable_progress_bar()  # it would speak where a refusal's one line is looked for

WIDTH = {
    "vocab_size": 0,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
KINDS = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, {"rope_parameters": LLAMA3}),
    "llama-tied": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig,
        {
            "tie_word_embeddings": True,
            "head_dim": 10,
            "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0},
        },
    ),
    "mistral": (transformers.MistralForCausalLM, transformers.MistralConfig, {"sliding_window": None, "head_dim": 8}),
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, {"num_key_value_heads": 1}),
    "qwen3": (
        transformers.Qwen3ForCausalLM,
        transformers.Qwen3Config,
        {"head_dim": 12, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    ),
}


def family(kind, vocab, **changes):
    """A tiny random network of the family of Llama."""
    network, config, own = KINDS[kind]
    return _drawn(network, config(**{**WIDTH, "vocab_size": vocab, **own, **changes}))


def gpt2(vocab, **changes):
    """A tiny random GPT-2."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(vocab_size=vocab, **{**sizes, **ends, **changes})
    return _drawn(transformers.GPT2LMHeadModel, config)


def _drawn(network, config):
    """Norms and biases are drawn too, and all numbers are ones of float16, in which they are kept."""
    torch.manual_seed(0)
    model = network(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            parameter.copy_(parameter.half())
    return model


def save(model, folder, tokenizer, **options):
    """Write a folder as save_pretrained does, with a tokenizer.json beside it."""
    model.save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    return folder
