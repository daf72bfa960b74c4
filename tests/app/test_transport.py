"""A transport that gathers what belongs together, and knows what its client has taken."""

import asyncio
import contextlib
import socket

import pytest
import uvloop

from app.transport import CORKED_BYTES, Corked
from tests.serving import PATIENCE, eventually


class Transport:
    """Keeps what is written to it, write by write."""

    def __init__(self):
        self.writes, self.closed, self.ended = [], False, False

    def write(self, data):
        assert not self.closed
        self.writes.append(bytes(data))

    def write_eof(self):
        self.ended = True

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def get_write_buffer_size(self):
        return 0

    def get_extra_info(self, name, default=None):
        return default


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_one_turn_writes_leaves_as_one():
    transport = Transport()
    corked = Corked(transport, asyncio.get_running_loop())
    corked.write(b"head")
    corked.write(b"body")
    assert transport.writes == []
    await turns()
    assert transport.writes == [b"headbody"]
    corked.write(b"more")
    await turns()
    assert transport.writes == [b"headbody", b"more"]


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_ending_writes_what_is_held(end):
    transport = Transport()
    corked = Corked(transport, asyncio.get_running_loop())
    corked.write(b"a last ")
    corked.write(b"word")
    getattr(corked, end)()
    assert transport.writes == [b"a last word"]
    assert (transport.closed, transport.ended) == (end == "close", end == "write_eof")
    await turns()
    assert transport.writes == [b"a last word"], "and no second time"


async def test_no_more_is_held_than_is_worth_it():
    """However much one turn writes, in whatever pieces: in order, and not in memory of ours."""
    transport = Transport()
    corked = Corked(transport, asyncio.get_running_loop())
    pieces = [bytes([i % 256]) * size for i, size in enumerate([1, 5000, CORKED_BYTES, 5000, 5000, 5000, 5000, 1] * 8)]
    for number, piece in enumerate(pieces, 1):
        corked.write(piece)
        assert sum(map(len, pieces[:number])) - sum(map(len, transport.writes)) <= CORKED_BYTES
    await turns()
    assert b"".join(transport.writes) == b"".join(pieces)


@pytest.mark.parametrize("size", [8, 2 * CORKED_BYTES], ids=["small", "large"])
def test_a_client_that_leaves_before_the_write_is_no_error(size):
    """uvloop's transport raises when it is written to after its end."""
    faults, lost = [], asyncio.Event()

    class Leaving(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            self.corked = Corked(transport, asyncio.get_running_loop())

        def data_received(self, data):
            self.transport.abort()
            self.corked.write(bytes(size))

        def connection_lost(self, error):
            asyncio.get_running_loop().call_soon(self.corked.write, bytes(size))
            asyncio.get_running_loop().call_soon(lost.set)

    async def visit():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        async with await loop.create_server(Leaving, "127.0.0.1", 0) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            await asyncio.wait_for(lost.wait(), PATIENCE)
            await turns(10)
            writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(visit())
    assert faults == []


SENT_BY_KERNEL = 200_000  # what it keeps until the client has room: as much as it may by default


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_what_the_client_has_taken(factory):
    """Neither what lies in our memory nor what lies in the kernel's has been taken."""

    async def visit():
        loop = asyncio.get_running_loop()
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, listener.getsockname())
            accepted = listener.accept()[0]
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_BY_KERNEL)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=accepted)
            corked, total = Corked(transport, loop), 16 << 20
            assert corked.taken() == 0
            corked.write(bytes(total))
            await turns()
            async with asyncio.timeout(PATIENCE):
                await eventually(corked.taken)  # what fits into the client's own buffer
                assert corked.taken() < SENT_BY_KERNEL // 2
                received = 0
                while received < total:
                    received += len(await loop.sock_recv(client, 1 << 20))
                await eventually(lambda: corked.taken() == total)
            transport.abort()
            await turns()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(visit())


async def test_without_the_kernel_s_word_all_but_ours_counts_as_taken(tmp_path):
    """Where a socket can't tell, as this file can't."""
    with (tmp_path / "file").open("w") as file:

        class Mute(Transport):
            def get_extra_info(self, name, default=None):
                return file

        corked = Corked(Mute(), asyncio.get_running_loop())
        corked.write(bytes(CORKED_BYTES + 1))
        assert corked.taken() == CORKED_BYTES + 1
