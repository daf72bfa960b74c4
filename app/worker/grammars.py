"""What a text has to look like, token by token: a JSON schema, a regular expression, or any JSON object.

Knows tokens, and the library that turns a grammar into sets of them (Earley parser over derivatives of regular
expressions: Koppel et al. 2019, Moskal et al. 2025); knows no networks and no requests. The library is imported, and a
tokenizer read, when the first grammar is compiled, or ahead of it.

JSON is written compactly, with at most one space after a comma and a colon: where more is allowed, a small network that
does not know how to go on writes spaces until its tokens are used up. Properties come in the schema's order.
"""

import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app import heap
from app.engine.jobs import Grammar
from app.worker.deadline_thread import DeadlineThread
from app.worker.grammar_limits import checked, size
from app.worker.joint_calls import JointCalls

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from llguidance._lib import JsonCompileOptions

COMPILE_SECONDS = 10.0  # the slowest grammar within the limits takes one or two on a busy core
MAX_WAITING = 64  # grammars
MAX_HANGING = 2  # threads
MAX_KEPT = 64  # compiled grammars
MAX_KEPT_SIZE = 1 << 19  # characters of them, repetitions written out: each takes some 200 to 450 bytes compiled
MAX_MESSAGE = 200  # characters
LEXER_STATES = 20_000  # a kilobyte or two each
ROW_ITEMS = 10_000  # places in the grammar at once: an object takes four for each property that may be left out

JSON_OPTIONS: "JsonCompileOptions" = {
    "item_separator": ", ?",
    "key_separator": ": ?",
    "whitespace_flexible": False,
    "coerce_one_of": False,  # what can't be kept is refused, never ignored
    "lenient": False,
}
FIRST = Grammar("json_object", "")
LABELS = {"json_schema": "JSON schema", "regex": "regular expression", "json_object": "JSON object"}

NOTHING_FITS = "no text fits it"
TOO_COMPLEX = "too complex"
PLAIN = {
    "NoExtensionBias": NOTHING_FITS,
    "oneOf constraints are not supported": "oneOf needs branches of which no text fits two; try anyOf",
    "Failed to generate regex for": "the bounds of a number are beyond what can be kept",
    "is not present in a registry": "a reference leads outside the schema; only #/... within it is followed",
    "schema too large": TOO_COMPLEX,
    "fuel": TOO_COMPLEX,
    "increase limits": TOO_COMPLEX,
    "too many expressions": TOO_COMPLEX,
    "too many states": TOO_COMPLEX,
    "Too many items": TOO_COMPLEX,
    "Current row has": TOO_COMPLEX,
}
REGEX_INDENT = 4  # of the expression in the library's message, under which a caret points

log = logging.getLogger("genserve.worker")


class GrammarRefused(Exception):
    """A grammar that is wrong, unsupported, too large or too slow; the message is one short line for the client."""


class GrammarsBusy(Exception):
    """A grammar that was not compiled because of others; nothing is known to be wrong with it."""


class Matcher:
    """How far one text has come; used by one thread at a time."""

    def __init__(self, parser: "LLMatcher", vocab_size: int, stops: Sequence[int]) -> None:
        """Begin a text; the parser is the matcher's own."""
        self._parser, self._vocab_size = parser, vocab_size
        self._stops = np.array(stops, dtype=np.intp)
        self._ended = False

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, [vocab_size]; never none.

        Stop tokens are among them exactly when the text may end here, and alone when it must. Ids without a token,
        and tokens that are not text, never are.

        Raises:
            GrammarRefused: the text can neither go on nor end, or it can't be told within the limits.
        """
        bits = np.frombuffer(self._parser.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)
        may_end = self._ended or self._parser.is_accepting()
        if self._ended:
            mask[:] = False
        mask[self._stops] = may_end
        if not may_end:
            self._check(mask)
        return mask

    def accept(self, token: int) -> None:
        """Go on by one token; a stop token ends the text, and only stop tokens may follow.

        Raises:
            ValueError: the token is none of those allowed.
            GrammarRefused: what may follow can't be told within the limits.
        """
        if token in self._stops:
            if not self._ended and not self._parser.is_accepting():
                raise ValueError(f"the text can't end here with token {token}")
            self._ended = True
        elif self._ended or not self._parser.validate_tokens([token]):
            raise ValueError(f"token {token} does not fit here")
        elif not self._parser.consume_token(token):
            raise GrammarRefused(f"the text can't be followed any further: {_plain(self._parser.get_error())}")

    def copy(self) -> "Matcher":
        """Another text that has come as far."""
        twin = Matcher(self._parser.deep_copy(), self._vocab_size, self._stops.tolist())
        twin._ended = self._ended
        return twin

    def _check(self, mask: NDArray[np.bool_]) -> None:
        """Refuse a text that can't end and can't go on: in error the library would let it stop."""
        if self._parser.is_error():
            raise GrammarRefused(_plain(self._parser.get_error()))
        if not mask.any():
            raise GrammarRefused(NOTHING_FITS)


Outcome: TypeAlias = Matcher | GrammarRefused  # of compiling a grammar


class Grammars:
    """The grammars of one model's texts, compiled in a thread of their own and kept for the next request."""

    def __init__(self, tokenizer: Path, vocab_size: int, stop_tokens: Sequence[int]) -> None:
        """Read nothing yet.

        Args:
            tokenizer: the verified tokenizer.json.
            vocab_size: of the network; at least the tokenizer's.
            stop_tokens: ids that end a text.
        """
        self._path, self._vocab_size, self._stops = tokenizer, vocab_size, tuple(stop_tokens)
        self._thread = DeadlineThread[Outcome](
            "genserve-grammars", COMPILE_SECONDS, MAX_WAITING, MAX_HANGING, _busy, _not_compiled
        )
        self._joint = JointCalls[Grammar, Outcome, Matcher](self._begin)
        self._lock = threading.Lock()  # guards what is kept
        self._kept = OrderedDict[Grammar, tuple[Outcome, int]]()  # with its size
        self._kept_size = 0
        self._tokenizer: LLTokenizer | None = None

    def compile(self, grammar: Grammar) -> Future[Matcher]:
        """A matcher at the beginning of a text; at once when the grammar is known, refused and overdue ones among them.

        The future fails with GrammarRefused, or with GrammarsBusy. However many wait for a grammar, it is compiled
        once; cancelled by all of them, it costs nothing unless its turn has come.
        """
        if (kept := self._find(grammar)) is None:
            return self._joint.join(grammar, lambda: self._submit(grammar))
        future = Future[Matcher]()
        try:
            future.set_result(self._begin(kept))
        except GrammarRefused as refusal:
            future.set_exception(refusal)
        return future

    def warm_up(self) -> None:
        """Read the tokenizer ahead, in the thread: what compiles first holds up all of this process meanwhile."""
        self.compile(FIRST)

    def close(self) -> None:
        """Refuse whatever waits or comes, and let the thread end; matchers go on."""
        self._thread.close()

    def _submit(self, grammar: Grammar) -> Future[Outcome]:
        def overdue(reason: str) -> None:
            self._keep(grammar, _not_compiled(reason), late=False)

        return self._thread.submit(lambda: self._known(grammar), overdue)

    def _known(self, grammar: Grammar) -> Outcome:
        """Compiled, unless that was done in the moment when it was asked for."""
        kept = self._find(grammar)
        return self._keep(grammar, self._outcome(grammar)) if kept is None else kept

    def _begin(self, kept: Outcome) -> Matcher:
        """A text of a grammar that was compiled or refused."""
        if isinstance(kept, GrammarRefused):
            raise GrammarRefused(str(kept))  # a new one: a kept one would gather its raisers' frames
        with self._lock:  # two threads must not look at one parser
            return kept.copy()

    def _outcome(self, grammar: Grammar) -> Outcome:
        try:
            return self._compiled(grammar)
        except (GrammarRefused, ValueError) as error:
            return GrammarRefused(f"{LABELS[grammar.kind]}: {_plain(str(error))}")
        except BaseException as error:  # a panic of the library is no Exception
            log.exception("a grammar can't be compiled")
            return GrammarRefused(f"{LABELS[grammar.kind]}: can't be compiled ({type(error).__name__})")

    def _compiled(self, grammar: Grammar) -> Matcher:
        """Compile, and look at the first token: what no text fits, or takes too long, comes out here."""
        text = checked(grammar)
        from llguidance import LLMatcher

        if not self._stops:
            raise GrammarRefused("the model has no token that ends a text")
        source = (
            LLMatcher.grammar_from_regex(text)
            if grammar.kind == "regex"
            else LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS)
        )
        parser = LLMatcher(self._read_tokenizer(), source, log_level=0, limits=_limits())
        if parser.is_error():
            raise GrammarRefused(parser.get_error())
        matcher = Matcher(parser, self._vocab_size, self._stops)
        matcher.allowed()
        return matcher

    def _read_tokenizer(self) -> "LLTokenizer":
        """The tokenizer as the library sees it; half a second for 49,152 tokens, the first time."""
        from llguidance import LLTokenizer

        if self._tokenizer is None:
            try:
                # Its content and not its name: a name might be looked up elsewhere.
                text = self._path.read_text()
                self._tokenizer = LLTokenizer(text, n_vocab=self._vocab_size, eos_token=list(self._stops))
                heap.give_back()
            except (OSError, ValueError) as error:
                log.warning("%s: no grammar can be compiled: %s", self._path, error)
                raise GrammarRefused("this model's tokenizer does not allow for grammars") from error
        return self._tokenizer

    def _find(self, grammar: Grammar) -> Outcome | None:
        with self._lock:
            if grammar not in self._kept:
                return None
            self._kept.move_to_end(grammar)
            return self._kept[grammar][0]

    def _keep(self, grammar: Grammar, outcome: Outcome, *, late: bool = True) -> Outcome:
        """Keep what came of a grammar, and forget what has not been asked for longest; one too large is not kept.

        What was overdue may yet be compiled, which counts then: `late` outcomes replace what is kept.
        """
        takes = size(grammar) if isinstance(outcome, Matcher) else len(grammar.text)
        with self._lock:
            if late or grammar not in self._kept:
                self._kept_size -= self._kept.pop(grammar, (outcome, 0))[1]
                if takes <= MAX_KEPT_SIZE:
                    self._kept[grammar] = outcome, takes
                    self._kept_size += takes
            while len(self._kept) > MAX_KEPT or self._kept_size > MAX_KEPT_SIZE:
                _, (_, freed) = self._kept.popitem(last=False)
                self._kept_size -= freed
        return outcome


def _limits() -> "LLParserLimits":
    """The library's own, two of them changed; they bound the work of one token to some 20 ms."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=LEXER_STATES, max_items_in_row=ROW_ITEMS, verbose_errors=False)


def _not_compiled(reason: str) -> GrammarRefused:
    return GrammarRefused(f"the grammar was not compiled: {reason}")


def _busy(reason: str) -> GrammarsBusy:
    return GrammarsBusy(f"the grammar was not compiled: {reason}")


def _plain(error: str) -> str:
    """One short line of what the library says."""
    if (wrong := re.search(r"^\s*error: (.*)$", error, re.MULTILINE)) is not None:  # of a regular expression
        caret = re.search(r"^( *)\^", error, re.MULTILINE)
        place = "" if caret is None else f" at position {len(caret[1]) - REGEX_INDENT}"
        return _short(f"{wrong[1]}{place} of the expression")
    for sign, plain in PLAIN.items():
        if sign in error:
            return plain
    if (keys := re.search(r"Unimplemented keys: \[(.*)\]", error)) is not None:
        return _short(f"unsupported: {keys[1]}")
    return _short(re.sub(r"^at \d+\(\d+\): (invalid regex .* \(in regex\): )?", "", error.strip().split("\n", 1)[0]))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 3]}..."
