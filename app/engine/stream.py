"""The tokens of one request on their way from the engine to whoever asked for them.

Knows chunks and waiting; knows nothing of workers.
"""

import asyncio
from collections.abc import Callable

from app.engine.jobs import Chunk
from app.errors import ComputeFailed, InvalidField, Overloaded

COMPILE_SECONDS = 2.0  # a guess for Retry-After: what the slowest grammar takes; most take a hundredth of it


class TokenStream:
    """The chunks of a request's sequences as they come: an asynchronous iterator of (index, chunk).

    It ends when all its sequences have. Cancel one, or close it all, to give up what has not come yet; leaving it
    unread costs no more memory than the tokens that were asked for.
    """

    def __init__(self, count: int, give_up: Callable[[int], None], left: Callable[[], None]) -> None:
        """`give_up` is called with each sequence that is not wanted any more, `left` when the reader left early."""
        self._open = set(range(count))
        self._give_up, self._left = give_up, left
        self.begun = False  # something of it has come
        self._items: asyncio.Queue[tuple[int, Chunk] | Exception] = asyncio.Queue()

    def put(self, index: int, chunk: Chunk) -> None:
        """Called by the engine: more of a sequence."""
        self.begun = True
        self._items.put_nowait((index, chunk))

    def fail(self, error: Exception) -> None:
        """Called by the engine: the end of it all."""
        self._items.put_nowait(error)

    def cancel(self, index: int) -> None:
        """Give one sequence up: enough of it has come, or nobody reads it any more."""
        self._open.discard(index)
        self._give_up(index)

    def close(self) -> None:
        """The reader leaves: give everything up; harmless when all has come."""
        if self._open:
            self._left()
        self._cancel_all()

    def _cancel_all(self) -> None:
        for index in list(self._open):
            self.cancel(index)

    def __aiter__(self) -> "TokenStream":
        return self

    async def __anext__(self) -> tuple[int, Chunk]:
        """The next chunk of any sequence.

        Raises:
            ComputeFailed: the model failed on a sequence.
            Overloaded: too many grammars are being compiled for this one to wait too.
            InvalidField: the worker refuses the grammar, which the field is called.
            WorkerDied, Draining: the worker ended.
        """
        while self._open:
            item = await self._items.get()
            if isinstance(item, Exception):
                self._cancel_all()
                raise item
            index, chunk = item
            if index not in self._open:  # cancelled with this chunk on its way
                continue
            if chunk.error is not None:
                self._cancel_all()  # of an answer that has failed, nothing more is wanted
                raise ComputeFailed(chunk.error)
            if chunk.refused is not None:
                self._cancel_all()
                if chunk.busy:
                    raise Overloaded(chunk.refused, retry_after=COMPILE_SECONDS)
                raise InvalidField(f"grammar: {chunk.refused}", field="grammar")
            if chunk.finish is not None:
                self._open.discard(index)
            return index, chunk
        raise StopAsyncIteration
