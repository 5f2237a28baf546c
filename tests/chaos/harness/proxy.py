"""A TCP proxy that misbehaves on demand: cuts, black holes, dropped replies, delays, one-byte slices.

The vocabulary is toxiproxy's. TCP_NODELAY is set on both sides, or WAIT-like round trips would become 40 ms slower.
"""

import asyncio
import random
import socket
from contextlib import suppress

MODES = ("ok", "cut", "black_hole", "drop_replies", "delay", "slices")


class TcpProxy:
    """Forwards to one port. `mode` changes what happens to every connection from now on."""

    def __init__(self, target_port: int, rng: random.Random) -> None:
        self.mode = "ok"
        self.faults = 0
        self._target = target_port
        self._rng = rng
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> int:
        """Listen on a free port and return it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every connection there is."""
        for writer in list(self._writers):
            self.faults += 1
            writer.transport.abort()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Start a task of our own: the one asyncio would make complains when it is cancelled at the end."""
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        upstream = None
        try:
            back, upstream = await asyncio.open_connection("127.0.0.1", self._target)
            for end in (writer, upstream):
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pumps = [asyncio.create_task(self._pump(reader, upstream, reply=False)),
                     asyncio.create_task(self._pump(back, writer, reply=True))]  # fmt: skip
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, reply: bool) -> None:
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                if await self._spoil(sink, data, reply=reply):
                    return
                await sink.drain()

    async def _spoil(self, sink: asyncio.StreamWriter, data: bytes, *, reply: bool) -> bool:
        """Forward `data` as the mode says; True ends the connection."""
        mode = self.mode
        if mode == "black_hole" or (mode == "drop_replies" and reply and self._rng.random() < 0.05):
            # What is lost in TCP is lost with everything after it: the connection goes on in silence.
            self.faults += 1
            return mode == "drop_replies"
        if mode == "delay":
            await asyncio.sleep(self._rng.uniform(0, 0.05))
        if mode == "slices" and len(data) < 2000:
            for i in range(len(data)):
                sink.write(data[i : i + 1])
                await sink.drain()
            return False
        sink.write(data)
        return False
