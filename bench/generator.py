"""A load generator that costs a tenth of a gRPC client: gRPC's few HTTP/2 frames, written and read by hand.

On a small machine the generator takes what it costs from the server it measures, so it has to be cheap. Calls due
within a millisecond of each other go together: against an echo, 4,000 calls a second in open loop take 0.24 of a core,
12,000 take 0.3, where sending each at its own instant took 0.6 and 0.9 from the server.
Every answer's grpc-status is read, latency counts from the instant a call was meant to be sent (no coordinated
omission), and a call that finds no free stream waits in line here, as it would in any client.

The peer is told to keep no header table (SETTINGS_HEADER_TABLE_SIZE 0), so each block of trailers means something by
itself and equal ones are decoded once (RFC 7541, section 4.2). RFC 9113 is the source for the rest.
"""

import math
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator

from hpack import Decoder, Encoder

from server.cli.load import Outcome

OK, CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE, INTERNAL = 0, 1, 4, 14, 13
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
REFUSED_STREAM, CANCEL = 7, 8
HUGE_WINDOW = (1 << 31) - 1
FIRST_WINDOW = 65535
GRACE = 0.5
"""Seconds beyond the last deadline for which answers are still heard."""
SPIN = 0.0002
"""Seconds before a send from which the clock is watched: `select` may wake that late."""
TICK = 0.001
"""Seconds slept where the next call is due sooner after the last one; latencies grow by up to twice that."""
REMEMBERED = 4096
_HEAD = struct.Struct(">IBI")
_WORD = struct.Struct(">I")

Check = Callable[[int, bytes], None]
"""Sees the status code and the message of an answer."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return an HTTP/2 frame."""
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


class Connection:
    """One HTTP/2 connection that sends one and the same call again and again."""

    def __init__(self, address: str, path: str, message: bytes, deadline: float) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)  # noqa: FBT003 - the standard library's own
        self.open: dict[int, float] = {}
        """Stream -> the instant at which its call was meant to be sent."""
        self.answers: list[tuple[float, int, bytes]] = []
        """(intended instant, grpc-status, message) of each answer since they were last taken."""
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", address),
            ("te", "trailers"), ("content-type", "application/grpc"),
        ]  # fmt: skip
        self._encoder = Encoder()
        self._first_block = self._encoder.encode([*headers, ("grpc-timeout", "1H")])
        self._block = self._encoder.encode(headers)
        """What follows the first: the peer's table knows every header by then, so it never changes again."""
        self._deadline = deadline
        self._timeouts: dict[int, bytes] = {}
        """The time left of a call, in ms, as a header that enters no table."""
        self._decoder = Decoder()
        self._decoder.header_table_size = self._decoder.max_allowed_table_size = 0
        self._statuses: dict[bytes, int] = {}
        self._data = struct.pack(">BI", 0, len(message)) + message
        self._frame_limit, self._stream_window = 16384, FIRST_WINDOW
        self._window = FIRST_WINDOW
        self._streams = 1 << 30
        self._next_stream = 1
        self._rest = b""
        self._parts: dict[int, bytes] = {}
        self._unacknowledged = 0
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, HUGE_WINDOW)
        update = frame(WINDOW_UPDATE, 0, 0, _WORD.pack(HUGE_WINDOW - FIRST_WINDOW))
        self._out = bytearray(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings) + update)

    @property
    def wants_to_write(self) -> bool:
        """Whether the socket did not take everything yet."""
        return bool(self._out)

    def has_room(self) -> bool:
        """Whether a call could be sent now: a stream and window for its message."""
        return len(self.open) < self._streams and self._window >= len(self._data)

    def start(self, instant: float, now: float) -> None:
        """Send the call, with the time that is left of its deadline; there must be room."""
        left = max(int((self._deadline - (now - instant)) * 1000), 1)
        block = self._block + (self._timeouts.get(left) or self._timeout(left))
        if self._first_block:  # it brings the names into the peer's table
            block, self._first_block = self._first_block, b""
        stream, data = self._next_stream, self._data
        if len(data) > self._stream_window:
            raise ValueError(f"expected a message within the peer's window of {self._stream_window}, got {len(data)}")
        self._next_stream += 2
        self.open[stream] = instant
        self._window -= len(data)
        self._out += frame(HEADERS, END_HEADERS, stream, block)
        if len(data) <= self._frame_limit:
            self._out += frame(DATA, END_STREAM, stream, data)
            return
        for at in range(0, len(data), self._frame_limit):
            part = data[at : at + self._frame_limit]
            self._out += frame(DATA, END_STREAM if at + len(part) == len(data) else 0, stream, part)

    def _timeout(self, left: int) -> bytes:
        header = self._timeouts[left] = self._encoder.encode([("grpc-timeout", f"{left}m", True)])
        return header

    def flush(self) -> None:
        """Give the socket what it takes."""
        try:
            sent = self.socket.send(self._out)
        except BlockingIOError:
            return
        del self._out[:sent]

    def receive(self) -> None:
        """Read what has come and collect the answers in it. Raises ConnectionError when the peer has gone."""
        chunk = self.socket.recv(1 << 20)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        data, at = self._rest + chunk, 0
        end = len(data)
        while end - at >= 9:
            word, flags, stream = _HEAD.unpack_from(data, at)
            after = at + 9 + (word >> 8)
            if after > end:
                break
            self._on_frame(word & 0xFF, flags, stream, data[at + 9 : after])
            at = after
        self._rest = data[at:]
        if self._unacknowledged > HUGE_WINDOW // 2:
            self._out += frame(WINDOW_UPDATE, 0, 0, _WORD.pack(self._unacknowledged))
            self._unacknowledged = 0

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._unacknowledged += len(payload)
            before = self._parts.get(stream)
            self._parts[stream] = payload if before is None else before + payload
        elif kind == HEADERS:
            if flags & END_STREAM:
                self._end(stream, self._status(payload, flags))
        elif kind == RST_STREAM:
            code = _WORD.unpack(payload)[0]
            self._end(stream, {REFUSED_STREAM: UNAVAILABLE, CANCEL: CANCELLED}.get(code, INTERNAL))
        else:
            self._on_control(kind, flags, stream, payload)

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            if not stream:
                self._window += _WORD.unpack(payload)[0]
        elif kind == SETTINGS and not flags & ACK:
            for key, value in struct.iter_unpack(">HI", payload):
                self._on_setting(key, value)
            self._out += frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._out += frame(PING, ACK, 0, payload)
        elif kind in (GOAWAY, CONTINUATION):
            raise ConnectionError(f"the server sent a frame of type {kind}: {payload[8:].decode(errors='replace')}")

    def _on_setting(self, key: int, value: int) -> None:
        if key == 3:
            self._streams = value
        elif key == 4:
            self._stream_window = value
        elif key == 5:
            self._frame_limit = value

    def _end(self, stream: int, status: int) -> None:
        instant = self.open.pop(stream, None)
        message = self._parts.pop(stream, b"")
        if instant is not None:
            self.answers.append((instant, status, message[5:]))

    def _status(self, block: bytes, flags: int) -> int:
        status = self._statuses.get(block)
        if status is None:
            if flags & (PADDED | PRIORITY) or not flags & END_HEADERS:
                raise ConnectionError("the server sent trailers padded or in pieces")
            headers = dict(self._decoder.decode(block, raw=True))
            status = int(headers.get(b"grpc-status", b"13"))
            if len(self._statuses) < REMEMBERED:
                self._statuses[block] = status
        return status


class Generator:
    """Sends one call over a few connections, from one thread."""

    def __init__(
        self, address: str, path: str, message: bytes, *, deadline: float = 10.0, connections: int = 8
    ) -> None:
        self._deadline = deadline
        self._connections = [Connection(address, path, message, deadline) for _ in range(connections)]
        self._sockets = {connection.socket: connection for connection in self._connections}
        self._turn = 0
        self._waiting: deque[float] = deque()

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.socket.close()

    def open_loop(self, instants: Iterator[float], *, check: Check | None = None) -> Outcome:
        """Send at the given instants, whatever comes back, and wait for the answers until the last deadline."""
        outcome = Outcome()
        began, cpu = time.monotonic(), time.process_time()
        due = next(instants, None)
        last = began
        while due is not None or self._waiting or self._busy():
            now = time.monotonic()
            while due is not None and began + due <= now:
                outcome.sent += 1
                outcome.late.append(now - began - due)
                self._waiting.append(began + due)
                last = began + due
                due = next(instants, None)
            self._send(now, outcome)
            if due is None and now > last + self._deadline + GRACE:
                break
            ahead = began + due - now if due is not None else math.inf
            self._rest(ahead, crowded=now + ahead < last + TICK)
            self._collect(outcome, began, check)
        self._give_up(outcome)
        outcome.seconds, outcome.cpu_seconds = time.monotonic() - began, time.process_time() - cpu
        return outcome

    def closed_loop(self, in_flight: int, seconds: float, *, check: Check | None = None) -> Outcome:
        """Keep `in_flight` calls going for `seconds`; each answer starts the next call."""
        outcome = Outcome()
        began, cpu = time.monotonic(), time.process_time()
        missing = in_flight
        while missing or self._waiting or self._busy():
            now = time.monotonic()
            if now - began < seconds:
                self._waiting.extend([now] * missing)
                outcome.sent += missing
            elif now - began > seconds + self._deadline + GRACE:
                break
            self._send(now, outcome)
            self._hear(0.05)
            missing = self._collect(outcome, began, check)
        self._give_up(outcome)
        outcome.seconds, outcome.cpu_seconds = time.monotonic() - began, time.process_time() - cpu
        return outcome

    def _busy(self) -> bool:
        return any(connection.open for connection in self._connections)

    def _send(self, now: float, outcome: Outcome) -> None:
        """Send what waits, where there is room; what expired in line ends here, as it would in a client.

        Calls that go together go on one connection, the next ones on the next: a system call for each would be most
        of what a call costs here.
        """
        waiting, connections = self._waiting, self._connections
        while waiting:
            if now - waiting[0] > self._deadline:
                waiting.popleft()
                outcome.codes[DEADLINE_EXCEEDED] = outcome.codes.get(DEADLINE_EXCEEDED, 0) + 1
                continue
            for _ in connections:
                if connections[self._turn].has_room():
                    connections[self._turn].start(waiting.popleft(), now)
                    break
                self._turn = (self._turn + 1) % len(connections)
            else:
                break
        self._turn = (self._turn + 1) % len(connections)
        for connection in connections:
            if connection.wants_to_write:
                connection.flush()

    def _rest(self, ahead: float, *, crowded: bool) -> None:
        """Hear answers until shortly before the next call is due in `ahead` seconds; in a crowd, after a tick."""
        if crowded:
            time.sleep(TICK)
            self._hear(0)
        else:
            self._hear(min(0.05, ahead - SPIN))

    def _hear(self, patience: float) -> None:
        writers = [connection.socket for connection in self._connections if connection.wants_to_write]
        readable, _, _ = select.select(self._sockets, writers, (), max(patience, 0.0))
        for ready in readable:
            self._sockets[ready].receive()

    def _collect(self, outcome: Outcome, began: float, check: Check | None) -> int:
        """Enter the answers that came; returns how many."""
        now, count = time.monotonic(), 0
        for connection in self._connections:
            answers, connection.answers = connection.answers, []
            count += len(answers)
            for instant, answered, message in answers:
                latency = now - instant
                # The core's way to say that a deadline has passed is to reset the stream.
                late = answered == CANCELLED and latency >= self._deadline
                status = DEADLINE_EXCEEDED if late else answered
                outcome.codes[status] = outcome.codes.get(status, 0) + 1
                if status == OK:
                    outcome.latencies.append(latency)
                    outcome.instants.append(instant - began)
                if check is not None:
                    check(status, message)
        return count

    def _give_up(self, outcome: Outcome) -> None:
        """Count what was never answered; its streams are forgotten."""
        left = len(self._waiting) + sum(len(connection.open) for connection in self._connections)
        self._waiting.clear()
        for connection in self._connections:
            connection.open.clear()
        if left:
            outcome.codes[DEADLINE_EXCEEDED] = outcome.codes.get(DEADLINE_EXCEEDED, 0) + left
