"""An HTTP/2 server that does what a test's script says; the h2 library holds the client to the rules.

The client is the load generator.
"""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings
from h2.errors import ErrorCodes

from server.load.generator import Generator
from server.load.outcome import Outcome
from tests.http2.frames import GOAWAY, raw, reset
from tests.transports import WAIT, frame

FIRST = [(":status", "200"), ("content-type", "application/grpc")]
PING = b"are you?"
PATH = "/inference.GRPCInferenceService/ModelInfer"
DEADLINE = 5.0
"""Seconds that a call of the load generator has: far more than anything here takes."""


class ClientLeft(Exception):
    """The client closed the connection; a script that goes on has failed."""


class Caller:
    """One connection, from the server's side; blocking."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.requests: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.grants = True
        """Whether what was received may be sent again, as a server does that keeps up."""
        self.most_open = 0
        """The most calls that were open at once."""
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._whole: list[int] = []
        self.events: list[h2.events.Event] = []
        """All that was heard."""
        self._said = b""

    def greet(self, settings: dict[h2.settings.SettingCodes, int] | None = None) -> None:
        """Say what this server allows, from the first frame on."""
        said = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1000} | (settings or {})
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=said)
        self.h2.decoder.max_allowed_table_size = self.h2.local_settings.header_table_size
        self.h2.initiate_connection()
        self.say()

    def say(self, *others: bytes) -> None:
        """Send what h2 has to say, and frames that it would not make."""
        self.socket.sendall(self.h2.data_to_send() + b"".join(others))

    def received(self, size: int) -> int:
        """Wait for the beginning of a call and so many bytes, and return its stream."""
        while sum(map(len, self.bodies.values())) < size:
            self._hear()
        return next(reversed(self.bodies))

    def calls(self, count: int) -> list[int]:
        """Wait for so many more calls, whole, and return their streams."""
        while len(self._whole) < count:
            self._hear()
        taken, self._whole = self._whole[:count], self._whole[count:]
        return taken

    def answer(self, stream: int, message: bytes = b"") -> None:
        """Make ready an OK."""
        self.h2.send_headers(stream, FIRST)
        self.h2.send_data(stream, frame(message))
        self.h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)

    def refuse(self, stream: int, status: int) -> None:
        """Make ready an answer that is all trailers."""
        self.h2.send_headers(stream, [*FIRST, ("grpc-status", str(status))], end_stream=True)

    def serve(self) -> None:
        """Answer every call as it comes, until the client closes the connection."""
        with contextlib.suppress(ClientLeft):
            while True:
                self.answer(*self.calls(1))
                self.say()

    def wait_for_ping(self, *others: bytes) -> None:
        """Send all that is ready and those frames, and wait until the client has acted upon it."""
        before = len(self.events)
        self.h2.ping(PING)
        ping = self.h2.data_to_send()
        self.socket.sendall(b"".join(others) + ping)
        self.wait_for(lambda one: isinstance(one, h2.events.PingAckReceived) and one.ping_data == PING, before)

    def wait_for(self, wanted: Callable[[h2.events.Event], bool], since: int = 0) -> None:
        """Read until there is such an event."""
        while not any(map(wanted, self.events[since:])):
            self._hear()

    def was_reset(self, stream: int) -> bool:
        """Tell whether the client has given up a call."""
        return reset(stream, ErrorCodes.CANCEL) in self._said  # of one that is reset already h2 tells nothing

    def close(self) -> None:
        """End the connection so that what was sent arrives."""
        self.socket.shutdown(socket.SHUT_WR)
        self.wait_for_end()

    def wait_for_end(self) -> None:
        """Read until the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(1 << 16):
                pass

    def abort(self) -> None:
        """End the connection with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _hear(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ClientLeft
        self._said += data
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.RequestReceived):
                self.requests[event.stream_id] = dict(event.headers)
                self.most_open = max(self.most_open, self.h2.open_inbound_streams)
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                if self.grants:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._whole.append(event.stream_id)
        self.say()


Script = Callable[[Caller], None]


@dataclass
class Played:
    """A server that plays one script for each connection, in the order in which they come."""

    address: str
    callers: list[Caller] = field(default_factory=list)
    ends: "list[Future[None]]" = field(default_factory=list)


@contextmanager
def played(*scripts: Script) -> Iterator[Played]:
    """Serve for the length of a with-block; by its end every script must have been played to its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(len(scripts) + 1) as pool:
        listener.settimeout(WAIT)
        server = Played(f"127.0.0.1:{listener.getsockname()[1]}")
        accepted = pool.submit(_accept, listener, server, scripts, pool)
        try:
            yield server
            accepted.result(WAIT)
        finally:
            listener.close()
            for ended in server.ends:
                ended.result(WAIT)


def _accept(listener: socket.socket, server: Played, scripts: tuple[Script, ...], pool: ThreadPoolExecutor) -> None:
    for script in scripts:
        server.callers.append(Caller(listener.accept()[0]))
        server.ends.append(pool.submit(_play, script, server.callers[-1]))
    listener.close()


def _play(script: Script, caller: Caller) -> None:
    with caller.socket:
        caller.socket.settimeout(WAIT)
        script(caller)
        if caller.socket.fileno() >= 0:
            caller.wait_for_end()


def load(server: Played, message: bytes = b"", **more: object) -> "closing[Generator]":
    """Make a load generator of one connection, for a with-block."""
    return closing(Generator(server.address, PATH, message, **{"deadline": DEADLINE, "connections": 1} | more))


def sent(server: Played, calls: int, message: bytes = b"", **more: object) -> Outcome:
    """Send calls that are all due at once, on one connection."""
    with load(server, message, **more) as generator:
        return generator.open_loop([0.0] * calls)


def goaway(last: int, code: ErrorCodes = ErrorCodes.NO_ERROR, words: bytes = b"") -> bytes:
    """Make a GOAWAY that h2 knows nothing of."""
    return raw(GOAWAY, 0, 0, struct.pack(">II", last, code) + words)
