"""What every RPC passes on its way in, in this order: who calls, is there room. Built once, shared by all handlers."""

from dataclasses import dataclass

from server.wire.admission import Admission
from server.wire.auth import Authenticator
from server.wire.limits import Limits
from server.wire.observer import BeginTrace, Observer


@dataclass(frozen=True, slots=True)
class Gate:
    """The bounds and watchers of one server's wire."""

    limits: Limits
    authenticator: Authenticator
    admission: Admission
    observer: Observer
    begin_trace: BeginTrace | None = None
    """None where no trace goes further than this process's log."""
