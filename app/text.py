"""Text at the edges of a sequence model: tokenizer, incremental detokenizer, stop strings. No torch.

Knows ids and strings; knows no sampling and no HTTP.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers.decoders import DecodeStream

from app.fallback import BYTE_TOKEN, LETTER, ByteDetokenizer, falls_back

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
        specials: ids of the special tokens by their text.
    """

    def __init__(self, path: Path) -> None:
        """Read the file; its sha256 has been checked by the worker."""
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._tokenizer.encode_special_tokens = True  # a prompt is text: it can't smuggle a special token in
        vocabulary = self._tokenizer.get_vocab()
        self.ids = max(vocabulary.values(), default=-1) + 1
        self.longest = max(map(len, vocabulary), default=1)
        added = self._tokenizer.get_added_tokens_decoder()
        self.specials: Mapping[str, int] = {token.content: place for place, token in added.items() if token.special}
        self._letter = self._tokenizer.encode(LETTER, add_special_tokens=False).ids[-1:]
        self._said = len(self._text(self._letter))
        self._names: dict[int, str] = {}
        self._falls_back = falls_back(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Text to ids; what looks like a special token is text like any other."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_marked(self, text: str, hidden: Mapping[str, str]) -> list[int]:
        """Text to ids, special tokens among them; each character of `hidden` stands for a text that holds none."""
        if not hidden:
            return self._marking.encode(text, add_special_tokens=False).ids
        parts = re.split(f"([{''.join(map(re.escape, hidden))}])", text)
        marked = [self._marking.encode(part, add_special_tokens=False).ids for part in parts[::2]]
        plain = [self.encode(hidden[part]) for part in parts[1::2]]
        return [place for pair in zip(marked, [*plain, []], strict=True) for ids in pair for place in ids]

    @cached_property
    def _marking(self) -> tokenizers.Tokenizer:
        """Another one that knows special tokens, as they are written and in no other form that is normalised to it."""
        fields = json.loads(self._tokenizer.to_str())
        for token in fields["added_tokens"]:
            token["normalized"] = token["normalized"] and not token["special"]
        return tokenizers.Tokenizer.from_str(json.dumps(fields))

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text; bytes that make no character become U+FFFD, as in a stream of the same ids."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        if not self._falls_back or INCOMPLETE not in text:
            return text
        stream = self.stream()
        return stream.push(*ids) + stream.finish()

    def token(self, token: int) -> str:
        """A name for one token: its text, or its bytes in hexadecimal when it is only a part of a character."""
        if token not in self._names:
            text, raw = self._one(token), self._raw(token)
            named = INCOMPLETE in text and raw is not None
            self._names[token] = "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw or b"") if named else text
        return self._names[token]

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; those of all tokens of a text are the text's."""
        text = self._one(token)
        raw = self._raw(token) if INCOMPLETE in text else None
        return text.encode() if raw is None else raw

    def _one(self, token: int) -> str:
        """The text of one token within a text, special ones as they are written."""
        return self._text([*self._letter, token])[self._said :]

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _raw(self, token: int) -> bytes | None:
        """What a token's name in the vocabulary says of its bytes; None when it says nothing."""
        name = self._tokenizer.id_to_token(token) or ""
        if byte := BYTE_TOKEN.fullmatch(name):
            return bytes.fromhex(byte[1])
        return bytes(BYTES[letter] for letter in name) if name and BYTES.keys() >= set(name) else None

    def stream(self, *, within: bool = False) -> "Detokenizer | ByteDetokenizer":
        """A detokenizer for one sequence; `within` a text, which may go on with a space."""
        if self._falls_back:
            return ByteDetokenizer(self._tokenizer, self.specials, [LETTER] if within else [])
        return Detokenizer(self._tokenizer, self._letter if within else [])


class Detokenizer:
    """Ids to text as they come, in whole characters; not for byte fallback, which `ByteDetokenizer` is for."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, before: Sequence[int] = ()) -> None:
        """Text that follows the ids `before`, which are not part of it."""
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._stream = DecodeStream(ids=self._ids, skip_special_tokens=True)
        self._given = len(tokenizer.decode(self._ids, skip_special_tokens=True)) if self._ids else 0

    def push(self, *tokens: int) -> str:
        """The text that these tokens complete; empty while a character is incomplete."""
        self._ids += tokens
        text = self._stream.step(self._tokenizer, list(tokens)) or ""
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
