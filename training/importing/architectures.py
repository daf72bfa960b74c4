"""From Hugging Face's description of a network to ours: constructor arguments, and which tensors make up each of ours.

Knows the fields that their implementations read. Whatever would change the output and is not done here is refused by
name; a field that their implementation ignores is ignored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from training.errors import TrainingError
from training.importing.fields import Fields

Parts = dict[str, tuple[str, ...]]  # of each of our tensors theirs

MAX_LAYERS = 1 << 12
LLAMA_BLOCK: Parts = {
    "attention_norm.weight": ("input_layernorm.weight",),
    "qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attention_out.weight": ("self_attn.o_proj.weight",),
    "feed_norm.weight": ("post_attention_layernorm.weight",),
    "gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "feed_out.weight": ("mlp.down_proj.weight",),
}
QKV_BIAS: Parts = {"qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias")}
HEAD_NORMS: Parts = {
    "head_norms.query.weight": ("self_attn.q_norm.weight",),
    "head_norms.key.weight": ("self_attn.k_norm.weight",),
}
GPT2_PARTS = {
    "attention_norm": "ln_1",
    "qkv": "attn.c_attn",
    "attention_out": "attn.c_proj",
    "feed_norm": "ln_2",
    "feed_in": "mlp.c_fc",
    "feed_out": "mlp.c_proj",
}
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


@dataclass(frozen=True)
class Plan:
    """How one of their networks becomes one of ours.

    Attributes:
        architecture: key of `models.SEQUENCE_MODELS`.
        arguments: of its constructor.
        parts: for each of our tensors theirs, which lie in it one below the other.
        transposed: endings of the names of those of theirs that lie the other way round.
        ignored: endings of the names of tensors that hold nothing learnt.
        copies: names of tensors that may be there and must then equal another one.
        rows: of those of our tensors that are cut short; a learned position is a row.
    """

    architecture: str
    arguments: Mapping[str, Any]
    parts: Mapping[str, tuple[str, ...]]
    transposed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)


def plan(config: Mapping[str, Any], max_length: int | None = None) -> Plan:
    """What our network must be to compute what theirs does, for texts of up to `max_length` positions.

    Raises:
        TrainingError: the architecture is unknown, or a field asks for what our networks do not do.
    """
    name = architecture(config)
    fields = Fields(config)
    fields.only("quantization_config")
    positions = fields.integer("n_positions" if name == "GPT2LMHeadModel" else "max_position_embeddings")
    if max_length is not None and max_length > positions:
        raise TrainingError(f"--max-length {max_length}: the network knows {positions} positions")
    return KNOWN[name](fields, max_length or positions)


def architecture(config: Mapping[str, Any]) -> str:
    """The class of theirs that the description names.

    Raises:
        TrainingError: none, or one that is not known.
    """
    names = config.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str) and names[0] in KNOWN:
        return names[0]
    said = f"{names!r}"[:200] if names is not None else "missing"
    raise TrainingError(f"architectures: {said} is not supported (known: {', '.join(sorted(KNOWN))})")


def _llama(fields: Fields, max_length: int) -> Plan:
    fields.only("attention_bias", False)
    return _family(fields, max_length, key_heads=fields.integer("num_attention_heads"))


def _mistral(fields: Fields, max_length: int) -> Plan:
    _check_window(fields, max_length, always=True)
    return _family(fields, max_length)


def _qwen2(fields: Fields, max_length: int) -> Plan:
    _check_window(fields, max_length, always=False)
    return _family(fields, max_length, qkv_bias=True)


def _qwen3(fields: Fields, max_length: int) -> Plan:
    fields.only("attention_bias", False)
    _check_window(fields, max_length, always=False)
    return _family(fields, max_length, head_dim=128, head_norms=True)


def _check_window(fields: Fields, max_length: int, always: bool) -> None:
    """A window that is no shorter than a text can be sees all of it."""
    used = always or fields.flag("use_sliding_window", False)
    if used and fields.has("sliding_window") and (window := fields.integer("sliding_window")) < max_length:
        raise TrainingError(
            f"sliding_window: {window} is less than the {max_length} positions of a text: not supported "
            f"(--max-length {window} imports it for texts as long as the window)"
        )


def _family(
    fields: Fields,
    max_length: int,
    key_heads: int | None = None,
    head_dim: int | None = None,
    qkv_bias: bool = False,
    head_norms: bool = False,
) -> Plan:
    """What Llama, Mistral and Qwen share; the arguments are defaults of their fields and what they differ in."""
    fields.only("hidden_act", "silu")
    fields.only("mlp_bias", False)
    width, heads, tied = fields.integer("hidden_size"), fields.integer("num_attention_heads"), _tied(fields, False)
    layers = _layers(fields, "num_hidden_layers")
    base, scaling = _rotary(fields)
    arguments = {
        "vocab_size": fields.integer("vocab_size"),
        "max_length": max_length,
        "width": width,
        "layers": layers,
        "heads": heads,
        "key_heads": fields.integer("num_key_value_heads", key_heads),
        "head_dim": fields.integer("head_dim", head_dim or max(1, width // heads)),
        "feed_width": fields.integer("intermediate_size"),
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "rope_base": base,
        **({"rope_scaling": scaling} if scaling else {}),
        **{name: True for name, on in (("tied", tied), ("qkv_bias", qkv_bias), ("head_norms", head_norms)) if on},
    }
    block = {**LLAMA_BLOCK, **(QKV_BIAS if qkv_bias else {}), **(HEAD_NORMS if head_norms else {})}
    parts: Parts = {"embedding.weight": ("model.embed_tokens.weight",), "norm.weight": ("model.norm.weight",)}
    for i in range(layers):
        parts |= {
            f"blocks.{i}.{ours}": tuple(f"model.layers.{i}.{t}" for t in theirs) for ours, theirs in block.items()
        }
    copies = {"lm_head.weight": "model.embed_tokens.weight"} if tied else {}
    parts |= {} if tied else {"head.weight": ("lm_head.weight",)}
    return Plan("llama", arguments, parts, ignored=("rotary_emb.inv_freq",), copies=copies)


def _tied(fields: Fields, default: bool) -> bool:
    return fields.flag("tie_word_embeddings", default)


def _layers(fields: Fields, name: str) -> int:
    layers = fields.integer(name)
    if layers > MAX_LAYERS:
        raise TrainingError(f"{name}: {layers} is more than {MAX_LAYERS}")
    return layers


def _rotary(fields: Fields) -> tuple[float, dict[str, Any] | None]:
    """Base of the rotary frequencies and how they are stretched, from either of the two places where that stands."""
    fields.only("partial_rotary_factor", 1.0)
    given = fields.group("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    given.only("partial_rotary_factor", 1.0)
    base = given.number("rope_theta") if given.has("rope_theta") else fields.number("rope_theta", 10_000.0)
    key = "rope_type" if given.has("rope_type") else "type"
    given.only(key, "default", "linear", "llama3")
    kind = next((kind for kind in ("linear", "llama3") if given.is_(key, kind)), None)
    if kind is None:
        return base, None
    scaling: dict[str, Any] = {"type": kind, "factor": given.number("factor")}
    if kind == "llama3":
        scaling |= {name: given.number(name) for name in ("low_freq_factor", "high_freq_factor")}
        scaling["original_max_length"] = given.integer("original_max_position_embeddings")
    return base, scaling


def _gpt2(fields: Fields, max_length: int) -> Plan:
    fields.only("activation_function", "gelu_new", "gelu_pytorch_tanh")
    fields.only("scale_attn_weights", True)
    fields.only("scale_attn_by_inverse_layer_idx", False)
    fields.only("add_cross_attention", False)
    fields.only("tie_word_embeddings", True)
    width, layers = fields.integer("n_embd"), _layers(fields, "n_layer")
    arguments = {
        "vocab_size": fields.integer("vocab_size"),
        "max_length": max_length,
        "width": width,
        "layers": layers,
        "heads": fields.integer("n_head"),
        "feed_width": fields.integer("n_inner", 4 * width),
        "norm_eps": fields.number("layer_norm_epsilon", 1e-5),
    }
    parts: Parts = {"embedding.weight": ("transformer.wte.weight",), "positions.weight": ("transformer.wpe.weight",)}
    parts |= {f"norm.{kind}": (f"transformer.ln_f.{kind}",) for kind in ("weight", "bias")}
    for i in range(layers):
        for ours, theirs in GPT2_PARTS.items():
            parts |= {
                f"blocks.{i}.{ours}.{kind}": (f"transformer.h.{i}.{theirs}.{kind}",) for kind in ("weight", "bias")
            }
    copies = {"lm_head.weight": "transformer.wte.weight"}
    rows = {"positions.weight": max_length}
    return Plan("gpt2", arguments, parts, TRANSPOSED, (".attn.bias", ".attn.masked_bias"), copies, rows)


KNOWN: dict[str, Callable[[Fields, int], Plan]] = {
    "GPT2LMHeadModel": _gpt2,
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
}
