import pytest
from tokenizers import Tokenizer

from benchmarks import text_prompts
from benchmarks.generators import ROOT


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(ROOT / "weights/shakespeare-gpt/tokenizer.json"))


def test_text_and_tokens_of_a_prompt_are_the_same_and_as_long_as_asked(tokenizer):
    for prompt in text_prompts.make(tokenizer, length=16, count=50, seed=3):
        assert len(prompt.tokens) == 16
        assert tuple(tokenizer.encode(prompt.text, add_special_tokens=False).ids) == prompt.tokens


def test_no_two_begin_alike(tokenizer):
    prompts = text_prompts.make(tokenizer, length=64, count=145, seed=0)
    assert len({prompt.tokens[:2] for prompt in prompts}) == 145


def test_the_seed_alone_chooses(tokenizer):
    first, again, other = (text_prompts.make(tokenizer, 8, 20, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_text_holds_so_many_prompts_only(tokenizer):
    with pytest.raises(text_prompts.PromptError, match=r"LICENSE has \d+ prompts of 64 tokens, 100000 are asked for"):
        text_prompts.make(tokenizer, 64, 100_000, 0)
