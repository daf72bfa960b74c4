"""Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), trained through the `tokenizers` package.

Every byte is a token, so that any UTF-8 text is encoded and comes back unchanged; merges are learnt on top of the
bytes. With a vocabulary of `SMALLEST` there are no merges: of ASCII text, every character is then a token.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.errors import TrainingError

END_OF_TEXT = "<|endoftext|>"  # stands before every text and after the last one
SMALLEST = 257  # 256 bytes and the end of text


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from texts until the vocabulary has this size; the same texts always give the same tokenizer.

    Raises:
        TrainingError: the vocabulary has no room for the bytes, or the texts are too short to fill it.
    """
    if vocab_size < SMALLEST:
        raise TrainingError(f"data.vocab_size = {vocab_size}: at least {SMALLEST} are needed, for the bytes")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # texts are plain: one that spells the end of text out must not end there
    tokenizer.encode_special_tokens = True
    if tokenizer.get_vocab_size() != vocab_size:
        found = tokenizer.get_vocab_size()
        raise TrainingError(f"data.vocab_size = {vocab_size}: the training texts are too short, they give {found}")
    return tokenizer


def end_of_text(tokenizer: Tokenizer) -> int:
    """The token that stands between texts.

    Raises:
        TrainingError: the tokenizer has none.
    """
    token = tokenizer.token_to_id(END_OF_TEXT)
    if token is None:
        raise TrainingError(f"the tokenizer has no token {END_OF_TEXT}")
    return token


def stream(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """All texts as one list of tokens, the end of text before each and after the last."""
    end = end_of_text(tokenizer)
    tokens = [end]
    for encoding in tokenizer.encode_batch(list(texts)):
        tokens += [*encoding.ids, end]
    return tokens
