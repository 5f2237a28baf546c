"""Whatever calls do side by side on one connection, each gets its own bytes, and an independent client finds no fault.

The client is the `h2` library, which raises ProtocolError when the server breaks a rule.
"""

import os
import socket
from dataclasses import dataclass, field, replace

import h2.config
import h2.connection
import h2.events
import pytest
from h2.settings import SettingCodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http2.frames import CHAT, ECHO, OK, WINDOW, request
from tests.http2.host import hosted, wait_for
from tests.transports import DEFAULTS, WAIT, frame


@dataclass(frozen=True)
class Plan:
    """What becomes of one call."""

    path: str
    size: int
    piece: int
    """Bytes of a DATA frame at most."""
    padding: int | None
    reset_after: int | None
    """Steps after which the caller gives it up."""


@dataclass
class Sending:
    """How far a call has come."""

    plan: Plan
    stream: int
    body: bytes
    rest: bytes
    steps: int = 0
    received: bytearray = field(default_factory=bytearray)
    owed: int = 0
    status: str | None = None
    gone: bool = False

    @property
    def over(self):
        return self.gone or self.status is not None


class Caller:
    """A polite client whose every step is decided from outside."""

    def __init__(self, port, window):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.calls, self.received = {}, bytearray()
        self.acknowledged = False
        self.settings = {
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            SettingCodes.HEADER_TABLE_SIZE: 4096,
            SettingCodes.MAX_FRAME_SIZE: 16384,
        }
        self.http2.initiate_connection()
        while not self.acknowledged:
            self.exchange(wait=True)
        self.configure(SettingCodes.INITIAL_WINDOW_SIZE, window)

    def configure(self, name, value):
        """Change a setting; all are sent, for h2 takes each acknowledgement for one of a change of every setting."""
        self.settings[name] = value
        self.http2.update_settings(self.settings)

    def open(self, plan, number):
        stream = self.http2.get_next_available_stream_id()
        body = frame(bytes([number]) * plan.size)
        self.http2.send_headers(stream, request(plan.path, ("x-number", str(number))))
        self.calls[stream] = Sending(plan, stream, body, body)

    def step(self, call):
        """Send a piece of a call as the windows allow, or give the call up."""
        call.steps += 1
        if call.plan.reset_after is not None and call.steps > call.plan.reset_after:
            self.http2.reset_stream(call.stream)
            call.gone = True
            return
        padding = call.plan.padding
        room = min(self.http2.local_flow_control_window(call.stream), self.http2.max_outbound_frame_size)
        size = min(room - (padding or 0) - 1, call.plan.piece, len(call.rest))
        if size > 0:
            piece, call.rest = call.rest[:size], call.rest[size:]
            self.http2.send_data(call.stream, piece, end_stream=not call.rest, pad_length=padding)

    def acknowledge(self, call, size):
        size = min(size, call.owed)
        if size:
            call.owed -= size
            self.http2.acknowledge_received_data(size, call.stream)

    def exchange(self, *, wait):
        """Send what there is to send and act on what has come."""
        self.socket.sendall(self.http2.data_to_send())
        self.socket.settimeout(WAIT if wait else 0)
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except TimeoutError:
            pytest.fail("stuck: " + "; ".join(map(self.situation, self.calls.values())))
        finally:
            self.socket.settimeout(WAIT)
        assert data, "the server hung up"
        self.received += data
        for one in self.whole_frames():
            for event in self.http2.receive_data(one):
                self.act(event)

    def whole_frames(self):
        """Take what has come frame by frame: h2 would hold all of them to the size that held before the first."""
        while len(self.received) >= 9 and len(self.received) >= (end := 9 + int.from_bytes(self.received[:3], "big")):
            yield bytes(self.received[:end])
            del self.received[:end]

    def situation(self, call):
        """Say how far a call has come, for whoever wants to know why it came no further."""
        if call.over:
            return f"{call.stream} over"
        there, here = (
            self.http2.local_flow_control_window(call.stream),
            self.http2.remote_flow_control_window(call.stream),
        )
        sent, came = len(call.body) - len(call.rest), len(call.received)
        return f"{call.stream} {call.plan} sent {sent}, may send {there}, received {came}, may receive {here}"

    def act(self, event):
        assert not isinstance(event, h2.events.ConnectionTerminated), event
        self.acknowledged |= isinstance(event, h2.events.SettingsAcknowledged)
        call = self.calls.get(getattr(event, "stream_id", None))
        if call is None:
            return
        if isinstance(event, h2.events.DataReceived):
            call.received += event.data
            call.owed += event.flow_controlled_length
        elif isinstance(event, h2.events.TrailersReceived):
            call.status = dict(event.headers)["grpc-status"]
        elif isinstance(event, h2.events.StreamReset):
            assert call.over or event.error_code == 0, event
            call.gone = True

    def finish(self):
        """Send all that is left and wait for every answer."""
        while any(not call.over for call in self.calls.values()):
            before = sum(len(call.rest) for call in self.calls.values())
            for call in self.calls.values():
                self.acknowledge(call, call.owed)
                if call.rest and not call.over:
                    self.step(call)
            moved = sum(len(call.rest) for call in self.calls.values()) < before
            self.exchange(wait=not moved and any(not call.over for call in self.calls.values()))


PLANS = st.builds(
    Plan,
    path=st.sampled_from([ECHO, CHAT]),
    size=st.sampled_from([0, 1, 100, 5000, 16379, 16380, 70_000, 200_000]) | st.integers(0, 200_000),
    piece=st.sampled_from([1 << 20, 16384, 1000]),
    padding=st.sampled_from([None, None, None, 0, 255]),
    reset_after=st.sampled_from([None] * 6 + [0, 1, 5]),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send"] * 6 + ["acknowledge"] * 3 + ["ping", "window", "table", "frame", "read"]),
        st.integers(0, 1000),
    ),
    max_size=60,
)
WINDOWS = st.sampled_from([1, 100, 5000, 65535, 1 << 20])


@pytest.fixture(scope="module")
def patient():
    with hosted(replace(DEFAULTS, min_ping_interval=0.0)) as host:
        yield host


@settings(
    max_examples=int(os.environ.get("HTTP2_EXAMPLES", "150")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(plans=st.lists(PLANS, min_size=1, max_size=8), steps=STEPS, window=WINDOWS)
def test_every_call_gets_its_own_bytes_whatever_happens_around_it(patient, plans, steps, window):
    caller = Caller(patient.port, window)
    with caller.socket:
        for number, plan in enumerate(plans):
            caller.open(plan, number)
        calls = list(caller.calls.values())
        for what, amount in steps:
            call = calls[amount % len(calls)]
            if what == "send" and call.rest and not call.over:
                caller.step(call)
            elif what == "acknowledge":
                caller.acknowledge(call, amount * 50)
            elif what == "ping":
                caller.http2.ping(amount.to_bytes(8, "big"))
            elif what == "window":
                caller.configure(SettingCodes.INITIAL_WINDOW_SIZE, amount * 100)
            elif what == "table":
                caller.configure(SettingCodes.HEADER_TABLE_SIZE, amount * 8)
            elif what == "frame":
                caller.configure(SettingCodes.MAX_FRAME_SIZE, 16384 + amount * 100)
            caller.exchange(wait=False)
        caller.configure(SettingCodes.INITIAL_WINDOW_SIZE, 1 << 20)
        caller.finish()

    for call in calls:
        assert call.gone or (call.status, bytes(call.received)) == (OK, call.body)
    wait_for(lambda: patient.transport._loop._held.bytes == 0, "what is left of messages to be forgotten")
    patient.check()
