"""Text at the edges of a sequence model: tokenizer, incremental detokenizer, stop strings. No torch.

Knows ids and strings; knows no sampling and no HTTP.
"""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers.decoders import DecodeStream

INCOMPLETE = "\ufffd"  # what a decoder puts where bytes do not make a character


def _byte_alphabet() -> dict[str, int]:
    """The bytes behind the characters of byte-level BPE (Radford et al. 2019): printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTES = _byte_alphabet()


class Tokenizer:
    """A `tokenizer.json` of the tokenizers library.

    Attributes:
        ids: all token ids are below this.
        longest: characters of the longest token.
    """

    def __init__(self, path: Path) -> None:
        """Read the file; its sha256 has been checked by the worker."""
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._tokenizer.encode_special_tokens = True  # a prompt is text: it can't smuggle a special token in
        vocabulary = self._tokenizer.get_vocab()
        self.ids = max(vocabulary.values(), default=-1) + 1
        self.longest = max(map(len, vocabulary), default=1)

    def encode(self, text: str) -> list[int]:
        """Text to ids; what looks like a special token is text like any other."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text; bytes that make no character become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def token(self, token: int) -> str:
        """A name for one token: its text, or its bytes in hexadecimal when it is only a part of a character."""
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        if INCOMPLETE not in text:
            return text
        raw = [BYTES.get(character) for character in self._tokenizer.id_to_token(token) or ""]
        return text if None in raw or not raw else "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def stream(self) -> "Detokenizer":
        """A detokenizer for one sequence."""
        return Detokenizer(self._tokenizer)


class Detokenizer:
    """Ids to text as they come, in whole characters."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._ids.append(token)
        text = self._stream.step(self._tokenizer, token) or ""
        self._given += len(text)
        return text

    def finish(self) -> str:
        """What is left: an incomplete character, as U+FFFD."""
        return self._tokenizer.decode(self._ids, skip_special_tokens=True)[self._given :]


class StopStrings:
    """Finds stop strings in text that comes in pieces, and holds back what may be the beginning of one.

    Of several, the one that is complete first counts, so that it does not matter how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that may be shown now; after a stop string was found, nothing more."""
        if self.found:
            return ""
        self._held += text
        places = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            return self._held[: min(places)[1]]
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        """What was held back in vain."""
        held, self._held = self._held, ""
        return "" if self.found else held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that is a beginning of the stop string, short of all of it."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
