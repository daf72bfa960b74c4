"""Text of tokenizers that spell in bytes what no token of theirs covers (SentencePiece; Kudo & Richardson 2018).

The tokenizers library decodes a run of such bytes as a whole: one that makes no character spoils all others of its run,
those that were shown long ago among them. Here each byte counts once, so that a text follows from its tokens alone,
however they were cut into pieces. Knows names of tokens and the library's decoder.
"""

import codecs
import re
from collections.abc import Collection, Sequence

import tokenizers

LETTER = "a"  # decoders that take the space off the beginning of a text see this one before it
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how SentencePiece names a byte


def falls_back(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the decoder makes bytes of the tokens that name them."""
    return tokenizer.decoder is not None and LETTER in tokenizer.decoder.decode(_names(LETTER))


def _names(text: str) -> list[str]:
    """The tokens that spell a text in bytes."""
    return [f"<0x{byte:02X}>" for byte in text.encode()]


class ByteDetokenizer:
    """Ids to text as they come, in whole characters; a byte, or some of a character, that makes none is U+FFFD.

    The library's decoder sees whole characters alone: bytes are held back until they make one, and those that never
    will are U+FFFD to it too. Each token is a step of its own, whatever it came with.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, hidden: Collection[str], before: Sequence[str] = ()) -> None:
        """Text that follows the tokens of the names `before`, which are not part of it; `hidden` ones are no text."""
        self._name, self._hidden = tokenizer.id_to_token, hidden
        self._decode = tokenizer.decoder.decode
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._new: list[str] = []  # what has said nothing yet: a space that may be the beginning's
        self._follow(before)

    def _follow(self, before: Sequence[str]) -> None:
        self._before = list(before)
        self._said = len(self._decode(self._before))

    def push(self, *tokens: int) -> str:
        """The text that these tokens complete; empty while a character is incomplete."""
        return "".join(map(self._push, tokens))

    def _push(self, token: int) -> str:
        name = self._name(token)
        if name is None or name in self._hidden:  # bytes on both sides of it belong together, as in the library
            return ""
        if byte := BYTE_TOKEN.fullmatch(name):
            return self._say(_names(self._bytes.decode(bytes.fromhex(byte[1]))))
        return self._say([*_names(self._bytes.decode(b"", final=True)), name])

    def finish(self) -> str:
        """What is left: an incomplete character, as U+FFFD."""
        return self._say(_names(self._bytes.decode(b"", final=True)))

    def _say(self, names: list[str]) -> str:
        """What these add to the text; once there is some, its beginning is over."""
        if not names:
            return ""
        self._new += names
        text: str = self._decode(self._before + self._new)[self._said :]
        if text:
            self._follow([LETTER, *self._new])
            self._new = []
        return text
