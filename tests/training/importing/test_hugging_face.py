"""Folders of Hugging Face's transformers, with transformers itself as the referee."""

import json
import shutil
import struct

import pytest
import safetensors.torch
import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from tests.training.importing import tiny
from tests.training.importing.conftest import VOCAB, compare, edit

KINDS = [*tiny.KINDS, "gpt2"]


def make(kind, vocab=VOCAB, **changes):
    return tiny.gpt2(vocab, **changes) if kind == "gpt2" else tiny.family(kind, vocab, **changes)


@pytest.fixture
def folder(tmp_path, tokenizer):
    return tiny.save(make("llama"), tmp_path / "source", tokenizer)


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_network_computes_what_the_original_does(kind, run, tmp_path, tokenizer):
    model = make(kind)
    found = run(tiny.save(model, tmp_path / "source", tokenizer))
    compare(found, model)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.config.card["architecture"] == type(model).__name__
    assert found.config.card["parameters"] == found.parameters
    assert (tmp_path / "weights" / "small" / "tokenizer.json").read_bytes() == tokenizer
    assert found.config.tokenizer.eos_token_id == 0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_shards_are_one_network(kind, run, tmp_path, tokenizer):
    model = make(kind)
    folder = tiny.save(model, tmp_path / "source", tokenizer, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    compare(run(folder), model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_as_it_is(dtype, run, tmp_path, tokenizer):
    folder = tiny.save(make("qwen2").to(dtype), tmp_path / "source", tokenizer)
    compare(run(folder), transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32))
    with safe_open(tmp_path / "weights" / "small" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {dtype}  # noqa: SIM118  # no dict


def test_what_does_not_fit_float16_is_kept_in_float32(run, folder, tmp_path):
    rewrite(folder, lambda tensors: tensors["model.norm.weight"].mul_(1e6))
    run(folder)
    with safe_open(tmp_path / "weights" / "small" / "model.safetensors", "pt") as file:
        kinds = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118  # no dict
    assert [name for name, kind in kinds.items() if kind == torch.float32] == ["norm.weight"]


def test_a_shorter_length_may_be_asked_for(run, folder):
    assert run(folder, "--max-length", "16").model.max_length == 16


def test_a_longer_one_is_refused(run, folder):
    assert run(folder, "--max-length", "65") == (1, "error: --max-length 65: the network knows 64 positions\n")


def test_a_window_is_no_matter_where_texts_are_shorter(run, tmp_path, tokenizer):
    model = make("mistral", sliding_window=16)
    folder = tiny.save(model, tmp_path / "source", tokenizer)
    status, said = run(folder)
    assert (status, "sliding_window: 16" in said, "--max-length 16" in said) == (1, True, True)
    compare(run(folder, "--max-length", "16"), model, length=16)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("llama", "attention_bias", True),
        ("llama", "mlp_bias", True),
        ("llama", "hidden_act", "gelu"),
        ("llama", "partial_rotary_factor", 0.5),
        ("llama", "quantization_config", {"bits": 4}),
        ("llama", "hidden_size", "wide"),
        ("llama", "vocab_size", -1),
        ("llama", "num_hidden_layers", 1 << 30),
        ("llama", "rms_norm_eps", [1e-5]),
        ("llama", "tie_word_embeddings", 1),
        ("llama", "rope_parameters", "yarn"),
        ("llama", "max_position_embeddings", None),
        ("qwen2", "use_sliding_window", "yes"),
        ("qwen3", "attention_bias", True),
        ("gpt2", "activation_function", "gelu"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "scale_attn_weights", False),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "tie_word_embeddings", False),
        ("gpt2", "n_layer", 0),
    ],
)
def test_a_field_that_is_not_supported_is_named(kind, field, value, run, tmp_path, tokenizer):
    folder = tiny.save(make(kind), tmp_path / "source", tokenizer)
    edit(folder / "config.json", **{field: value})
    status, said = run(folder)
    assert status == 1
    assert field in said


def test_a_window_of_qwen_is_refused(run, tmp_path, tokenizer):
    folder = tiny.save(make("qwen2"), tmp_path / "source", tokenizer)
    edit(folder / "config.json", use_sliding_window=True, sliding_window=8)
    assert "sliding_window" in run(folder)[1]


@pytest.mark.parametrize("kind", ["yarn", "dynamic", "longrope"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_other_stretchings_of_positions_are_refused(kind, key, run, folder):
    edit(folder / "config.json", rope_parameters={key: kind, "factor": 2.0, "rope_theta": 100.0})
    status, said = run(folder)
    assert status == 1
    assert f"{key}: '{kind}' is not supported" in said


def test_the_older_place_of_rotary_fields_is_read(run, tmp_path, tokenizer):
    model = make("llama")
    folder = tiny.save(model, tmp_path / "source", tokenizer)
    scaling = {name: value for name, value in tiny.LLAMA3.items() if name != "rope_theta"}
    edit(folder / "config.json", rope_parameters=None, rope_scaling=scaling, rope_theta=500.0)
    compare(run(folder), model)


@pytest.mark.parametrize("named", [["GemmaForCausalLM"], [], None, "LlamaForCausalLM", [["LlamaForCausalLM"]]])
def test_an_unknown_architecture_is_refused_with_those_known(named, run, folder):
    edit(folder / "config.json", architectures=named)
    status, said = run(folder)
    assert status == 1
    assert "GPT2LMHeadModel, LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.norm.weight"), "the source lacks model.norm.weight"),
        (lambda t: t.update(more=torch.ones(1)), "does not: more"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), r"model.norm.weight: [3], [32] expected"),
        (lambda t: t.update({"model.layers.1.self_attn.k_proj.weight": torch.ones(16, 3)}), "lie one below the other"),
        (lambda t: t["model.norm.weight"].fill_(float("nan")), "not finite"),
        (lambda t: t["model.norm.weight"].fill_(float("inf")), "not finite"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}), "holds I8"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, said, run, folder):
    rewrite(folder, change)
    status, line = run(folder)
    assert status == 1
    assert said in line


def test_a_tied_head_that_differs_is_refused(run, tmp_path, tokenizer):
    folder = tiny.save(make("llama-tied"), tmp_path / "source", tokenizer)
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    run(folder)
    rewrite(folder, lambda t: t["lm_head.weight"].add_(1))
    shutil.rmtree(tmp_path / "weights")
    assert "lm_head.weight differs" in run(folder)[1]


@pytest.mark.parametrize("size", [0, 7, 100, 5000])
def test_a_truncated_file_is_one_line(size, run, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    status, said = run(folder)
    assert status == 1
    assert "model.safetensors: not readable as safetensors" in said


def test_a_header_that_promises_much_allocates_nothing(run, folder):
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "not readable as safetensors" in run(folder)[1]
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + header)
    assert "not readable as safetensors" in run(folder)[1]


def test_pickle_is_never_opened(run, folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    status, said = run(folder)
    assert status == 1
    assert "pytorch_model.bin is pickle, which can hold code and is never opened" in said
    assert "pickle is never opened" in run(folder / "pytorch_model.bin")[1]


@pytest.mark.parametrize(
    "weight_map", [{}, [], "x", {"a": "../model.safetensors"}, {"a": "/etc/passwd"}, {"a": 3}, {"a": "model.bin"}]
)
def test_an_index_names_files_beside_it_and_no_others(weight_map, run, folder):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "weight_map is not an object of names" in run(folder)[1]


def test_a_missing_shard_is_named(run, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    assert "gone.safetensors: missing" in run(folder)[1]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_files_that_are_missing_or_no_json_are_named(name, content, run, folder):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    status, said = run(folder)
    assert status == 1
    assert name in said


def test_a_tokenizer_with_more_tokens_than_the_network_is_refused(run, tmp_path, tokenizer):
    folder = tiny.save(make("llama", vocab=VOCAB - 1), tmp_path / "source", tokenizer)
    assert (
        run(folder)[1] == f"error: tokenizer.json: token {VOCAB - 1} where the network knows {VOCAB - 1} (vocab_size)\n"
    )


def test_ends_and_beginnings_of_texts_are_found(run, folder, tokenizer):
    own = Tokenizer.from_str(tokenizer.decode())
    own.add_special_tokens(["<s>"])
    bos = own.token_to_id("<s>")
    own.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    (folder / "tokenizer.json").write_text(own.to_str())
    edit(folder / "config.json", vocab_size=VOCAB + 1)
    wider = torch.zeros(VOCAB + 1, 32)
    rewrite(folder, lambda t: t.update({"model.embed_tokens.weight": wider, "lm_head.weight": wider.clone()}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 3, 0]}))
    end = {"content": own.id_to_token(3)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end, "chat_template": "{{ x }}"}))
    found = run(folder).config
    assert found.tokenizer.eos_token_id == 3
    assert found.tokenizer.stop_token_ids == (5, 0)
    assert found.tokenizer.start_token_ids == (bos,)
    edit(folder / "tokenizer_config.json", add_bos_token=False)
    assert run(folder, "--force").config.tokenizer.start_token_ids == ()


def test_a_tokenizer_that_ends_texts_itself_is_refused(run, folder, tokenizer):
    own = Tokenizer.from_str(tokenizer.decode())
    end = own.id_to_token(0)
    own.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 0)])
    (folder / "tokenizer.json").write_text(own.to_str())
    assert "behind a text" in run(folder)[1]


@pytest.mark.parametrize("place", ["file", "text", "list", "none"])
def test_the_chat_template_is_found_where_it_stands(place, run, folder, tmp_path):
    written, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    named = [{"name": "tools", "template": "b"}, {"name": "default", "template": "ä"}]
    if place == "file":
        written.write_text("ä", encoding="utf-8")
    config.write_text(json.dumps({"text": {"chat_template": "ä"}, "list": {"chat_template": named}}.get(place, {})))
    found = run(folder)
    there = tmp_path / "weights" / "small" / "chat_template.jinja"
    assert (found.config.chat_template is None) == (not there.exists()) == (place == "none")
    assert place == "none" or there.read_text(encoding="utf-8") == "ä"


@pytest.mark.parametrize("template", ["x" * ((1 << 20) + 1), 3, {"a": "b"}])
def test_a_template_that_is_none_is_refused(template, run, folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert "chat template is no text" in run(folder)[1]


def test_the_card_says_where_the_weights_are_from(run, folder):
    card = run(folder, "--license", "MIT", "--description", "A small one.").config.card
    assert (card["license"], card["description"]) == ("MIT", "A small one.")
    assert list(card["source"]["sha256"]) == ["model.safetensors"]
    assert len(card["source"]["sha256"]["model.safetensors"]) == 64
