"""A tokenizer of whole words for captions; its ids begin behind the numbers of the codes.

Case, accents and whatever stands between words make no difference.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

PADDING = "<pad>"
UNKNOWN = "<unk>"  # stands for every word that is not in the vocabulary
BETWEEN = "[^a-z0-9]+"


def word_tokenizer(words: Iterable[str], first: int) -> Tokenizer:
    """A tokenizer of these words, in the order of the alphabet; `first` is the id of the padding."""
    known = [PADDING, UNKNOWN, *sorted(set(words))]
    vocabulary = {word: first + place for place, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(BETWEEN), "removed")
    return tokenizer


def padding_of(tokenizer: Tokenizer) -> int:
    """The id of the padding."""
    found: int | None = tokenizer.token_to_id(PADDING)
    assert found is not None  # every tokenizer that is made here has it
    return found


def rows(tokenizer: Tokenizer, captions: Sequence[str], length: int) -> list[list[int]]:
    """Captions as ids, each padded or cut to this length."""
    padding = [padding_of(tokenizer)] * length
    return [[*encoding.ids, *padding][:length] for encoding in tokenizer.encode_batch(list(captions))]
