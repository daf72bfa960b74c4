"""Messages to the text that a model reads, by the chat template of its weights folder. No torch.

A template is a program in Jinja's language, by whoever made the weights; what users say is data to it, never a program.
It runs in Jinja's sandbox, with bounds on what it computes and writes. Knows templates and special tokens; knows no
sampling and no HTTP.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from app.errors import InvalidField
from app.text import Tokenizer

MAX_TEMPLATE = 1 << 17  # characters
MAX_STEPS = 200_000  # turns of loops and calls in one rendering
MAX_SECONDS = 2.0
MAX_BITS = 4096  # of a number
MAX_REASON = 300  # characters of what a template says of messages that it refuses
PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))  # Unicode's private use areas
MISTAKES = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)

log = logging.getLogger("genserve.chat")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        role: system, user or assistant.
        content: what was said.
        name: who said it, if that was told.
    """

    role: str
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, the latest last, that a model is to answer."""

    turns: tuple[Turn, ...]

    def __len__(self) -> int:
        """Characters that were said."""
        return sum(len(turn.content) for turn in self.turns)


class TooMuch(jinja2.TemplateRuntimeError):
    """A template has computed or written more than it may."""


class Budget:
    """What one rendering may still take."""

    def __init__(self, characters: int, steps: int = MAX_STEPS, seconds: float = MAX_SECONDS) -> None:
        self._characters = self._left = characters
        self._steps = steps
        self._deadline = time.monotonic() + seconds

    def step(self) -> None:
        """One more turn of a loop, or call.

        Raises:
            TooMuch: as all methods here.
        """
        self._steps -= 1
        if self._steps < 0 or time.monotonic() > self._deadline:
            raise TooMuch("it takes too long")

    def write(self, text: str) -> str:
        """Some more of the text."""
        self._left -= len(text)
        if self._left < 0:
            raise TooMuch("the text becomes too long")
        return text

    def hold(self, value: Any) -> Any:
        """A value that the template has made."""
        if isinstance(value, (str, list, tuple)) and len(value) > self._characters:
            raise TooMuch("the text becomes too long")
        return value

    def multiply(self, operator: str, left: Any, right: Any) -> None:
        """A product or a power, before it is computed."""
        for one, other in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple)) and isinstance(other, int) and len(one) * other > self._characters:
                raise TooMuch("the text becomes too long")
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise TooMuch("a number becomes too large")


_budget: ContextVar[Budget] = ContextVar("budget")  # of the rendering that runs in this thread


@jinja2.pass_context  # none of the three may be called by the compiler, which takes constants together
def _step(_: Context, value: Any) -> bool:  # noqa: ARG001
    _budget.get().step()
    return True


@jinja2.pass_context
def _write(_: Context, value: Any) -> str:
    return _budget.get().write(str(value))


@jinja2.pass_context
def _join(_: Context, values: Sequence[Any]) -> str:
    text: str = _budget.get().hold("".join(map(str, values)))
    return text


class _Bounded(NodeTransformer):
    """Has a template count the turns of its loops and what it writes."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802  # jinja2's way to name a visitor
        """Each turn is a step, and so is each item that a condition passes over."""
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_filtered(nodes.Const(0), "_step"), lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(_filtered(nodes.Const(0), "_step"), node.test, lineno=node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        """What is written is counted, within macros too."""
        self.generic_visit(node)
        plain = [nodes.Const(part.data) if isinstance(part, nodes.TemplateData) else part for part in node.nodes]
        node.nodes = [_filtered(part, "_write") for part in plain]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        """`~` makes no text that is too long."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_join")


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}`, by which some templates mark what a model was trained on: it changes nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements within."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it, with bounds."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension])
        self.filters.update(tojson=_tojson, _step=_step, _write=_write, _join=_join)
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        """Called by jinja2, which offers it to be overridden."""
        bounded = _Bounded().visit(source)
        bounded.set_environment(self)
        return super()._generate(bounded, *args, **kwargs)

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Called by templates for each call."""
        _budget.get().step()
        return _budget.get().hold(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Called by templates for each sum, product and power."""
        if operator != "+":
            _budget.get().multiply(operator, left, right)
        return _budget.get().hold(super().call_binop(context, operator, left, right))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Unlike Jinja's own, as templates expect it: no escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        """Compile; `bos` and `eos` are the texts of the tokens that begin and end a text.

        Raises:
            ValueError: it is too long, or not in Jinja's language.
        """
        if len(source) > MAX_TEMPLATE:
            raise ValueError(f"{len(source)} characters; the limit is {MAX_TEMPLATE}")
        try:
            self._template = _Sandbox().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"line {error.lineno}: {error.message}") from None
        self.source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(self, turns: Sequence[Turn], budget: Budget) -> str:
        """The text of a conversation up to where the model's answer begins.

        Raises:
            InvalidField: the template refuses the messages, fails on them, or takes too much for them.
        """
        messages = [_as_template_sees(turn) for turn in turns]
        before = _budget.set(budget)
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, tools=None, **self._tokens)
        except TooMuch as error:
            reason = f"the chat template stops: {error.message}"
        except jinja2.TemplateError as error:
            reason = f"the chat template refuses them: {str(error.message)[:MAX_REASON]}"
        except MISTAKES as error:
            log.warning("the chat template fails", exc_info=True)
            reason = f"the chat template fails on them: {type(error).__name__}"
        finally:
            _budget.reset(before)
        raise InvalidField(f"messages: {reason}", field="messages")

    def encode(self, conversation: Conversation, tokenizer: Tokenizer, limit: int) -> list[int]:
        """The ids of a conversation; special tokens are the template's alone, not those that somebody wrote.

        Raises:
            InvalidField: as for `render`; or the text has more than `limit` characters.
        """
        turns, hidden = hide(conversation.turns, tokenizer.specials, self.source)
        return tokenizer.encode_marked(self.render(turns, Budget(limit)), hidden)


def _as_template_sees(turn: Turn) -> dict[str, str]:
    seen = {"role": turn.role, "content": turn.content}
    return seen if turn.name is None else {**seen, "name": turn.name}


def hide(turns: Sequence[Turn], specials: Collection[str], template: str) -> tuple[Sequence[Turn], Mapping[str, str]]:
    """Put private-use characters that occur nowhere in place of special tokens that somebody wrote.

    Returns:
        The turns, and what each of these characters stands for.

    Raises:
        InvalidField: no such characters are left.
    """
    said = [text for turn in turns for text in (turn.content, turn.name or "")]
    pattern = re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))) or r"(?!)")
    found = sorted({match for text in said for match in pattern.findall(text)})
    if not found:
        return turns, {}
    used = set(template).union(*said)
    free = [letter for letter in map(chr, chain(*PRIVATE)) if letter not in used][: len(found)]
    if len(free) < len(found):
        raise InvalidField("messages: they hold too many different private-use characters", field="messages")
    letters = dict(zip(found, free, strict=True))
    return _replaced(turns, lambda text: pattern.sub(lambda match: letters[match[0]], text)), dict(
        zip(free, found, strict=True)
    )


def _replaced(turns: Sequence[Turn], change: Callable[[str], str]) -> list[Turn]:
    return [Turn(turn.role, change(turn.content), turn.name and change(turn.name)) for turn in turns]
