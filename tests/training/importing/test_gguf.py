"""GGUF files, with transformers as the referee of what they compute."""

import gguf as package
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors import safe_open

from models.attention import frequencies
from models.llama import scale_frequencies
from tests.training.importing import ggufs, tiny
from tests.training.importing.conftest import VOCAB, compare
from training.importing.gguf_file import GgufFile
from training.importing.gguf_tensors import read_tensor

PLAIN = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "small.gguf"


def make(architecture, **changes):
    if architecture == "gpt2":
        return tiny.gpt2(VOCAB)
    return tiny.family(architecture, VOCAB, **{**(PLAIN if architecture == "llama" else {}), **changes})


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
def test_an_imported_file_computes_what_the_original_does(architecture, run, path, tokenizer):
    model = make(architecture)
    found = run(ggufs.save(path, model, architecture, tokenizer))
    compare(found, model)
    assert found.config.card["architecture"] == type(model).__name__
    assert found.config.card["source"]["name"] == "small.gguf"


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_every_type_of_numbers_is_read(kind, run, path, tokenizer, tmp_path):
    model = make("llama", hidden_size=64, intermediate_size=96)
    found = run(ggufs.save(path, model, "llama", tokenizer, kinds=lambda _: kind))
    if kind != Kind.F16:  # whose numbers the model has anyway
        ggufs.rounded(model, kind, "llama")
    compare(found, model, tolerance=1e-3 if kind == Kind.BF16 else 1e-4)
    with safe_open(tmp_path / "weights" / "small" / "model.safetensors", "pt") as file:
        wanted = torch.bfloat16 if kind == Kind.BF16 else torch.float16
        assert file.get_tensor("blocks.0.qkv.weight").dtype == wanted


@pytest.mark.parametrize("kind", [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K])
def test_k_quants_are_read(kind, path, monkeypatch):
    """In parts of a few rows, which must be those of the package at once; the package can't write them."""
    monkeypatch.setattr("training.importing.gguf_tensors.CHUNK", 3 * 512)
    block, size = package.GGML_QUANT_SIZES[kind]
    rows = np.random.default_rng(0).integers(0, 256, (7, 2, size), np.uint8)
    rows[..., -4:] = rows[..., :4] = np.array([0.01, 0.02], np.float16).view(np.uint8)
    writer = package.GGUFWriter(path, "llama")
    writer.add_tensor("x", rows.reshape(7, -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_tensor(GgufFile(path), "x")
    assert found.shape == (7, 2 * block)
    assert torch.isfinite(found).all()
    assert found.std() > 0
    assert np.array_equal(found.numpy(), package.dequantize(rows.reshape(7, -1), kind))


def test_a_quant_of_six_bits_is_what_its_definition_says(path):
    """256 numbers: low 4 bits, high 2 bits, a scale for 16, one scale for all (ggml's block_q6_K)."""
    random = np.random.default_rng(1)
    codes, scales = random.integers(-32, 32, 256), random.integers(-128, 128, 16)
    low, high = np.zeros(128, np.uint8), np.zeros(64, np.uint8)
    for place, code in enumerate(codes + 32):
        half, row, column = place // 128, place % 128 // 32, place % 32
        low[64 * half + 32 * (row % 2) + column] |= (code & 15) << (4 * (row // 2))
        high[32 * half + column] |= (code >> 4) << (2 * row)
    scale = np.array([0.125], np.float16)
    raw = np.concatenate([low, high, scales.astype(np.int8).view(np.uint8), scale.view(np.uint8)])
    writer = package.GGUFWriter(path, "llama")
    writer.add_tensor("x", raw[None], raw_dtype=Kind.Q6_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    wanted = 0.125 * codes * scales.repeat(16)
    assert np.array_equal(read_tensor(GgufFile(path), "x").numpy()[0], wanted.astype(np.float32))


def test_stretched_positions_of_llama3_are_found(run, path, tokenizer):
    changes = {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_theta": 500_000.0}
    model = make("llama", rope_parameters={**tiny.LLAMA3, **changes}, hidden_size=128)
    plain = frequencies(32, 500_000.0)
    scaling = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    divisors = (plain / scale_frequencies(plain, {**scaling, "original_max_length": 8192})).numpy()
    found = run(ggufs.save(path, model, "llama", tokenizer, more={"rope_freqs.weight": divisors}))
    assert found.config.config["rope_scaling"]["factor"] == 8
    compare(found, model)


def test_other_stretchings_of_positions_are_refused(run, path, tokenizer):
    divisors = np.array([1, 2, 3, 4], np.float32)
    ggufs.save(path, make("llama"), "llama", tokenizer, more={"rope_freqs.weight": divisors})
    assert "rope_freqs.weight: stretches positions in another way" in run(path)[1]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("llama.expert_count", 8, "llama.expert_count: 8"),
        ("llama.logit_scale", 0.5, "llama.logit_scale: 0.5"),
        ("llama.rope.scaling.type", "yarn", "llama.rope.scaling.type: 'yarn'"),
        ("llama.rope.dimension_count", 4, "llama.rope.dimension_count: 4"),
        ("llama.attention.value_length", 16, "llama.attention.value_length: 16"),
        ("llama.attention.sliding_window", 8, "sliding_window"),
        ("llama.attention.head_count", 0, "llama.attention.head_count: 0"),
        ("llama.attention.head_count_kv", 3, "blk.0.attn_k.weight: 16 rows are not 3 heads"),
        ("llama.attention.head_count_kv", 0, "num_key_value_heads: 0"),
        ("llama.embedding_length", "wide", "llama.embedding_length: 'wide'"),
        ("llama.block_count", 3, "the source lacks model.layers.2.input_layernorm.weight"),
        ("llama.context_length", 0, "max_position_embeddings: 0"),
        ("tokenizer.ggml.model", "bert", "tokenizer.ggml.model: 'bert'"),
        ("tokenizer.ggml.model", "llama", "tokenizer.ggml.scores is not a list"),
        ("tokenizer.ggml.pre", "deepseek-llm", "tokenizer.ggml.pre: 'deepseek-llm'"),
        ("tokenizer.ggml.pre", "default", "tokenizer.ggml.pre: 'default'"),
        ("tokenizer.ggml.eos_token_id", 100_000, "tokenizer.ggml.eos_token_id: 100000"),
        ("tokenizer.ggml.add_eos_token", True, "tokenizer.ggml.add_eos_token"),
        ("tokenizer.ggml.token_type", [1, 2], "tokenizer.ggml.token_type"),
        ("tokenizer.ggml.tokens", ["a", "a"], "tokenizer.ggml.tokens: a token comes twice"),
        ("tokenizer.ggml.merges", ["a b c"], "tokenizer.ggml.merges"),
        ("tokenizer.ggml.merges", ["a zzz"], "not readable as a tokenizer"),
        ("tokenizer.chat_template", 3, "tokenizer.chat_template"),
    ],
)
def test_a_field_that_is_not_supported_is_named(field, value, said, run, path, tokenizer):
    ggufs.save(path, make("llama"), "llama", tokenizer, extra={field: value})
    status, line = run(path)
    assert status == 1
    assert said in line


def test_an_unknown_architecture_is_refused_with_those_known(run, path):
    ggufs.write(path, "mamba", {}, {"token_embd.weight": np.ones((3, 3), np.float32)})
    assert run(path) == (
        1,
        "error: general.architecture: 'mamba' is not supported (known: gpt2, llama, qwen2, qwen3)\n",
    )


def test_linear_stretching_is_read(run, path, tokenizer):
    model = make("llama", rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 100.0})
    extra = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5, "llama.expert_count": 0}
    compare(run(ggufs.save(path, model, "llama", tokenizer, extra=extra)), model)


def test_unknown_tensors_and_types_are_named(run, path, tokenizer):
    model, more = make("llama"), {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    assert "blk.0.attn_sinks.weight" in run(ggufs.save(path, model, "llama", tokenizer, more=more))[1]
    ggufs.save(path, model, "llama", tokenizer, kinds=lambda _: Kind.TQ2_0 if _ == "none" else Kind.F32)
    data = bytearray(path.read_bytes())
    where = data.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16
    data[where : where + 4] = int(Kind.IQ2_XXS).to_bytes(4, "little")
    path.write_bytes(data)
    assert "IQ2_XXS, which is not supported" in run(path)[1]
    data[where : where + 4] = (999).to_bytes(4, "little")
    path.write_bytes(data)
    assert "type 999" in run(path)[1]
